"""RefCOCO, RefCOCO+ and RefCOCOg: where their files lie, how they are read, and how a phrase is asked for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from yivl.boxes import Box

SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""Their folders, and by whom each is split as papers use it."""
IMAGES = "images/mscoco/images/train2014"
"""COCO's images, of all splits."""
WHERE = "Give the bounding box of what this describes: {}"
"""Asks for a box (`yivl.boxes`) by a phrase."""


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, strings and numbers only: what a pickle can do beyond them is run code."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_refs(file: Path) -> list[Any]:
    """The objects that phrases refer to, of a `refs(unc).p`; nothing in it is run.

    Raises:
        ValueError: it is no pickle of a list of plain values.
    """
    try:
        with file.open("rb") as opened:
            content = _PlainUnpickler(
                opened, encoding="utf-8", errors="replace"
            ).load()  # of Python 2, whose strings are bytes
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        raise ValueError(f"{file}: not a pickle of lists, dicts, strings and numbers only: {error}") from error
    if not isinstance(content, list):
        raise ValueError(f"{file}: a {type(content).__name__}, not the list that was expected")
    return content


def to_box(bbox: list[float]) -> Box:
    """The box of an object, as COCO's annotations write it: left, top, width and height.

    Raises:
        ValueError: these are not four numbers.
    """
    if len(bbox) != 4 or not all(isinstance(side, int | float) for side in bbox):
        raise ValueError(f"a bbox has x, y, width and height, not {bbox}")
    x, y, width, height = bbox
    return Box(x, y, x + width, y + height)
