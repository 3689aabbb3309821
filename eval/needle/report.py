"""What a grid's replies come to.

OUT/result.json     how it was made and what came out
OUT/answers.jsonl   every question: length, depth, key, value, reply, recall
OUT/recall.csv      recall by depth (rows) and length (columns)
OUT/table.md        the same by length, with means
OUT/heatmap.png     the same as a picture, where matplotlib is installed
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.needle.grid import Cell, Grid
from eval.needle.languages import LANGUAGES
from eval.needle.prompt import Needle
from eval.predictions import Run, write_bytes, write_json, write_text
from eval.results import RESULT, TABLE
from eval.tables import percent
from eval.versions import versions
from yivl.tables import aligned

TITLE = "Needle in a haystack"
ENOUGH = 0.856
"""Mean recall that a length must reach to be effective: Llama-2-7B's at 4K on RULER (NVIDIA/RULER, README.md)."""
ANSWERS, CSV, HEATMAP = "answers.jsonl", "recall.csv", "heatmap.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a question."""

    cell: Cell
    needle: Needle
    """The one asked for."""
    reply: str
    recall: float
    """1 where the reply has the needle's value, else 0."""


def recall(reply: str, value: str) -> float:
    """1 where `value` stands in the reply, not as a part of a longer number; else 0."""
    return float(re.search(rf"(?<!\d){value}(?!\d)", reply) is not None)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of a grid in one language."""

    run: Run
    grid: Grid
    answers: tuple[Answer, ...]
    """One to a cell, in the grid's order."""

    @cached_property
    def by_place(self) -> dict[tuple[int, float], float]:
        """Mean recall by length and depth."""
        found: dict[tuple[int, float], list[float]] = {}
        for answer in self.answers:
            found.setdefault((answer.cell.length, answer.cell.depth), []).append(answer.recall)
        return {place: fmean(values) for place, values in found.items()}

    @cached_property
    def by_length(self) -> dict[int, float]:
        """Mean recall by length."""
        return {length: fmean(self.row(length)) for length in self.grid.lengths}

    @property
    def mean(self) -> float:
        """Mean recall of all."""
        return fmean(self.by_length.values())

    @property
    def effective_length(self) -> int | None:
        """The longest length up to which none has a mean recall below `ENOUGH`; None where the first one has."""
        *_, last = None, *takewhile(lambda length: self.by_length[length] >= ENOUGH, self.grid.lengths)
        return last

    def row(self, length: int) -> list[float]:
        """Mean recall at each depth of one length."""
        return [self.by_place[length, depth] for depth in self.grid.depths]

    @property
    def title(self) -> str:
        """For readers."""
        return f"{TITLE}, {LANGUAGES[self.run.split].title}: {self.run.model}"

    @property
    def text(self) -> str:
        """The table and what it comes to, in Markdown."""
        head = ["Tokens", "Mean", *(f"{depth:g} %" for depth in self.grid.depths)]
        lines = [
            [f"{length:,}", *map(percent, [self.by_length[length], *self.row(length)])] for length in self.grid.lengths
        ]
        reached = "none of these" if self.effective_length is None else f"{self.effective_length:,} tokens"
        return (
            f"{self.title}\n\n{aligned([head, *lines])}\n"
            f"- Recall by length and by depth in percent; mean {percent(self.mean)}.\n"
            f"- Effective length: {reached} (mean recall of at least {percent(ENOUGH)} up to there).\n"
            f"- Form `{self.run.protocol}`, {_count(self.grid.needles, 'needle')} in a haystack, "
            f"{_count(self.grid.samples, 'question')} to a cell, seed {self.grid.seed}; haystack: {self.run.data}.\n"
        )


def write(result: Result, out: Path) -> None:
    """Writes all files; each whole or not at all."""
    write_text(out / ANSWERS, "".join(f"{_line(answer)}\n" for answer in result.answers))
    write_text(out / CSV, _csv(result))
    write_text(out / TABLE, result.text)
    write_json(out / RESULT, _record(result))
    try:
        # A grid can be asked and scored without the package; its table says the same.
        from eval.needle import heatmap  # noqa: PLC0415
    except ModuleNotFoundError:
        (out / HEATMAP).unlink(missing_ok=True)
    else:
        write_bytes(out / HEATMAP, heatmap.png(result))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _line(answer: Answer) -> str:
    return json.dumps(
        {
            "id": answer.cell.id,
            "length": answer.cell.length,
            "depth": answer.cell.depth,
            "sample": answer.cell.sample,
            "key": answer.needle.key,
            "value": answer.needle.value,
            "reply": answer.reply,
            "recall": answer.recall,
        },
        ensure_ascii=False,
    )


def _csv(result: Result) -> str:
    file = io.StringIO()
    lines: Iterable[list[float]] = (
        [depth, *(result.by_place[length, depth] for length in result.grid.lengths)] for depth in result.grid.depths
    )
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["depth", *result.grid.lengths])
    writer.writerows(lines)
    return file.getvalue()


def _record(result: Result) -> dict[str, Any]:
    run, grid = result.run, result.grid
    return {
        "benchmark": run.benchmark,
        "language": run.split,
        "form": run.protocol,
        "model": run.model,
        "model_revision": run.model_revision,
        "haystack": {"path": run.data, "revision": run.data_revision},
        "decoding": {"do_sample": False, "num_beams": 1, "max_new_tokens": run.max_new_tokens},
        "grid": {
            "lengths": grid.lengths,
            "depths": grid.depths,
            "samples": grid.samples,
            "needles": grid.needles,
            "seed": grid.seed,
        },
        "recall": {
            "mean": result.mean,
            "by_length": result.by_length,
            "by_length_and_depth": {length: result.row(length) for length in grid.lengths},
        },
        "effective_length": {"tokens": result.effective_length, "threshold": ENOUGH},
        "versions": versions("torch", "transformers", "tokenizers"),
    }
