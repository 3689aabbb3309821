"""Flickr30k: photographs of people and what they do, with five captions each by five people.

    RAW/results_20130124.token                flickr30k.tar.gz: IMAGE.jpg#N, a tab, the caption
    RAW/flickr30k-images/….jpg                flickr30k-images.tar
or, as the copy on Kaggle has it,
    RAW/results.csv                           IMAGE.jpg| N| caption
    RAW/flickr30k_images/….jpg

31,783 images, 158,915 captions: each is a pair of its own. The publishers define no splits, so all are taken; an
evaluation on Karpathy's test images would have been trained on.

Images: Flickr's terms of use, for non-commercial research and education.
Source: https://shannon.cs.illinois.edu/DenotationGraph/, https://github.com/BryanPlummer/flickr30k_entities (size and
terms), https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data.raw import BadRaw, find
from data.record import Record, Skipped, caption

_LINES = {
    "results_20130124.token": re.compile(r"([^#\t]+)\.jpg#(\d+)\t(.*)"),
    "results.csv": re.compile(r"([^|]+)\.jpg\|\s*(\d+)(?:\s*\||\s)(.*)"),  # in one line of Kaggle's copy a | is missing
}
_HEADER = "image_name| comment_number| comment"
_FOLDERS = ("flickr30k-images", "flickr30k_images")


def records(raw: Path) -> Iterator[Record | Skipped]:
    """All captions, in the order of the file."""
    file = find(raw, *_LINES)
    images = next((raw / name for name in _FOLDERS if (raw / name).is_dir()), None)
    if images is None:
        raise BadRaw(f"{raw} has no folder {' or '.join(_FOLDERS)}")
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            text = line.decode("utf-8", errors="replace").rstrip("\r\n")
            if text in ("", _HEADER):
                continue
            match = _LINES[file.name].fullmatch(text)
            if match is None or "\ufffd" in text:
                raise BadRaw(f"{file}: line {number} is not an image, a number and a caption in UTF-8: {text[:200]!r}")
            image, place, words = match.groups()
            key = f"{image}-{place}"
            yield caption(key, images / f"{image}.jpg", words) if words.strip() else Skipped(key, "empty caption")
