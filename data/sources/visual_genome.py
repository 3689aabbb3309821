"""Visual Genome, versions 1.2 and 1.4: questions on images, and phrases with boxes.

    RAW/image_data.json
    RAW/question_answers.json
    RAW/region_descriptions.json
    RAW/VG_100K/4.jpg …                                  images.zip
    RAW/VG_100K_2/1.jpg …                                images2.zip

108,077 images, 1.7 million questions, 5.4 million regions, without splits. CC BY 4.0.
https://homes.cs.washington.edu/~ranjay/visualgenome/api.html

Two samples an image: its questions, and up to `REGIONS` of its regions, evenly from their list, which in turn ask for
the phrase of a box and for the box of a phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data.raw import BadRaw, field, find, items
from data.record import SHORT_ANSWER, Record, Skipped, conversations
from yivl.boxes import Box, to_text

REGIONS = 10
"""Of fifty that an image has on average: a box is 25 characters, most of them tokens of their own."""
WHAT = "Describe this region: {}"
WHERE = "Give the bounding box of: {}"


class _Image(NamedTuple):
    file: Path
    width: int
    height: int


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The questions of all images, then the regions of all: neither file is held, nor need their orders agree."""
    data, questions, regions = (
        find(raw, f"{name}.json") for name in ("image_data", "question_answers", "region_descriptions")
    )
    images = {field(entry, "image_id", int, data): _image(raw, entry, data) for entry in items(data, "item")}
    for number, image, entry in _entries(questions, images):
        asked = [
            (field(pair, "question", str, questions), field(pair, "answer", str, questions))
            for pair in field(entry, "qas", list, questions)
        ]
        yield from conversations(f"{number}-questions", image.file, asked, SHORT_ANSWER)
    for number, image, entry in _entries(regions, images):
        found: list[tuple[str, str]] = []  # phrases and boxes
        for region in field(entry, "regions", list, regions):
            phrase = field(region, "phrase", str, regions).strip()
            x, y, width, height = (field(region, side, int, regions) for side in ("x", "y", "width", "height"))
            try:
                box = to_text(Box(x, y, x + width, y + height), image.width, image.height)
            except ValueError:
                yield Skipped(f"{number}-region-{field(region, 'region_id', int, regions)}", "box outside the image")
                continue
            if phrase:
                found.append((phrase, box))
        exchanges = [
            (WHERE.format(phrase), box) if turn % 2 else (WHAT.format(box), phrase)
            for turn, (phrase, box) in enumerate(_evenly(found, REGIONS))
        ]
        if exchanges:
            yield from conversations(f"{number}-regions", image.file, exchanges)
        else:
            yield Skipped(f"{number}-regions", "no phrase with a box")


def _image(raw: Path, entry: Any, where: Path) -> _Image:
    url = field(entry, "url", str, where)
    place = re.search(r"/(VG_100K(?:_2)?/\d+\.jpg)$", url)  # the only word on which of the two archives holds it
    if not place:
        raise BadRaw(f"{where}: an image's url should end in /VG_100K/ID.jpg or /VG_100K_2/ID.jpg, not {url!r}")
    return _Image(raw / place[1], field(entry, "width", int, where), field(entry, "height", int, where))


def _entries(file: Path, images: dict[int, _Image]) -> Iterator[tuple[int, _Image, Any]]:
    """The entries of a file with one for each image, with their images."""
    for entry in items(file, "item"):
        number = field(entry, "image_id" if "image_id" in entry else "id", int, file)
        if number not in images:
            raise BadRaw(f"{file}: image {number} is not in image_data.json")
        yield number, images[number], entry


def _evenly(entries: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    count = min(most, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]
