"""python -m eval.mmmu MODEL --data FOLDER --split validation [--subjects Art,Music] [--out DIR] [--score-only].

Asks the model in folder MODEL the questions of MMMU, downloaded to FOLDER, and prints its scores beside the published
ones. Replies are kept as they come: the same command goes on after a stop. DIR is by default `mmmu-SPLIT` beside a
folder called `model` (runs/stage3/model gives runs/stage3/mmmu-validation), and `MODEL-mmmu-SPLIT` otherwise.
`--score-only` scores the replies that DIR has; it needs neither the model nor torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eval.mmmu import report
from eval.mmmu.protocol import PROTOCOLS, YI
from eval.mmmu.report import Result
from eval.mmmu.subjects import SPLITS


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    out = options.out or default_out(options.model, options.split)
    subjects = None if options.subjects is None else [name.strip() for name in options.subjects.split(",")]
    try:
        if options.score_only:
            result = report.rescore(options.data, options.split, out, str(options.model), subjects)
        else:
            result = _evaluate(options, out, subjects)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{result.text}\nWritten to {result.folder}")


def default_out(model: Path, split: str) -> Path:
    """Where results go unless told: beside the model, under a name that no other model's results take."""
    model = model.resolve()
    return model.with_name(f"mmmu-{split}" if model.name == "model" else f"{model.name}-mmmu-{split}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.mmmu", description="MMMU scores of a model.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the hub's MMMU/MMMU, downloaded")
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--subjects", metavar="A,B", help="only these; all in FOLDER if not given")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where replies and results go")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default=YI.name, help="how questions are put")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions at a time (default 8)")
    parser.add_argument("--score-only", action="store_true", help="score the replies that DIR has")
    return parser


def _evaluate(options: argparse.Namespace, out: Path, subjects: list[str] | None) -> Result:
    # Scoring alone needs neither yivl nor torch, and runs where they are not installed.
    from eval.mmmu.run import evaluate_model  # noqa: PLC0415

    return evaluate_model(
        options.model,
        options.data,
        options.split,
        out,
        options.batch_size,
        subjects,
        protocol_name=options.protocol,
        progress=_progress(),
    )


def _progress() -> Callable[[int, int], None]:
    """Prints a line for the first batch, for the last, and every half minute between."""
    begun: tuple[float, int] | None = None
    last = 0.0

    def show(done: int, questions: int) -> None:
        nonlocal begun, last
        now = time.monotonic()
        if begun and done < questions and now - last < 30:
            return
        # Counted from the end of the first batch: before it the model was loaded.
        begun = begun or (now, done)
        last = now
        rate = (done - begun[1]) / (now - begun[0]) if now > begun[0] else 0.0
        pace = f", {rate:.2f}/s, {(questions - done) / rate / 60:.0f} min left" if rate else ""
        print(f"{done} of {questions} questions{pace}", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    main()
