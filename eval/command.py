"""The command line that every benchmark has:

    python -m eval.mmmu MODEL --data FOLDER [--split validation] [--protocol yi] [--out DIR] [--score-only]
    torchrun --nproc-per-node 8 -m eval.mmmu MODEL --data FOLDER
    python -m eval                                                   which benchmarks there are

Replies are kept as they come: the same command goes on after a stop. DIR is by default `mmmu-validation` beside a
folder called `model` (runs/stage3/model gives runs/stage3/mmmu-validation), and `MODEL-mmmu-validation` otherwise; a
protocol that is not the benchmark's first one is part of the name. `--score-only` scores the replies that DIR has; it
needs neither the model nor torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import registry
from eval.benchmark import Benchmark, Choices
from eval.progress import progress
from eval.results import Result, rescore


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs the command line of the benchmark in module `eval.NAME`."""
    kind = registry.find(name)
    options = _parser(name, kind).parse_args(arguments)
    subjects = None if options.subjects is None else tuple(part.strip() for part in options.subjects.split(","))
    choices = Choices(split=options.split, protocol=options.protocol, subjects=subjects, fallback=options.fallback)
    try:
        benchmark = kind(options.data, choices)
        out = options.out or default_out(options.model, name, benchmark)
        result = _score(benchmark, out) if options.score_only else _evaluate(options, benchmark, out)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") == "0":
        print(f"{result.text}\nWritten to {result.folder}")


def default_out(model: Path, name: str, benchmark: Benchmark) -> Path:
    """Where results go unless told: beside the model, under a name that no other model's results take."""
    protocol = "" if benchmark.protocol == benchmark.protocols[0] else f"-{benchmark.protocol}"
    return beside(model, f"{name}-{benchmark.split}{protocol}".replace(" ", "-"))


def beside(model: Path, name: str) -> Path:
    """`name` next to a folder called `model`, `MODEL-name` next to any other."""
    model = model.resolve()
    return model.with_name(name if model.name == "model" else f"{model.name}-{name}")


def _parser(name: str, kind: type[Benchmark]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m eval.{name}", description=f"{kind.title} scores of a model.", epilog=f"data: {kind.layout}"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="the benchmark's files (see below)")
    parser.add_argument("--split", choices=kind.splits, help=f"by default {kind.splits[0]}")
    parser.add_argument("--protocol", choices=kind.protocols, help=f"by default {kind.protocols[0]}")
    parser.add_argument("--fallback", choices=kind.fallbacks or None, help="what becomes of a reply without a choice")
    parser.add_argument("--subjects", metavar="A,B", help="only these")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where replies and results go")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="questions at a time (default 8)")
    parser.add_argument("--score-only", action="store_true", help="score the replies that DIR has")
    return parser


def _score(benchmark: Benchmark, out: Path) -> Result:
    from eval import page  # noqa: PLC0415 (what it draws with takes seconds to import where torch is installed)

    result = rescore(benchmark, out)
    page.write(benchmark, result)
    return result


def _evaluate(options: argparse.Namespace, benchmark: Benchmark, out: Path) -> Result:
    # Scoring alone needs no torch, and runs where it is not installed.
    from eval.runner import evaluate_model  # noqa: PLC0415
    from yivl.ranks import joined  # noqa: PLC0415

    with joined(HANG_MINUTES) as ranks:
        return evaluate_model(
            options.model, benchmark, out, batch_size=options.batch_size, ranks=ranks, progress=progress()
        )


HANG_MINUTES = 120.0
"""For which a process waits for the others: they end at different times, and the first draws the page."""
