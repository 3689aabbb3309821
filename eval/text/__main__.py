"""python -m eval.text MODEL --data FOLDER --table8 --allow-code        Table 8 of the Yi technical report
python -m eval.text MODEL --data FOLDER --table6                     MMLU by category
python -m eval.text MODEL --data FOLDER --tasks arc_challenge,gsm8k  any tasks or groups of the harness
python -m eval.text MODEL --data FOLDER --tasks humaneval,mbpp --allow-code

Asks at the shots of the Yi technical report's tables, and prints the figures beside theirs. MODEL is a folder with any
causal language model, or a vision-language model of ours, whose language part is asked. FOLDER holds the hub's
repositories (`eval.text.local`). HumanEval and MBPP (`humaneval`, `mbpp`, `mbpp_sanitized`) run the programs that the
model writes, in `eval.programs.sandbox`, once --allow-code allows it; the other tasks run through EleutherAI's
lm-evaluation-harness (pip install 'yivl[harness]'). What is done is kept: the same command goes on after a stop. DIR is
by default `text-table8` (or `text-table6`, `text`) beside a folder called `model`, and `MODEL-text-table8` otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import beside
from eval.programs.sandbox import Sandbox
from eval.text.paper import TABLE_6, TABLE_8, Table, of_tasks
from eval.text.run import evaluate

_ISOLATED, _UNISOLATED = "isolated", "unisolated"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    name, table = _table(options)
    out = options.out or beside(options.model, name)
    try:
        result = evaluate(
            options.model,
            options.data,
            table,
            out,
            batch_size=options.batch_size,
            device=options.device,
            sandbox=Sandbox(unisolated=options.allow_code == _UNISOLATED) if options.allow_code else None,
        )
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; these tasks run through lm-eval: pip install 'yivl[harness]'")
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
    what.add_argument("--table8", action="store_true", help="the tasks of the report's Table 8")
    what.add_argument("--table6", action="store_true", help="MMLU by category, as in Table 6")
    what.add_argument("--tasks", metavar="A,B", help="these tasks")
    parser.add_argument("--shots", type=int, metavar="N", help="with --tasks; by default as in the report")
    parser.add_argument(
        "--allow-code",
        nargs="?",
        const=_ISOLATED,
        choices=(_ISOLATED, _UNISOLATED),
        help="run the programs that the model writes; unisolated: also where nothing keeps them from the network",
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="questions at a time (default 1)")
    parser.add_argument("--device", metavar="D", help="such as cuda:1; auto spreads a large model over all GPUs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go")
    return parser


if __name__ == "__main__":
    main()
