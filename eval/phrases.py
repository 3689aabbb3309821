"""Phrases that refer to an object in an image, and its box: read from RefCOCO's files, and compared with a reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eval.annotations import Entry, entries
from eval.benchmark import BadData, Part, Verdict
from eval.image_questions import ACCURACY, NO_REPLY, ImageQuestion
from yivl.boxes import Box, from_text
from yivl.refcoco import IMAGES, SPLIT_BY, WHERE, read_refs, to_box

OVERLAP = 0.5
"""Intersection over union from which on a box is right."""
TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseQuestion(ImageQuestion):
    """Where in an image that is which a phrase describes."""

    box: Box
    width: int
    height: int
    """Of the image, in pixels."""


class _Objects(NamedTuple):
    sizes: Mapping[int, tuple[str, int, int]]
    """File name, width and height by image."""
    boxes: Mapping[int, Box]
    """By annotation."""


def files(name: str) -> tuple[str, str]:
    """Where a data set's phrases and its boxes are."""
    return f"{name}/refs({SPLIT_BY[name]}).p", f"{name}/instances.json"


def read(data: Path, name: str, split: str, refs: Path, instances: Path) -> Iterator[PhraseQuestion]:
    """The phrases of a split, in the order of the objects that they refer to.

    Args:
        data: the folder of everything.
        name: of the data set.
        split: as its publishers name it.
        refs: its phrases.
        instances: its boxes.

    Raises:
        BadData: a file is not as it should be, or has nothing of the split.
    """
    wanted = [entry for entry in _refs(refs) if entry.get("split", str) == split]
    if not wanted:
        raise BadData(f"{refs}: nothing of the split {split}; is it the published file?")
    objects = _objects(instances, {entry.get("ann_id", int) for entry in wanted})
    for entry in wanted:
        image, annotation = entry.get("image_id", int), entry.get("ann_id", int)
        if image not in objects.sizes or annotation not in objects.boxes:
            raise BadData(f"{entry.where}: {instances} has no image {image} or no object {annotation}")
        file_name, width, height = objects.sizes[image]
        box = objects.boxes[annotation]
        for sentence in entry.each("sentences"):
            yield PhraseQuestion(
                id=f"{name}-{sentence.get('sent_id', int)}",
                prompt=WHERE.format(sentence.get("sent", str)),
                truth=_rounded(box),
                groups={"data set": TITLES[name]},
                file=refs,
                row=entry.row,
                image=data / IMAGES / file_name,
                box=box,
                width=width,
                height=height,
            )


def _refs(file: Path) -> list[Entry]:
    try:
        return [Entry(ref, file, row) for row, ref in enumerate(read_refs(file))]
    except ValueError as error:
        raise BadData(str(error)) from error


def _objects(file: Path, wanted: set[int]) -> _Objects:
    sizes = {
        entry.get("id", int): (entry.get("file_name", str), entry.get("width", int), entry.get("height", int))
        for entry in entries(file, "images")
    }
    annotations = entries(file, "annotations")
    boxes = {entry.get("id", int): _box(entry) for entry in annotations if entry.get("id", int) in wanted}
    return _Objects(sizes, boxes)


def _box(entry: Entry) -> Box:
    try:
        return to_box(entry.get("bbox", list))
    except ValueError as error:
        raise BadData(f"{entry.where}: {error}") from error


def verdict(question: PhraseQuestion, reply: str | None) -> Verdict:
    """By the first box in the reply."""
    box = from_text(reply or "", question.width, question.height)
    shared = 0.0 if box is None else overlap(box, question.box)
    why = "no box" if box is None else f"intersection over union {shared:.3f}"
    return Verdict(
        question=question,
        reply=reply,
        answer="" if box is None else _rounded(box),
        parts={ACCURACY: Part(shared >= OVERLAP)},
        why=NO_REPLY if reply is None else why,
    )


def _rounded(box: Box) -> str:
    return "pixels " + ", ".join(f"{edge:.0f}" for edge in box)


def overlap(one: Box, other: Box) -> float:
    """Area of the intersection over that of the union, from 0 to 1. A box whose edges are the wrong way round has no
    area."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)
