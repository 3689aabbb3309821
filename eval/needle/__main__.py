"""python -m eval.needle MODEL [--haystack FOLDER] [--language en zh] [--lengths 4096 32768] [--depths 0 50 100]
                            [--samples N] [--needles N] [--form chat] [--device auto] [--out DIR]
torchrun --nproc-per-node 8 -m eval.needle MODEL ...        each process with the whole model, sharing the cells

Hides a number at each depth of texts of each length, asks MODEL for it, and prints how often it is recalled. MODEL is a
folder with any causal language model, or a vision-language model of ours. DIR/en and DIR/zh get a table, a CSV file and
a heatmap (`eval.needle.report`); DIR is by default `needle` beside a folder called `model`, and `MODEL-needle`
otherwise. Replies are kept as they come: the same command goes on after a stop, and one with more lengths, depths or
samples asks what is new.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import HANG_MINUTES, beside
from eval.needle.grid import DEPTHS, Grid
from eval.needle.haystack import built_in, from_folder
from eval.needle.languages import LANGUAGES
from eval.needle.model import FORMS, FolderReader
from eval.needle.run import measure
from eval.progress import progress
from eval.revision import of_folder
from yivl.ranks import joined

_SHORTEST = 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


def _run(options: argparse.Namespace) -> None:
    languages = [LANGUAGES[name] for name in options.language]
    haystacks = [from_folder(options.haystack, one) if options.haystack else built_in(one) for one in languages]
    out = options.out or beside(options.model, "needle")
    with joined(HANG_MINUTES) as ranks:
        reader = FolderReader(options.model, form=options.form, device=options.device or str(ranks.device))
        grid = Grid(
            lengths=tuple(options.lengths or doubling(reader.limit)),
            depths=tuple(options.depths),
            samples=options.samples,
            needles=options.needles,
            seed=options.seed,
        )
        revision = of_folder(options.model, without=out)
        for haystack in haystacks:
            result = measure(
                reader,
                haystack,
                grid,
                out / haystack.language.name,
                model_name=str(options.model),
                model_revision=revision,
                ranks=ranks,
                progress=progress(),
            )
            if ranks.first:
                print(f"{result.text}\nWritten to {out / haystack.language.name}\n")


def doubling(limit: int | None) -> list[int]:
    """Lengths from 1024 on, each twice the last, and what the model reads at most.

    Raises:
        ValueError: it names no limit.
    """
    if limit is None:
        raise ValueError("the model's configuration has no max_position_embeddings; say --lengths")
    lengths = []
    length = _SHORTEST
    while length < limit:
        lengths.append(length)
        length *= 2
    return [*lengths, limit]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.needle", description="Recall of a number in a long text.")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder of the model")
    add(
        "--haystack",
        type=Path,
        metavar="FOLDER",
        help=".txt files to hide needles in; FOLDER/en and FOLDER/zh where there are",
    )
    add("--language", nargs="+", choices=tuple(LANGUAGES), default=list(LANGUAGES), help="by default both")
    add("--lengths", type=int, nargs="+", metavar="N", help="in the model's tokens; by default doubling from 1024 on")
    add("--depths", type=float, nargs="+", metavar="P", default=DEPTHS, help="in percent; by default 0, 10, ..., 100")
    add("--samples", type=int, default=1, metavar="N", help="questions to each length and depth (default 1)")
    add("--needles", type=int, default=1, metavar="N", help="in a haystack, of which one is asked for (default 1)")
    add("--seed", type=int, default=0, metavar="N", help="of keys, numbers and places (default 0)")
    add("--form", choices=FORMS, help="by default chat where the model has a prompt for it")
    add("--device", metavar="D", help="such as cuda:1; auto spreads a large model over all GPUs")
    add("--out", type=Path, metavar="DIR", help="where replies and results go")
    return parser


if __name__ == "__main__":
    main()
