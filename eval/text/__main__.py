"""python -m eval.text MODEL --data FOLDER --table8                     ARC-C, HellaSwag, MMLU, Winogrande, GSM8K, MATH
python -m eval.text MODEL --data FOLDER --table6                     MMLU by category
python -m eval.text MODEL --data FOLDER --tasks arc_challenge,gsm8k  any tasks or groups of the harness

Runs EleutherAI's lm-evaluation-harness (pip install 'yivl[harness]') on local files, at the shots of the Yi technical
report's tables, and prints its figures beside theirs. MODEL is a folder with any causal language model, or a
vision-language model of ours, whose language part is asked. FOLDER holds the hub's repositories (`eval.text.local`).
What is done is kept: the same command goes on with the next task after a stop. DIR is by default `text-table8` (or
`text-table6`, `text`) beside a folder called `model`, and `MODEL-text-table8` otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import beside
from eval.text.paper import TABLE_6, TABLE_8, Table, of_tasks


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    try:
        # The harness is an extra of its own, and heavy.
        from eval.text.run import evaluate  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; text benchmarks run through lm-eval: pip install 'yivl[harness]'")
    name, table = _table(options)
    out = options.out or beside(options.model, name)
    try:
        result = evaluate(options.model, options.data, table, out, batch_size=options.batch_size, device=options.device)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{result.text}\nWritten to {result.folder}")


def _table(options: argparse.Namespace) -> tuple[str, Table]:
    """What is run, and what its results are called."""
    if options.table8:
        return "text-table8", TABLE_8
    if options.table6:
        return "text-table6", TABLE_6
    return "text", of_tasks(tuple(name.strip() for name in options.tasks.split(",")), options.shots)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.text", description="Scores of a language model.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the hub's files, downloaded")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table8", action="store_true", help="the tasks of the report's Table 8, without code")
    what.add_argument("--table6", action="store_true", help="MMLU by category, as in Table 6")
    what.add_argument("--tasks", metavar="A,B", help="these tasks or groups of the harness")
    parser.add_argument("--shots", type=int, metavar="N", help="with --tasks; by default as in the report")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="questions at a time (default 1)")
    parser.add_argument("--device", metavar="D", help="such as cuda:1; auto spreads a large model over all GPUs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go")
    return parser


if __name__ == "__main__":
    main()
