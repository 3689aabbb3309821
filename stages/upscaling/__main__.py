"""Whether expanding a trained model pays, at desk size: some 20 minutes on two cores.

    python -m stages.upscaling [--before 1500000] [--added 1000000]

Trains a small language model, and expands it by the late block that Yi-9B repeats and by SOLAR's middle one. Then the
small model and both expansions are trained on with the same further tokens in the same order, and so is a new model of
the expansions' depth, until it has read as many tokens as they in all. Writes runs/upscaling/upscaling.json and
upscaling.svg. What is done is kept: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.prepare import prepare
from stages.quickstart.tokenizer import train_tokenizer
from stages.run_folder import RunFolder
from stages.stage import Stage
from stages.train import train
from stages.upscaling.corpus import write_corpus
from stages.upscaling.figure import draw
from yivl.assembly import ModelSource
from yivl.depth.expand import Original, expand
from yivl.depth.expansion import Expansion, solar
from yivl.settings import read

RUN = Path("runs/upscaling")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "upscaling"
SOURCES = ("english", "code")
_LATE = (12 / 32, 28 / 32)
"""The block that Yi-9B repeats, as shares of the depth (the Yi-9B blog)."""
_TOKENIZER_TEXTS = 4_000_000
"""Characters that the tokenizer is trained on."""

SMALL, SCRATCH = "small, before", "deep, from scratch"
"""Arms by name."""
Curve = Sequence[tuple[int, float]]
"""Tokens read, and the held-out loss then."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stages.upscaling", description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=int, default=1_500_000, help="tokens that the small model learns from first")
    parser.add_argument("--added", type=int, default=1_000_000, help="tokens of each arm after that")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    prepare_data()
    curves = compare(options.before, options.added)
    settings = {"before": options.before, "added": options.added}
    (RUN / "upscaling.json").write_text(json.dumps(settings | {"curves": curves}, indent=1) + "\n", encoding="utf-8")
    draw(curves, RUN / "upscaling.svg")
    print(table(curves))
    return 0


def prepare_data() -> None:
    """Writes the corpus, a tokenizer and rows below `RUN`."""
    raw, tokenizer = RUN / "raw", RUN / "tokenizer"
    write_corpus(raw)
    entry = read(Stage, CONFIGS / "stage.yaml")
    texts = [json.loads(line)["text"] for name in SOURCES for line in (raw / f"{name}.jsonl").open(encoding="utf-8")]
    every = max(1, sum(map(len, texts)) // _TOKENIZER_TEXTS)
    vocabulary = read(ModelSource, entry.model).config().text_config.vocab_size
    train_tokenizer((line for text in texts[::every] for line in text.splitlines()), tokenizer, vocabulary)
    for name in (*SOURCES, *(f"held_out_{name}" for name in SOURCES)):
        settings = {"tokenizer": str(tokenizer), "row": str(entry.max_length)}
        prepare("documents", raw / f"{name}.jsonl", RUN / "shards" / name, settings)


def compare(before: int, added: int) -> dict[str, Curve]:
    """The held-out loss of each arm by the tokens read since its first weights were made.

    Args:
        before: tokens of the small model before it is expanded.
        added: tokens of each arm after that.
    """
    small = arm("small", before, seed=0)
    original = Original(small / "model")
    depth = original.depth
    late = Expansion(depth, *(round(share * depth) for share in _LATE))
    curves = {SMALL: curve(small)}
    parted = curves[SMALL][-1][0]
    for name, expansion in (("Yi's block", late), ("SOLAR's block", solar(depth))):
        blocks = f"{expansion.start}-{expansion.end}"
        start = RUN / f"start-{blocks}"
        if not start.exists():
            expand(original, expansion, start, shard_bytes=2**30, told=lambda tensor: None)
        run = arm(f"expanded-{blocks}", added, seed=1, start=start, deep=True)
        curves[f"expanded by {name}, {expansion}"] = curve(run, parted)
    curves["small, trained on"] = curve(arm("small-on", added, seed=1, start=small / "model"), parted)
    curves[SCRATCH] = curve(arm("deep", before + added, seed=1, deep=True))
    return curves


def arm(name: str, tokens: int, *, seed: int, start: Path | None = None, deep: bool = False) -> Path:
    """Trains a model on so many tokens, in an order that `seed` gives; returns the run's folder."""
    folder = RUN / name
    stage = CONFIGS / "stage.yaml"
    mixture = RUN / f"mixture-{tokens}.yaml"
    mixture.write_text(f"catalogue: {CONFIGS / 'sources.yaml'}\ntokens: {tokens}\n"
                       f"sources: {{{', '.join(f'{one}: {{weight: 1}}' for one in SOURCES)}}}\n")  # fmt: skip
    overrides = [f"name={name}", f"run={folder}", f"seed={seed}", f"mixture={mixture.resolve()}"]
    overrides += [f"start_from={start}"] if start else []
    overrides += [f"model={CONFIGS / 'model-deep.yaml'}"] if deep else []
    train(read(Stage, stage, overrides))
    return folder


def curve(run: Path, before: int = 0) -> Curve:
    """The mean held-out loss of the sources, by the tokens read, `before` included."""
    folder = RunFolder(run)
    each = read(Stage, folder.path / "stage.yaml").batch_tokens
    lines = map(json.loads, folder.held_out.read_text(encoding="utf-8").splitlines())
    return [(before + line["step"] * each, _mean(line["losses"])) for line in lines]


def _mean(losses: Mapping[str, float]) -> float:
    return math.fsum(losses.values()) / len(losses)


def table(curves: Mapping[str, Curve]) -> str:
    """What each arm begins and ends at, and the new model when it has read as much as the others were given."""
    lines = [f"{'held-out loss':36} {'first':>8} {'last':>8} {'tokens':>12}"]
    for name, points in curves.items():
        lines.append(f"{name:36} {points[0][1]:>8.4f} {points[-1][1]:>8.4f} {points[-1][0]:>12,}")
    scratch = curves[SCRATCH]
    added = scratch[-1][0] - curves[SMALL][-1][0]
    tokens, loss = min(scratch, key=lambda point: abs(point[0] - added))
    lines.append(f"{f'{SCRATCH}, so far':36} {'':>8} {loss:>8.4f} {tokens:>12,}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
