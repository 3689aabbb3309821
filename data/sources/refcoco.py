"""RefCOCO, RefCOCO+ and RefCOCOg, train: phrases that single out one object of a COCO image.

    RAW/refcoco/refs(unc).p      RAW/refcoco/instances.json
    RAW/refcoco+/refs(unc).p     RAW/refcoco+/instances.json
    RAW/refcocog/refs(umd).p     RAW/refcocog/instances.json
    RAW/images/mscoco/images/train2014/COCO_train2014_000000000009.jpg …

Train, in images, objects and phrases: RefCOCO 16,994, 42,404, 120,624; RefCOCO+ 16,992, 42,278, 120,191; RefCOCOg
21,899, 42,226, 80,512. Apache-2.0; COCO's annotations CC BY 4.0, its images under Flickr's terms of use.
https://github.com/lichengunc/refer. The three split the same images differently: one's train holds images of another's
test.

A sample is an image with all phrases that one of the three has for it. Each phrase asks for a box; of every second
object the first phrase is the answer instead, to a box. It comes before the object's other phrases, so that it can't be
copied from them; the objects between are found without a box that was given away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.raw import BadRaw, field, find, items
from data.record import Record, Skipped, conversations
from yivl.boxes import Box, to_text
from yivl.refcoco import IMAGES, SPLIT_BY, WHERE, read_refs, to_box

WHAT = "Describe what this bounding box shows, so that it can be told from the rest of the image: {}"


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The three data sets one after another, each with its images in the order in which the phrases first name them."""
    files = {
        name: (find(raw, f"{name}/refs({by}).p"), find(raw, f"{name}/instances.json")) for name, by in SPLIT_BY.items()
    }
    for name, (refs, instances) in files.items():
        yield from _records(name, refs, instances, raw / IMAGES)


def _records(name: str, refs: Path, instances: Path, folder: Path) -> Iterator[Record | Skipped]:
    objects: dict[int, list[tuple[int, list[str]]]] = {}
    for ref in _refs(refs):
        if field(ref, "split", str, refs) == "train":
            phrases = [field(sentence, "sent", str, refs).strip() for sentence in field(ref, "sentences", list, refs)]
            named = (field(ref, "ann_id", int, refs), [phrase for phrase in phrases if phrase])
            objects.setdefault(field(ref, "image_id", int, refs), []).append(named)
    images = {field(entry, "id", int, instances): entry for entry in items(instances, "images.item")}
    wanted = {annotation for found in objects.values() for annotation, _ in found}
    boxes = {
        entry["id"]: _box(field(entry, "bbox", list, instances), instances)
        for entry in items(instances, "annotations.item")
        if field(entry, "id", int, instances) in wanted
    }
    for image, found in objects.items():
        if image not in images or not all(annotation in boxes for annotation, _ in found):
            raise BadRaw(f"{instances}: image {image} or an object in it is missing, which {refs} names")
        width, height = (field(images[image], side, int, instances) for side in ("width", "height"))
        exchanges: list[tuple[str, str]] = []
        for number, (annotation, phrases) in enumerate(found):
            try:
                box = to_text(boxes[annotation], width, height)
            except ValueError:
                yield Skipped(f"{name}-{image}-object-{annotation}", "box outside the image")
                continue
            asked = [(WHERE.format(phrase), box) for phrase in phrases]
            if number % 2 and phrases:
                asked[0] = (WHAT.format(box), phrases[0])
            exchanges += asked
        if exchanges:
            file = folder / field(images[image], "file_name", str, instances)
            yield from conversations(f"{name}-{image}", file, exchanges)
        else:
            yield Skipped(f"{name}-{image}", "no phrase with a box")


def _refs(file: Path) -> list[Any]:
    try:
        return read_refs(file)
    except ValueError as error:
        raise BadRaw(str(error)) from error


def _box(bbox: list[float], where: Path) -> Box:
    try:
        return to_box(bbox)
    except ValueError as error:
        raise BadRaw(f"{where}: {error}") from error
