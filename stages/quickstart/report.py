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
from typing import Any, Final, NamedTuple

_TRAINED: Final = {
    "text": "the language model alone, on text",
    "stage1": "ViT and projector, low resolution",
    "stage2": "ViT and projector, high resolution",
    "stage3": "everything, high resolution",
}
_LANGUAGES: Final = {"en": "English", "zh": "中文"}
_WIDTH, _HEIGHT = 260, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 246, 22, 160
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
p { max-width: 46rem; margin: 0 0 14px; color: var(--soft); text-wrap: pretty; }
h1 + p { margin: 8px 0 24px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead > tr > * { border-top: 0; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 500; }
tbody th { font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--card); text-align: left; }
.marks td { background: color-mix(in srgb, var(--heat) calc(var(--share, 0) * 32%), transparent); }
.marks tbody tr:last-child > * { font-weight: 650; }
.box, figure, article, .tiles > div { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.box { overflow-x: auto; }
.bars th { white-space: normal; }
.bars td:last-child { width: 45%; }
.bar { display: block; width: calc(var(--share) * 100%); min-width: 1px; height: 10px; border-radius: 2px;
  background: var(--accent); }
.tiles, .curves, .cards { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 0; }
.tiles > div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 14px; }
.tiles dd { margin: 0; font-size: clamp(1.3rem, 4vw, 1.75rem); font-weight: 650; line-height: 1.2; }
.tiles dt, dt, figcaption span { color: var(--soft); font-size: .875rem; }
.curves { grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
figure { padding: 12px 12px 6px; }
figcaption { font-weight: 600; line-height: 1.35; }
figcaption span { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; margin-top: 8px; }
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
        raise ValueError(f"{path}: the summary's `accuracy` names no stage; a report needs one at least")
    figures = "".join(_figure(name, points) for name, points in curves.items())
    cards = "".join(_card(number, example) for number, example in enumerate(examples, 1))
    parts = [
        _headline(summary),
        "<h2>Accuracy</h2><p>Held-out questions answered right, after each stage and by kind of question. Chance is "
        "the best that one constant answer reaches; the stronger a cell's tint, the further it is above chance.</p>",
        _accuracy(summary["accuracy"], summary["chance"]),
        "<h2>Loss</h2><p>Mean over the supervised tokens of each step: every step faint, a running mean over it.</p>",
        f'<div class="curves">{figures}</div>',
        "<h2>Answers</h2><p>What the model says about held-out pictures after the last stage.</p>",
        f'<div class="cards">{cards}</div>',
        "<h2>The MMMU evaluation</h2><p>Drawn questions in MMMU's format, run through the MMMU evaluation: this shows "
        "that the path works and does not compare with scores on MMMU itself.</p>",
        _bars("Discipline", "Accuracy", [(name, _percent(value), value) for name, value in summary["mmmu"].items()]),
        "<h2>Where the time went</h2>",
        _phases(summary["seconds"]),
    ]
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Yi-VL quickstart</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _headline(summary: Mapping[str, Any]) -> str:
    final = _percent(list(summary["accuracy"].values())[-1]["all"])
    tiles = {
        "held-out accuracy": final,
        "by chance": _percent(summary["chance"]["all"]),
        "in all": _duration(summary["seconds"]["total"]),
        "peak memory": f"{summary['peak_gib']:.1f} GiB",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    return (
        f"<h1>Yi-VL quickstart: {final} of held-out questions answered right</h1>\n"
        "<p>A desk-size Yi-VL, trained on a drawn bilingual world and asked about pictures whose combinations of "
        f'shape, colour, count and side were never trained on.</p>\n<dl class="tiles">{shown}</dl>'
    )


def _accuracy(accuracy: Mapping[str, Mapping[str, float]], chance: Mapping[str, float]) -> str:
    rows = {"chance": chance, **accuracy}
    kinds = ["all", *dict.fromkeys(kind for marks in rows.values() for kind in marks if kind != "all")]
    body = [
        _row(name, "".join(_mark(marks.get(kind), chance.get(kind, 0.0)) for kind in kinds))
        for name, marks in rows.items()
    ]
    return _table("marks", "Accuracy by stage and kind of question", ["After", *kinds], body)


def _mark(value: float | None, chance: float) -> str:
    if value is None:
        return "<td>–</td>"
    above = (value - chance) / (1 - chance) if value > chance else 0.0
    return f'<td style="--share:{above:.3f}">{_percent(value)}</td>'


def _phases(seconds: Mapping[str, float]) -> str:
    phases = {name: value for name, value in seconds.items() if name != "total"}
    longest = max(phases.values(), default=0.0) or 1.0
    return _bars("Phase", "Time", [(name, _duration(value), value / longest) for name, value in phases.items()])


def _bars(what: str, measure: str, rows: Sequence[tuple[str, str, float]]) -> str:
    bar = '<td>{}</td><td><span class="bar" style="--share:{:.3f}"></span></td>'
    body = [_row(name, bar.format(value, share)) for name, value, share in rows]
    return _table("bars", f"{measure} by {what.lower()}", [what, measure, ""], body)


def _row(name: str, cells: str) -> str:
    return f'<tr><th scope="row">{_title(name)}</th>{cells}</tr>\n'


def _table(kind: str, label: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{_title(name)}</th>' if name else "<td></td>" for name in columns)
    return (
        f'<div class="box" role="region" aria-label="{label}" tabindex="0"><table class="{kind}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>"
    )


def _card(number: int, example: Example) -> str:
    data = base64.b64encode(example.picture).decode("ascii")
    code = escape(example.language)
    mark = '<span class="right">✓ right</span>' if example.correct else '<span class="wrong">✗ wrong</span>'
    return (
        f'<article><img src="data:image/jpeg;base64,{data}" width="200" height="200" alt="Drawn picture {number}">'
        f'<div class="mark"><span lang="{code}">{_LANGUAGES.get(example.language, code)}</span>{mark}</div>'
        f'<p lang="{code}">{escape(example.question)}</p>'
        f'<dl><dt>Model</dt><dd lang="{code}">{escape(example.answer) or "–"}</dd>'
        f'<dt>Truth</dt><dd lang="{code}">{escape(example.truth)}</dd></dl></article>\n'
    )


def _figure(name: str, points: Sequence[tuple[int, float]]) -> str:
    points = [(step, loss) for step, loss in points if math.isfinite(loss)]
    caption = f"<figcaption>{_title(name)}<span>{_TRAINED.get(name, '')}</span></figcaption>"
    drawn = _chart(_title(name), points) if points else "<p>No steps recorded.</p>"
    return f"<figure>{caption}{drawn}</figure>\n"


def _chart(title: str, points: Sequence[tuple[int, float]]) -> str:
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    means = _running_mean(losses)
    across, up = _linear(steps[0], steps[-1], _LEFT, _RIGHT), _vertical(losses)
    marks = f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
    for tick in up.ticks:
        y = up.at(tick)
        marks += f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        marks += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in across.ticks:
        x = across.at(tick)
        marks += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>'
        marks += f'<text x="{x:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{tick:.9g}</text>'
    for kind, values in (("raw", losses), ("smooth", means)):
        line = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in zip(steps, values, strict=True))
        marks += f'<polyline class="{kind}" points="{line}"/>'
    story = f"From {means[0]:.3g} at step {steps[0]} to {means[-1]:.3g} at step {steps[-1]}, as a running mean."
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>{title}: loss by step</title><desc>{story}</desc>'
        f'<text x="0" y="11">loss ({"log" if up.log else "linear"} scale)</text>{marks}'
        f'<text x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">step</text></svg>'
    )


class _Axis(NamedTuple):
    low: float
    high: float
    start: float
    """Where `low` lies, in SVG units; `high` lies at `end`."""
    end: float
    ticks: Sequence[float]
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _linear(low: float, high: float, start: float, end: float) -> _Axis:
    """From `low` to `high`, with two to six ticks at round values."""
    high = high if high > low else low + 1
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(digit for digit in (1, 2, 5, 10) if digit * unit >= rough)
    ticks = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return _Axis(low, high, start, end, ticks)


def _vertical(losses: Sequence[float]) -> _Axis:
    """Logarithmic where the losses span a decade, so that the end of a fall is seen as well as its beginning."""
    low, high = min(losses), max(losses)
    if low <= 0 or high < 10 * low:
        return _linear(min(low, 0.0), high * 1.05, _BOTTOM, _TOP)
    low = max(low, high / 1e4)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if high < 1000 * low else (1,)
    ticks = [digit * 10.0**decade for decade in decades for digit in fine if low <= digit * 10.0**decade <= high]
    return _Axis(low, high, _BOTTOM, _TOP, ticks, log=True)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Over a twentieth of the values, around each."""
    reach = max(len(values) // 40, 1)
    windows = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _title(name: str) -> str:
    """A name from the summary as the page shows it, escaped: "stage1, examined" is "Stage 1, examined"."""
    words = re.sub(r"^stage(\d+)", r"stage \1", name.replace("_", " "))
    return escape(words[:1].upper() + words[1:])


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
