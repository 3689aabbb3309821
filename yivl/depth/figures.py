"""The documents' figures, as SVG files with their text as text.

`token_lines` is the Yi-9B blog's Figures 1-3, and with two panels Figure 8 of the Yi technical report; `layer_lines` is
the blog's Figure 10, and `value_lines` its Figures 4-9.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from yivl.depth.comparison import Outcome
from yivl.depth.cosine import LAST, Profile
from yivl.depth.report import Measured

_NAMED: Final = 12
"""Tokens up to which each has its name beside the figure."""
_FLOOR: Final = 0.5
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "yivl",
    "text.parse_math": False,
    "font.size": 9.0,
}


class Panel(NamedTuple):
    """A model's cosines on a text."""

    title: str
    profile: Profile
    new: range = range(0)
    """Layers that an expansion added."""


def draw_measured(measured: Measured, first: int, folder: Path) -> None:
    """Writes `tokens-TEXT.svg` for each text, of the first model and the last; of several models also `layers-TEXT.svg`
    and `values.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(next(iter(measured.values())))
    for text in texts:
        panels = [Panel(f"{model}: {text}", profiles[text]) for model, profiles in measured.items()]
        (folder / f"tokens-{_slug(text)}.svg").write_bytes(token_lines(panels[:: max(len(panels) - 1, 1)]))
        if len(panels) > 1:
            named = [Panel(model, profiles[text]) for model, profiles in measured.items()]
            (folder / f"layers-{_slug(text)}.svg").write_bytes(layer_lines(text, named))
    if len(measured) > 1:
        values = {text: [profiles[text].value(first) for profiles in measured.values()] for text in texts}
        (folder / "values.svg").write_bytes(value_lines(list(measured), values))


def draw_compared(text: str, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Writes `layers.svg` and `blocks.svg` of all, and for each expansion `tokens-NAME.svg` below the model itself."""
    folder.mkdir(parents=True, exist_ok=True)
    own, *expanded = [Panel(f"{one.name}: {text}", one.profile, one.added) for one in outcomes]
    named = [Panel(one.name, one.profile, one.added) for one in outcomes]
    (folder / "layers.svg").write_bytes(layer_lines(text, named))
    (folder / "blocks.svg").write_bytes(block_dots(text, outcomes[1:]))
    for one, panel in zip(outcomes[1:], expanded, strict=True):
        (folder / f"tokens-{_slug(one.name)}.svg").write_bytes(token_lines([own, panel]))


def token_lines(panels: Sequence[Panel]) -> bytes:
    """Each token's cosine by layer, a panel above the other; the first token, which no mean counts, is dashed."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 0.4 + 2.5 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _tokens(axes, panel)
            _by_layer(axes, panels)
        grid[-1, 0].set_xlabel("layer")
        return _svg(figure)


def layer_lines(title: str, panels: Sequence[Panel]) -> bytes:
    """The layers' values, a line for each panel's model; of added layers with a dot each."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.subplots()
        hues = colormaps["tab10" if len(panels) <= 10 else "tab20"]
        for number, panel in enumerate(panels):
            values = panel.profile.layers
            axes.plot(values, color=hues(number % hues.N), linewidth=1.3, label=panel.title)
            if panel.new:
                axes.plot(
                    panel.new, [values[layer] for layer in panel.new], "o", color=hues(number % hues.N), markersize=3.5
                )
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("layer (a dot: added by the expansion)" if any(panel.new for panel in panels) else "layer")
        _by_layer(axes, panels)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
        return _svg(figure)


def value_lines(names: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> bytes:
    """The models' values in their order, a line for each text; at its place where the names are numbers."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axes = figure.subplots()
        numbered = all(name.replace(".", "", 1).isdecimal() for name in names)
        places = [float(name) for name in names] if numbered else list(range(len(names)))
        for text, line in values.items():
            axes.plot(places, [float("nan") if value is None else value for value in line], marker="o", label=text)
        if not numbered:
            axes.set_xticks(places, names, rotation=30, ha="right")
        axes.set_xlabel("checkpoint")
        _by_cosine(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
        return _svg(figure)


def block_dots(title: str, expanded: Sequence[Outcome]) -> bytes:
    """How often each expansion agrees with the model itself, by the cosines of the block and by those of its copy."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        shares = [100 * one.agreement for one in expanded]
        starts = [one.expansion.start if one.expansion else 0 for one in expanded]
        left.scatter([one.block for one in expanded], shares, c=starts)
        left.set_xlabel("mean cosine of the block, in the model itself")
        left.set_ylabel("same next token, %")
        dots = right.scatter([one.copied for one in expanded], shares, c=starts)
        right.set_xlabel("mean cosine of its copy, in the deeper model")
        for axes in (left, right):
            axes.grid(alpha=0.3)
        figure.colorbar(dots, ax=right, label="the block's first layer").ax.yaxis.set_major_locator(
            MaxNLocator(integer=True)
        )
        figure.suptitle(title, fontsize="medium")
        return _svg(figure)


def _slug(name: str) -> str:
    """For the name of a file."""
    return re.sub(r"\W+", "-", name).strip("-").lower()[:60]


def _tokens(axes: Axes, panel: Panel) -> None:
    profile = panel.profile
    shades = colormaps["viridis"].resampled(len(profile.tokens) * 5 // 4 + 1)  # without its palest
    lines = []
    for number, cosines in enumerate(profile.by_token):
        if number:
            lines += axes.plot(cosines, color=shades(number), linewidth=1)
        else:
            lines += axes.plot(cosines, color="0.6", linewidth=1, linestyle="--")
    mean = axes.plot(profile.layers, color="black", linewidth=1.8)
    names = [f"{number} {token.strip() or repr(token)}" for number, token in enumerate(profile.tokens)]
    keys: list[Line2D] = [*mean, *lines] if len(lines) <= _NAMED else [*mean, lines[0]]
    axes.legend(
        keys, ["mean of all but 0", *names][: len(keys)], loc="upper left", bbox_to_anchor=(1, 1), fontsize="small"
    )
    if panel.new:
        axes.axvspan(panel.new.start - 0.5, panel.new.stop - 0.5, color="C1", alpha=0.15, linewidth=0)
    axes.set_title(panel.title, fontsize="medium")


def _by_layer(axes: Axes, panels: Sequence[Panel]) -> None:
    """From 0.5 on, as in the documents, unless layers inside lie lower; the first and the last ones leave the frame."""
    inner = [value for panel in panels for value in panel.profile.layers[1:-LAST]]
    axes.set_ylim(min([_FLOOR, *inner]) - 0.01, 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _by_cosine(axes)


def _by_cosine(axes: Axes) -> None:
    axes.set_ylabel("cosine of input and output")
    axes.grid(alpha=0.3)


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a token's glyphs may be missing from the font that is measured with; who looks at the file has another
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
