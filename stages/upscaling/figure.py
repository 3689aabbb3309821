"""The experiment's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure


def draw(curves: Mapping[str, Sequence[tuple[int, float]]], file: Path) -> None:
    """Writes an SVG: the arms' held-out loss by the tokens read, beside that what is after the arms part."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "yivl", "font.size": 9.0}):
        figure = Figure(figsize=(9.2, 4.0), layout="constrained")
        for axes, parted in zip(figure.subplots(1, 2), (False, True), strict=True):
            for name, points in curves.items():
                tokens, losses = zip(*points, strict=True)
                axes.plot([count / 1e6 for count in tokens], losses, linewidth=1.4, label=name)
            axes.set_xlabel("million tokens read")
            axes.grid(alpha=0.25)
            if parted:
                before, *arms = curves.values()
                axes.set_xlim(before[-1][0] / 1e6, arms[0][-1][0] / 1e6)
                inside = [loss for arm in arms[:-1] for _, loss in arm]
                axes.set_ylim(min(inside) - 0.05, max(inside) + 0.15)
            else:
                axes.set_ylabel("held-out loss, mean of English and code")
                axes.legend(fontsize="small")
        figure.savefig(file, format="svg", metadata={"Date": None})
