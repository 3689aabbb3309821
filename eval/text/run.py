"""Asks a language model text benchmarks: the harness's tasks (`eval.text.harness`) and ours (`eval.text.executed`).

    result = evaluate(Path("Yi-6B"), Path("text-data"), TABLE_8, Path("Yi-6B-text"), sandbox=Sandbox())

What is done is kept: after a stop the same call goes on. Of a vision-language model the language part alone is asked,
as the plain language model is.
"""

from __future__ import annotations

from pathlib import Path

from eval.programs.sandbox import Sandbox
from eval.text import executed, report
from eval.text.model import Model
from eval.text.paper import Table
from eval.text.report import Result, Scores


def evaluate(
    folder: Path,
    data: Path,
    table: Table,
    out: Path,
    *,
    batch_size: int = 1,
    device: str | None = None,
    sandbox: Sandbox | None = None,
) -> Result:
    """Asks of a table's tasks what `out` does not have yet, and writes its result there.

    Args:
        folder: see `yivl.language_model.load`.
        data: see `eval.text.local` and the benchmarks in `eval.programs`.
        table: what is asked.
        out: where results go.
        batch_size: questions at a time; with another one, sums are rounded otherwise and close calls can fall
            differently.
        device: see `yivl.language_model.load`.
        sandbox: runs the programs that the model writes; None where no task asks for programs.

    Raises:
        FileNotFoundError: the model or a file of the data is missing.
        BadData: a file of the data is not as it should be.
        ModuleNotFoundError: lm-eval is not installed and a task is one of its own.
        ValueError: an unknown task, one whose packages are missing, one that needs a sandbox, or `out` has results of
            another model or data.
    """
    model = Model(folder, out, device)
    ours = executed.benchmarks(table.tasks, data, sandbox)
    theirs = {name: shots for name, shots in table.tasks.items() if name not in ours}
    if theirs:
        # An extra of its own, and heavy: without it, tasks of ours can be asked.
        from eval.text.harness import Harness  # noqa: PLC0415

        harness = Harness(theirs, data)
    found: Scores = {}
    for name in table.tasks:
        found |= (
            executed.scores(name, ours[name], model, out, batch_size)
            if name in ours
            else harness.scores(name, model, out, batch_size)
        )
    result = Result(
        folder=out, model=str(folder), model_revision=model.revision, data=str(data), table=table, scores=found
    )
    report.write(result)
    return result
