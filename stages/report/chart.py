"""Charts of what changes from step to step, as figures of a page: curves, and layers stacked on each other.

A curve's points are the data themselves (on a log scale their decadic logarithms), which a transform brings into the
frame; so the script, which tells the values under the pointer, reads them from there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import numpy as np

Point = tuple[int, float]
"""A step, and the value there."""
MOST_POINTS: Final = 600
"""Of a curve on a page; about two for each pixel of a chart on a desk."""
_WIDTH, _HEIGHT = 360, 204
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 342, 20, 166
_ACROSS, _UP = _RIGHT - _LEFT, _BOTTOM - _TOP
"""A chart, and where in it the frame of its curves lies, in SVG units; what leaves the frame is cut off."""
_DECADES: Final = 4
"""Most that a log scale shows, so that one value next to zero does not squeeze the others."""

STYLE: Final = """
.c0 { color: var(--accent); } .c1 { color: light-dark(#c2500a, #ff9c5b); } .c2 { color: light-dark(#14713c, #6fd396); }
.c3 { color: light-dark(#8a3ab9, #cf9af0); } .c4 { color: light-dark(#9a7400, #e5c04b); }
.c5 { color: light-dark(#8b95a3, #76818f); }
.curves { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
figure { display: flex; flex-direction: column; padding: 12px 12px 10px; }
figcaption { font-weight: 600; line-height: 1.35; overflow-wrap: anywhere; }
figcaption span { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; margin-top: 8px; touch-action: pan-y; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg line { stroke: var(--line); }
svg svg * { vector-effect: non-scaling-stroke; }
polyline { fill: none; stroke: currentColor; stroke-linejoin: round; stroke-linecap: round; }
polygon { fill: currentColor; stroke: currentColor; stroke-width: .5; }
.raw { stroke-width: 1; opacity: .4; }
.smooth { stroke-width: 2; }
.dotted { stroke-width: 2; stroke-dasharray: 1 5; }
svg .restart { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .grown { stroke: light-dark(#14713c, #6fd396); }
svg .skipped { stroke: light-dark(#b3261e, #ff9a90); opacity: .6; }
svg .guide { stroke: var(--ink); opacity: .5; visibility: hidden; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; margin-top: auto; padding-top: 6px; color: var(--soft);
  font-size: .8125rem; font-variant-numeric: tabular-nums; }
.legend b { color: var(--ink); font-weight: 600; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border-radius: 2px;
  background: currentColor; }
"""
SCRIPT: Final = """
const format = value => value && !(Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6) ? value.toExponential(2)
  : Number(value.toPrecision(4)).toLocaleString("en", {maximumFractionDigits: 6});
for (const svg of document.querySelectorAll("figure > svg")) {
  const told = [...svg.parentNode.querySelectorAll(".legend b")], last = told.map(one => one.textContent);
  const shapes = [...svg.querySelectorAll("polyline, polygon")], guide = svg.querySelector(".guide");
  const data = shapes.map(shape => Array.from(shape.points, point => [point.x, point.y]));
  svg.onpointermove = event => {
    const pointer = new DOMPoint(event.clientX, event.clientY);
    shapes.forEach((shape, place) => {
      const {x} = pointer.matrixTransform(shape.getScreenCTM().inverse());
      const points = data[place], layer = shape.tagName === "polygon", tops = layer ? points.length / 2 : points.length;
      let best = 0;
      for (let i = 1; i < tops; i++) if (Math.abs(points[i][0] - x) < Math.abs(points[best][0] - x)) best = i;
      const [step, y] = points[best], value = layer ? y - points[points.length - 1 - best][1] : y;
      told[place + 1].textContent = format("log" in svg.dataset ? 10 ** value : value);
      if (place === 0) {
        told[0].textContent = step.toLocaleString("en");
        guide.setAttribute("x1", step);
        guide.setAttribute("x2", step);
        guide.style.visibility = "visible";
      }
    });
  };
  svg.onpointerleave = () => {
    told.forEach((one, place) => one.textContent = last[place]);
    guide.style.visibility = "hidden";
  };
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Values by step; those that are not finite are left out."""

    name: str
    points: Sequence[Point]
    kind: Literal["raw", "smooth", "dotted"] = "smooth"
    hue: int = 0
    """One of six colours."""


def smoothed(points: Sequence[Point]) -> list[Curve]:
    """Every step, faint, and a running mean over a twentieth of the steps, around each."""
    points = _finite(points)
    return [Curve(name="raw", points=points, kind="raw"), Curve(name="mean", points=_running_mean(points))]


def curves(
    title: str, about: str, unit: str, shown: Sequence[Curve], *, log: bool | None = None,
    marks: Mapping[str, Sequence[int]] | None = None,
) -> str:  # fmt: skip
    """A figure of curves.

    Args:
        title: of the figure.
        about: a line below it; may be empty.
        unit: of the values.
        shown: the curves; a figure without a point says so.
        log: whether the scale is logarithmic; by default where the values span a decade, so that the end of a fall is
            seen as well as its beginning.
        marks: steps where a vertical line of a class stands: `restart`, `grown` or `skipped`.
    """
    shown = [replace(one, points=points) for one in shown if (points := _thin(_finite(one.points)))]
    if not shown:
        return _figure(title, about, "<p>No steps recorded.</p>")
    steps, values = zip(*(point for one in shown for point in one.points), strict=True)
    frame = _Frame(_linear(min(steps), max(steps), 0, _ACROSS), _upward(values, log))
    drawn = "".join(
        f'<polyline class="{one.kind} c{one.hue}" transform="{frame.matrix}" points="{frame.points(one.points)}"/>'
        for one in shown
    )
    key = [(one.name, f"{one.kind} c{one.hue}", one.points[-1][1]) for one in shown]
    return _figure(title, about, frame.svg(title, unit, drawn, marks or {}) + _legend(shown[0].points[-1][0], key))


def layers(title: str, about: str, unit: str, shown: Mapping[str, Sequence[Point]]) -> str:
    """A figure of layers stacked in their order, all with values at the same steps: means of several where many."""
    steps = [step for step, _ in next(iter(shown.values()))]
    stretches = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS // 2))
    middles = [steps[int(stretch[len(stretch) // 2])] for stretch in stretches]
    values = np.array([[value for _, value in points] for points in shown.values()])
    heights = np.array([values[:, stretch].mean(axis=1) for stretch in stretches]).T
    edges = np.vstack([np.zeros(len(stretches)), np.cumsum(heights, axis=0)])
    # a first step may take ten times as long as all others, and is cut off
    high = min(edges[-1].max(), 1.5 * np.quantile(edges[-1], 0.98))
    frame = _Frame(_linear(middles[0], middles[-1], 0, _ACROSS), _upward([0.0, float(high)], log=False))
    drawn = ""
    for number, (below, above) in enumerate(pairwise(edges.tolist())):
        around = [*zip(middles, above, strict=True), *reversed(list(zip(middles, below, strict=True)))]
        drawn += f'<polygon class="c{number}" transform="{frame.matrix}" points="{frame.points(around)}"/>'
    key = [(name, f"c{number}", float(heights[number, -1])) for number, name in enumerate(shown)]
    return _figure(title, about, frame.svg(title, unit, drawn, {}) + _legend(middles[-1], key))


def _figure(title: str, about: str, content: str) -> str:
    said = f"<span>{escape(about)}</span>" if about else ""
    return f"<figure><figcaption>{escape(title)}{said}</figcaption>{content}</figure>\n"


def _legend(step: int, key: Sequence[tuple[str, str, float]]) -> str:
    """Names, classes and values; the script puts those under the pointer in their place."""
    named = "".join(
        f'<span><i class="{kind}"></i>{escape(name)} <b>{_number(value)}</b></span>' for name, kind, value in key
    )
    return f'<div class="legend"><span>step <b>{step:,}</b></span>{named}</div>'


class _Axis(NamedTuple):
    low: float
    high: float
    """On a log scale, as `low`, a decadic logarithm."""
    start: float
    """Where `low` lies, in SVG units within the frame; `high` lies at `end`."""
    end: float
    ticks: Sequence[float]
    """Values."""
    log: bool = False

    def place(self, value: float) -> float:
        """A value in the unit of `low` and `high`."""
        if not self.log:
            return value
        return math.log10(value) if value > 0 else self.low

    @property
    def scale(self) -> float:
        """SVG units for each unit of `low` and `high`."""
        return (self.end - self.start) / (self.high - self.low)

    @property
    def shift(self) -> float:
        """Where zero lies."""
        return self.start - self.low * self.scale

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.shift + self.place(value) * self.scale


class _Frame(NamedTuple):
    across: _Axis
    up: _Axis

    @property
    def matrix(self) -> str:
        """The transform that brings points into the frame."""
        return f"matrix({self.across.scale:.9g} 0 0 {self.up.scale:.9g} {self.across.shift:.9g} {self.up.shift:.9g})"

    def points(self, points: Sequence[Point]) -> str:
        """In the units of the axes; a single one twice, which draws a dot."""
        placed = [f"{step},{self.up.place(value):.6g}" for step, value in points]
        return " ".join(placed * 2 if len(placed) == 1 else placed)

    def svg(self, title: str, unit: str, drawn: str, marks: Mapping[str, Sequence[int]]) -> str:
        """The chart around what is drawn in the frame."""
        grid = f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
        for tick in self.up.ticks:
            y = _TOP + self.up.at(tick)
            grid += f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            grid += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        for tick in self.across.ticks:
            x = _LEFT + self.across.at(tick)
            grid += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>'
            grid += f'<text x="{x:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{_tick(tick)}</text>'
        for kind, steps in marks.items():
            places = {round(self.across.at(step)) for step in steps}
            drawn += "".join(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{_UP}"/>' for x in sorted(places))
        guide = f'<line class="guide" transform="{self.matrix}" y1="{self.up.low:.5g}" y2="{self.up.high:.5g}"/>'
        scale = ", log scale" if self.up.log else ""
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: {escape(unit)} by step"'
            f'{" data-log" if self.up.log else ""}><text x="0" y="11">{escape(unit)}{scale}</text>{grid}'
            f'<text x="{(_LEFT + _RIGHT) / 2:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">step</text>'
            f'<svg x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_UP}">{drawn}{guide}</svg></svg>'
        )


def _upward(values: Sequence[float], log: bool | None) -> _Axis:
    """From zero on, unless the scale is logarithmic."""
    low, high = min(values), max(values)
    positive = min((value for value in values if value > 0), default=0.0)
    if not positive or not (low > 0 and high >= 10 * low if log is None else log):
        return _linear(min(low, 0.0), high * 1.05, _UP, 0)
    low, high = max(positive, high / 10**_DECADES) / 1.1, high * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high < 1000 * low else (1,)
    ticks = [tick for decade in decades for digit in digits if low <= (tick := digit * 10.0**decade) <= high]
    return _Axis(math.log10(low), math.log10(high), _UP, 0, ticks, log=True)


def _linear(low: float, high: float, start: float, end: float) -> _Axis:
    """From `low` to `high`, with two to six ticks at round values."""
    high = high if high > low else low + 1
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(digit for digit in (1, 2, 5, 10) if digit * unit >= rough)
    ticks = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return _Axis(low, high, start, end, ticks)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Over a twentieth of the points, around each."""
    if not points:
        return []
    values = np.array([value for _, value in points])
    window = np.ones(2 * max(len(points) // 40, 1) + 1)
    inner = slice(len(window) // 2, len(window) // 2 + len(points))
    means = np.convolve(values, window)[inner] / np.convolve(np.ones(len(points)), window)[inner]
    return [(step, mean) for (step, _), mean in zip(points, means.tolist(), strict=True)]


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most `MOST_POINTS` of them: the first, the last, and of each stretch between the lowest and the highest."""
    if len(points) <= MOST_POINTS:
        return points
    kept = {0, len(points) - 1}
    values = np.array([value for _, value in points])
    for stretch in np.array_split(np.arange(1, len(points) - 1), (MOST_POINTS - 2) // 2):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return [points[place] for place in sorted(kept)]


def _number(value: float) -> str:
    """With four digits, as the script writes it."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return _short_exponent(f"{value:.2e}")
    return f"{float(f'{value:.4g}'):,}".removesuffix(".0")


def _tick(value: float) -> str:
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:.6g}{letter}"
    return _short_exponent(f"{value:.6g}")


def _short_exponent(number: str) -> str:
    """1e-05 as 1e-5."""
    return re.sub(r"e([+-])0", r"e\1", number)
