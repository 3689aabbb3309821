"""The model's scores beside published ones, as tables."""

from __future__ import annotations

from eval.benchmark import Benchmark
from eval.scores import Scores

_COLUMNS = 12
"""Of a table without published rows: a level with more groups is left to the page."""


def percent(value: float) -> str:
    """0.3784 is 37.8: rounded to three decimals as official scripts do, so to one in percent."""
    return f"{100 * round(value, 3):.1f}"


def columns(benchmark: Benchmark, found: Scores) -> list[str]:
    """Names of groups for a table's columns: those of the published rows, or of the levels with few groups."""
    if published := benchmark.published:
        return list(published.columns)
    levels = next(iter(found.values()))
    return [name for groups in levels.values() if len(groups) <= _COLUMNS for name in groups]


def rows(benchmark: Benchmark, model: str, found: Scores) -> list[list[str]]:
    """A table's cells in percent: the model by each metric, then the published rows; a dash for a group without
    questions."""
    names = columns(benchmark, found)
    table = []
    for number, (metric, levels) in enumerate(found.items()):
        groups = {name: group for level in levels.values() for name, group in level.items()}
        cells = [percent(groups[name].value) if name in groups else "-" for name in names]
        table.append([model if not number else f"{model} ({metric})", *cells])
    if published := benchmark.published:
        table += [
            [other, *("-" if value is None else f"{value:.1f}" for value in values)]
            for other, values in published.rows.items()
        ]
    return table


def markdown(benchmark: Benchmark, model: str, found: Scores) -> str:
    """`rows` in Markdown."""
    # not at the top: it brings torch along, which knowing a benchmark must not need
    from yivl.tables import aligned  # noqa: PLC0415

    return aligned([["Model", *columns(benchmark, found)], *rows(benchmark, model, found)])
