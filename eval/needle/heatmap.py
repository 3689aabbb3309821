"""A grid's recall as a picture, in the manner of the Yi technical report's Figure 6: length to the right, depth
downwards, red for nothing found to green for everything."""

from __future__ import annotations

import io

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from eval.needle.report import Result
from eval.tables import percent

COLOURS = LinearSegmentedColormap.from_list("recall", ["#d7301f", "#fec44f", "#1a9850"])
_NUMBERED = 14
"""Lengths up to which each cell has its number in it."""


def png(result: Result) -> bytes:
    """The picture's file."""
    lengths, depths = result.grid.lengths, result.grid.depths
    figure = Figure(figsize=(2.6 + 0.55 * max(len(lengths), 6), 1.8 + 0.32 * max(len(depths), 5)), layout="constrained")
    axes = figure.add_subplot()
    cells = [[result.by_place[length, depth] for length in lengths] for depth in depths]
    drawn = axes.pcolormesh(cells, cmap=COLOURS, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.set_xticks([column + 0.5 for column in range(len(lengths))], [f"{length:,}" for length in lengths])
    axes.tick_params(axis="x", rotation=45)
    axes.set_yticks([row + 0.5 for row in range(len(depths))], [f"{depth:g} %" for depth in depths])
    axes.set_xlabel("Length (tokens)")
    axes.set_ylabel("Depth of the needle")
    axes.set_title(f"{result.title}\nmean recall {percent(result.mean)} %", fontsize="medium", wrap=True)
    if len(lengths) <= _NUMBERED:
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize="small")
    scale = figure.colorbar(drawn, ax=axes, label="Recall", ticks=[0, 0.25, 0.5, 0.75, 1])
    scale.ax.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
