"""The one form in which a box in an image becomes text: `[x1,y1,x2,y2]`, left, top, right and bottom edge.

Each is a fraction with three decimals of the side of the image as the model sees it: padded to a square, the image
centred (`yivl.images.pad_to_square`). A thousandth is half a pixel at 448.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Box(NamedTuple):
    """Edges in pixels of the image as stored, from its left and top."""

    left: float
    top: float
    right: float
    bottom: float


_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_TEXT = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


class _Square(NamedTuple):
    side: int
    across: int
    down: int
    """Where the image begins in it, from its left and top."""


def to_text(box: Box, width: int, height: int) -> str:
    """A box of an image of that size, in pixels, as text. What lies outside the image is cut off.

    Raises:
        ValueError: nothing of the box lies in the image.
    """
    left, right = max(0.0, box.left), min(float(width), box.right)
    top, bottom = max(0.0, box.top), min(float(height), box.bottom)
    if left >= right or top >= bottom:
        raise ValueError(f"nothing of the box {tuple(box)} lies in an image of {width} x {height}")
    side, across, down = _square(width, height)
    edges = ((left + across) / side, (top + down) / side, (right + across) / side, (bottom + down) / side)
    return "[" + ",".join(f"{edge:.3f}" for edge in edges) + "]"


def from_text(text: str, width: int, height: int) -> Box | None:
    """The first box in `text`, for an image of that size; None where there is none. It may lie outside the image."""
    found = _TEXT.search(text)
    if found is None:
        return None
    left, top, right, bottom = map(float, found.groups())
    side, across, down = _square(width, height)
    return Box(left * side - across, top * side - down, right * side - across, bottom * side - down)


def _square(width: int, height: int) -> _Square:
    side = max(width, height)
    return _Square(side, (side - width) // 2, (side - height) // 2)
