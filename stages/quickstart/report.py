"""The quickstart's result as one page: accuracy, loss curves, where the time went, and answers beside their pictures.

The page is a single HTML file that loads nothing: styles, pictures and the script of its charts lie inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from stages.report import chart
from yivl import page

_TRAINED: Final = {
    "text": "the language model alone, on text",
    "stage1": "ViT and projector, low resolution",
    "stage2": "ViT and projector, high resolution",
    "stage3": "everything, high resolution",
}
_LANGUAGES: Final = {"en": "English", "zh": "中文"}
_STYLE: Final = """
:root { --heat: light-dark(#4f8fe6, #2f6cc4); --right: light-dark(#14713c, #6fd396);
  --wrong: light-dark(#b3261e, #ff9a90); }
.marks td { background: color-mix(in srgb, var(--heat) calc(var(--share, 0) * 32%), transparent); }
.bars th { white-space: normal; }
.bars td:last-child { width: 45%; }
.bar { display: block; width: calc(var(--share) * 100%); min-width: 1px; height: 10px; border-radius: 2px;
  background: var(--accent); }
.right { color: var(--right); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A held-out question as the page shows it."""

    picture: bytes
    """A JPEG file."""
    question: str
    answer: str
    """The model's."""
    truth: str
    language: str
    """"en" or "zh"."""
    correct: bool


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    examples: Sequence[Example],
) -> None:
    """Writes the page: `summary` as summary.json holds it, and the loss by step of each stage."""
    if not summary["accuracy"]:
        raise ValueError(f"{path}: the summary's `accuracy` names no stage; a report needs one at least")
    figures = "".join(_figure(name, points) for name, points in curves.items())
    cards = "".join(_card(number, example) for number, example in enumerate(examples, 1))
    mmmu = [(name, page.percent(value), value) for name, value in summary["mmmu"].items()]
    parts = [
        _headline(summary),
        page.section(
            "Accuracy",
            "Held-out questions answered right, after each stage and by kind of question. Chance is the best that one "
            "constant answer reaches; the stronger a cell's tint, the further it is above chance.",
            _accuracy(summary["accuracy"], summary["chance"]),
        ),
        page.section(
            "Loss",
            "Mean over the supervised tokens of each step: every step faint, a running mean over it.",
            f'<div class="curves">{figures}</div>',
        ),
        page.section(
            "Answers",
            "What the model says about held-out pictures after the last stage.",
            f'<div class="cards">{cards}</div>',
        ),
        page.section(
            "The MMMU evaluation",
            "Drawn questions in MMMU's format, run through the MMMU evaluation: this shows that the path works and "
            "does not compare with scores on MMMU itself.",
            _bars("Discipline", "Accuracy", mmmu),
        ),
        page.section("Where the time went", "", _phases(summary["seconds"])),
    ]
    page.write_page(path, "Yi-VL quickstart", parts, style=chart.STYLE + _STYLE, script=chart.SCRIPT)


def _headline(summary: Mapping[str, Any]) -> str:
    final = page.percent(list(summary["accuracy"].values())[-1]["all"])
    tiles = {
        "held-out accuracy": final,
        "by chance": page.percent(summary["chance"]["all"]),
        "in all": page.duration(summary["seconds"]["total"]),
        "peak memory": f"{summary['peak_gib']:.1f} GiB",
    }
    return (
        f"<h1>Yi-VL quickstart: {final} of held-out questions answered right</h1>\n"
        "<p>A desk-size Yi-VL, trained on a drawn bilingual world and asked about pictures whose combinations of "
        f"shape, colour, count and side were never trained on.</p>\n{page.tiles(tiles)}"
    )


def _accuracy(accuracy: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> str:
    rows = {"chance": chance, **accuracy}
    kinds = ["all", *dict.fromkeys(kind for marks in rows.values() for kind in marks if kind != "all")]
    body = [
        page.row(_title(name), "".join(_mark(marks.get(kind), chance.get(kind, 0.0)) for kind in kinds))
        for name, marks in rows.items()
    ]
    head = ["After", *map(_title, kinds)]
    return page.table("Accuracy by stage and kind of question", head, body, "figures marks")


def _mark(value: float | None, chance: float) -> str:
    if value is None:
        return "<td>–</td>"
    above = (value - chance) / (1 - chance) if value > chance else 0.0
    return f'<td style="--share:{above:.3f}">{page.percent(value)}</td>'


def _phases(seconds: Mapping[str, float]) -> str:
    phases = {name: value for name, value in seconds.items() if name != "total"}
    longest = max(phases.values(), default=0.0) or 1.0
    return _bars("Phase", "Time", [(name, page.duration(value), value / longest) for name, value in phases.items()])


def _bars(what: str, measure: str, rows: Sequence[tuple[str, str, float]]) -> str:
    bar = '<td>{}</td><td><span class="bar" style="--share:{:.3f}"></span></td>'
    body = [page.row(_title(name), bar.format(value, share)) for name, value, share in rows]
    return page.table(f"{measure} by {what.lower()}", [what, measure, ""], body, "bars")


def _card(number: int, example: Example) -> str:
    mark = '<span class="right">✓ right</span>' if example.correct else '<span class="wrong">✗ wrong</span>'
    language = _LANGUAGES.get(example.language, example.language)
    return page.card(
        page.picture(example.picture, f"Drawn picture {number}", 200),
        f'<span lang="{escape(example.language)}">{escape(language)}</span>{mark}',
        example.question,
        [("Model", example.answer), ("Truth", example.truth)],
        example.language,
    )


def _figure(name: str, points: Sequence[chart.Point]) -> str:
    return chart.curves(_title(name), _TRAINED.get(name, ""), "loss", chart.smoothed(points))


def _title(name: str) -> str:
    """A name from the summary as the page shows it: "stage1, examined" is "Stage 1, examined"."""
    words = re.sub(r"^stage(\d+)", r"stage \1", name.replace("_", " "))
    return words[:1].upper() + words[1:]
