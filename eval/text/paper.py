"""What the Yi technical report says of text benchmarks: tasks, shots and scores (arXiv 2403.04652, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a task, and what of it is shown."""

    title: str
    task: str
    """One of the harness's tasks or groups, or of ours (`eval.text.executed`)."""
    metric: str
    """As the harness names it, with its filter; the report does not say which it took, so this is the usual one."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report, or the like."""

    source: str
    """Of the rows; empty where there are none."""
    columns: tuple[Column, ...]
    tasks: Mapping[str, int | None]
    """What is run, with the number of examples before each question; None for the harness's own."""
    rows: Mapping[str, tuple[float | None, ...]]
    """By model, in percent."""


TABLE_8 = Table(
    source="Yi technical report, Table 8",
    columns=(
        Column("Arc-C", "arc_challenge", "acc_norm,none"),
        Column("HellaSwag", "hellaswag", "acc_norm,none"),
        Column("MMLU", "mmlu", "acc,none"),
        Column("Winogrande", "winogrande", "acc,none"),
        Column("GSM8K", "gsm8k", "exact_match,strict-match"),
        Column("MATH", "minerva_math", "exact_match,none"),
        Column("HumanEval", "humaneval", "pass@1"),
        Column("MBPP", "mbpp", "pass@1"),
    ),
    tasks={
        "arc_challenge": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "winogrande": 5,
        "gsm8k": 5,
        "minerva_math": 4,
        "humaneval": 0,
        "mbpp": 3,
    },
    rows={
        "Yi-6B": (50.3, 74.4, 63.2, 71.3, 32.5, 4.6, 15.9, 26.3),
        "Yi-9B Init": (52.1, 73.3, 63.0, 69.4, 31.3, 4.1, 12.8, 25.8),
        "Yi-9B": (55.6, 76.4, 68.4, 73.0, 52.3, 15.9, 39.0, 54.4),
    },
)

TABLE_6 = Table(
    source="Yi technical report, Table 6",
    columns=(
        Column("Average", "mmlu", "acc,none"),  # over questions: the published parts give it with their sizes
        Column("Humanity", "mmlu_humanities", "acc,none"),
        Column("STEM", "mmlu_stem", "acc,none"),
        Column("Social Science", "mmlu_social_sciences", "acc,none"),
        Column("Other", "mmlu_other", "acc,none"),
    ),
    tasks={"mmlu": TABLE_8.tasks["mmlu"]},
    rows={
        "Yi-6B 4K": (63.24, 59.10, 53.15, 73.83, 69.26),
        "Yi-6B 200K": (61.73, 56.17, 52.36, 72.54, 68.94),
        "Yi-34B 4K": (76.32, 73.17, 68.03, 85.11, 80.78),
        "Yi-34B 200K": (75.56, 72.20, 66.83, 84.76, 80.40),
    },
)


_SHOTS = {**TABLE_8.tasks, **dict.fromkeys((column.task for column in TABLE_6.columns), TABLE_8.tasks["mmlu"])}


def of_tasks(names: tuple[str, ...], shots: int | None) -> Table:
    """A table of any tasks; of those in Table 8 with its rows.

    Args:
        names: tasks or groups.
        shots: examples before each question; None for the report's number, or the harness's own where it has none.
    """
    known = {column.task: column for column in TABLE_8.columns}
    places = [[column.task for column in TABLE_8.columns].index(name) if name in known else None for name in names]
    rows = {
        model: tuple(None if place is None else row[place] for place in places) for model, row in TABLE_8.rows.items()
    }
    published = shots is None and any(name in known for name in names)
    return Table(
        source=TABLE_8.source if published else "",
        columns=tuple(known.get(name, Column(name, name, "")) for name in names),
        tasks={name: _SHOTS.get(name) if shots is None else shots for name in names},
        rows=rows if published else {},
    )
