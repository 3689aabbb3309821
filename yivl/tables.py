"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Cells in Markdown, the first line as its head; all columns but the first to the right."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text = ""
    for first, *others in (escaped[0], rule, *escaped[1:]):
        text += f"| {' | '.join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])} |\n"
    return text
