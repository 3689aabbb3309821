"""The quickstart's result as one page: accuracy, loss curves, where the time went, and answers beside their pictures.

The page is a single HTML file that loads nothing: styles and pictures lie inside it, and it runs no script.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

_TRAINED: Final = {
    "text": "the language model alone, on text",
    "stage1": "ViT and projector, low resolution",
    "stage2": "ViT and projector, high resolution",
    "stage3": "everything, high resolution",
}
_LANGUAGES: Final = {"en": "English", "zh": "中文"}
_WIDTH, _HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 292, 20, 158
"""A chart and the frame of its curve, in SVG units."""

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f27; --soft: #596273; --line: #dde1e8;
  --accent: #1f5fbf; --heat: #4f8fe6; --right: #14713c; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #12151a; --card: #1b1f27; --ink: #e8ebf0; --soft: #a3adbd;
  --line: #343b47; --accent: #86b6ff; --heat: #2f6cc4; --right: #6fd396; --wrong: #ff9a90; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
:lang(zh) { font-family: system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 16px 64px; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.25; letter-spacing: -.01em; text-wrap: balance; }
h2 { margin: 44px 0 4px; font-size: 1.2rem; }
p { max-width: 46rem; margin: 0 0 14px; color: var(--soft); }
h1 + p { margin: 8px 0 24px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }
tr:first-child > * { border-top: 0; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 500; }
tbody th { font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--card); text-align: left; }
td.heat { background: color-mix(in srgb, var(--heat) calc(var(--share) * 32%), transparent); }
tr.final > * { font-weight: 650; }
.box, figure, article, .tiles > div { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.box { overflow-x: auto; }
.bars th { white-space: normal; }
.bars td:last-child { width: 45%; }
.bar { display: block; width: calc(var(--share) * 100%); min-width: 1px; height: 10px; border-radius: 2px;
  background: var(--accent); }
.tiles, .curves, .cards { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 0; }
.tiles > div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 14px 18px; }
.tiles dd { margin: 0; font-size: 1.75rem; font-weight: 650; line-height: 1.2; }
.tiles dt, dt, figcaption span { color: var(--soft); font-size: .875rem; }
.curves { grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
figure { padding: 12px 12px 6px; }
figcaption { font-weight: 600; line-height: 1.35; }
figcaption span { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg line { stroke: var(--line); }
polyline { fill: none; stroke: var(--accent); stroke-linejoin: round; }
.raw { stroke-width: 1; opacity: .3; }
.smooth { stroke-width: 2; }
.cards { grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); }
article { display: flex; flex-direction: column; padding: 16px; overflow-wrap: anywhere; }
article img { width: 200px; height: 200px; margin: 0 auto 12px; border-radius: 6px; object-fit: contain; }
article p { flex: 1; color: var(--ink); white-space: pre-line; }
article dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; padding-top: 10px;
  border-top: 1px solid var(--line); align-items: baseline; }
article dd { margin: 0; font-weight: 600; }
.mark { display: flex; justify-content: space-between; margin-bottom: 6px; color: var(--soft); font-size: .875rem; }
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
        raise ValueError("summary: `accuracy` names no stage; it needs one at least")
    figures = "".join(_curve(name, points) for name, points in curves.items())
    cards = "".join(_card(number, example) for number, example in enumerate(examples, 1))
    parts = [
        _headline(summary),
        _section("Accuracy", _ABOUT_ACCURACY, _accuracy(summary["accuracy"], summary["chance"])),
        _section("Loss", _ABOUT_LOSS, f'<div class="curves">{figures}</div>'),
        _section("Answers", _ABOUT_ANSWERS, f'<div class="cards">{cards}</div>'),
        _section("The MMMU evaluation", _ABOUT_MMMU, _disciplines(summary["mmmu"])),
        _section("Where the time went", "", _phases(summary["seconds"])),
    ]
    path.write_text(_PAGE.format(style=_STYLE, body="\n".join(parts)), encoding="utf-8")


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Yi-VL quickstart</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_ABOUT_ACCURACY: Final = (
    "The share of held-out questions answered right, after each stage and by kind of question. "
    "Chance is the best that one constant answer reaches; the darker a cell, the further above it."
)
_ABOUT_LOSS: Final = "Mean over the supervised tokens of each step: every step faint, a running mean over it."
_ABOUT_ANSWERS: Final = "What the model says after the last stage about pictures it was not trained on."
_ABOUT_MMMU: Final = (
    "Drawn questions in MMMU's format, run through the MMMU evaluation: it shows that the path works "
    "and does not compare with scores on MMMU itself."
)


def _headline(summary: Mapping[str, Any]) -> str:
    final = list(summary["accuracy"].values())[-1]["all"]
    tiles = {
        "held-out accuracy": _percent(final),
        "by chance": _percent(summary["chance"]["all"]),
        "in all": _duration(summary["seconds"]["total"]),
        "peak memory": f"{summary['peak_gib']:.1f} GiB",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    return (
        f"<h1>Yi-VL quickstart: {_percent(final)} of held-out questions answered right</h1>\n"
        "<p>A desk-size Yi-VL, trained on a drawn bilingual world and asked about pictures whose pairs of shape and "
        f'colour no training picture shows.</p>\n<dl class="tiles">{shown}</dl>'
    )


def _section(title: str, about: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n<p>{about}</p>\n{body}\n</section>"


def _box(label: str, table: str) -> str:
    return f'<div class="box" role="region" aria-label="{label}" tabindex="0"><table{table}</table></div>'


def _accuracy(accuracy: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> str:
    kinds = ["all", *dict.fromkeys(kind for row in (*accuracy.values(), chance) for kind in row if kind != "all")]
    head = "".join(f'<th scope="col">{escape(_title(kind))}</th>' for kind in kinds)
    rows = []
    for number, (name, marks) in enumerate([("chance", chance), *accuracy.items()]):
        cells = "".join(_cell(marks.get(kind), chance.get(kind, 0.0)) for kind in kinds)
        final = ' class="final"' if number == len(accuracy) else ""
        rows.append(f'<tr{final}><th scope="row">{escape(_title(name))}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">After</th>{head}</tr></thead>'
    return _box("Accuracy by stage and kind", f">{head}<tbody>{''.join(rows)}</tbody>")


def _cell(value: float | None, chance: float) -> str:
    if value is None:
        return "<td>–</td>"
    above = min(max((value - chance) / (1 - chance), 0.0), 1.0) if chance < 1 else 0.0
    return f'<td class="heat" style="--share:{above:.3f}">{_percent(value)}</td>'


def _disciplines(mmmu: Mapping[str, float]) -> str:
    bars = [(name.replace("_", " "), _percent(value), value) for name, value in mmmu.items()]
    return _bars("Discipline", "Accuracy", bars)


def _phases(seconds: Mapping[str, float]) -> str:
    phases = {name: value for name, value in seconds.items() if name != "total"}
    longest = max(phases.values(), default=0.0) or 1.0
    bars = [(_title(name), _duration(value), value / longest) for name, value in phases.items()]
    return _bars("Phase", "Time", bars)


def _bars(what: str, measure: str, rows: Sequence[tuple[str, str, float]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{value}</td>'
        f'<td><span class="bar" style="--share:{share:.3f}"></span></td></tr>'
        for name, value, share in rows
    )
    head = f'<thead><tr><th scope="col">{what}</th><th scope="col">{measure}</th><td></td></tr></thead>'
    return _box(f"{measure} by {what.lower()}", f' class="bars">{head}<tbody>{body}</tbody>')


def _card(number: int, example: Example) -> str:
    data = base64.b64encode(example.picture).decode("ascii")
    code = escape(example.language)
    mark = '<span class="right">✓ right</span>' if example.correct else '<span class="wrong">✗ wrong</span>'
    return (
        f'<article><img src="data:image/jpeg;base64,{data}" alt="Drawn picture of question {number}">'
        f'<div class="mark"><span lang="{code}">{_LANGUAGES.get(example.language, code)}</span>{mark}</div>'
        f'<p lang="{code}">{escape(example.question)}</p>'
        f'<dl><dt>Model</dt><dd lang="{code}">{escape(example.answer) or "–"}</dd>'
        f'<dt>Truth</dt><dd lang="{code}">{escape(example.truth)}</dd></dl></article>\n'
    )


def _curve(name: str, points: Sequence[tuple[int, float]]) -> str:
    caption = f"{escape(_title(name))}<span>{_TRAINED.get(name, '')}</span>"
    points = [(step, loss) for step, loss in points if math.isfinite(loss)]
    if not points:
        return f"<figure><figcaption>{caption}</figcaption><p>No steps recorded.</p></figure>"
    steps, losses = zip(*points, strict=True)
    means = _running_mean(losses)
    x, y = _linear(steps[0], steps[-1]), _vertical(losses)
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_y(y, tick):.1f}" y2="{_y(y, tick):.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{_y(y, tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y.ticks
    )
    grid += "".join(
        f'<line x1="{_x(x, tick):.1f}" x2="{_x(x, tick):.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>'
        f'<text x="{_x(x, tick):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in x.ticks
    )
    lines = "".join(
        f'<polyline class="{kind}" points="'
        + " ".join(f"{_x(x, step):.1f},{_y(y, loss):.1f}" for step, loss in zip(steps, values, strict=True))
        + '"/>'
        for kind, values in (("raw", losses), ("smooth", means))
    )
    key = re.sub(r"\W", "-", name)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(_title(name))}: loss by step</title>'
        f'<desc id="{key}-desc">From {means[0]:.3g} at step {steps[0]} to {means[-1]:.3g} at step {steps[-1]}, '
        f"as a running mean.</desc>"
    )
