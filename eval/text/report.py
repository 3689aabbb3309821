"""What the tasks came to, beside the report's rows.

OUT/result.json         how it was made and what came out, with standard errors
OUT/table.md            the model beside published rows
OUT/tasks/NAME.json     each of the harness's tasks as it was done
OUT/tasks/NAME/         each of ours: completions, verdicts, intervals, a page
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.predictions import write_json, write_text
from eval.results import RESULT, TABLE
from eval.tables import percent
from eval.text.paper import Column, Table
from eval.versions import versions
from yivl.tables import aligned

Scores = dict[str, dict[str, Any]]
"""By task or group: `metrics` (by name and filter: value and stderr, fractions), `questions`, `shots`, and of the
harness's tasks `version`, of ours `isolation`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a table's tasks."""

    folder: Path
    model: str
    model_revision: str
    data: str
    table: Table
    scores: Scores
    """Of its tasks, and of all that is in them."""

    def metric(self, column: Column) -> str:
        """The one that a column shows: where it names none, the task's first."""
        return column.metric or next(iter(self.scores[column.task]["metrics"]))

    @property
    def text(self) -> str:
        """The table and its notes, in Markdown."""
        table = self.table
        own = [self.scores[column.task]["metrics"][self.metric(column)] for column in table.columns]
        lines = [
            ["Model", *(column.title for column in table.columns)],
            [self.model, *(percent(one["value"]) for one in own)],
            ["± standard error", *("-" if one["stderr"] is None else percent(one["stderr"]) for one in own)],
            *([model, *("-" if one is None else f"{one:.1f}" for one in row)] for model, row in table.rows.items()),
        ]
        rows = f"- The other rows: {table.source}.\n" if table.source else ""
        return f"{aligned(lines)}\n{''.join(map(self._note, table.columns))}{rows}"

    def _note(self, column: Column) -> str:
        scores, metric = self.scores[column.task], self.metric(column).removesuffix(",none")
        shots = scores["shots"] if scores["shots"] is not None else self.table.tasks[column.task]
        return f"- {column.title}: `{column.task}`, {shots} shots, {metric}, {scores['questions']:,} questions.\n"


def write(result: Result) -> None:
    """Writes both files."""
    write_json(result.folder / RESULT, _record(result))
    write_text(result.folder / TABLE, result.text)


def _record(result: Result) -> dict[str, Any]:
    """`result.json`. Scores are fractions, not rounded."""
    return {
        "benchmark": "text benchmarks",
        "model": result.model,
        "model_revision": result.model_revision,
        "data": result.data,
        "tasks": dict(result.table.tasks),
        "metrics": {
            column.title: {"task": column.task, "metric": result.metric(column)} for column in result.table.columns
        },
        "scores": result.scores,
        "versions": versions("lm_eval", "torch", "transformers", "tokenizers", "datasets"),
    }
