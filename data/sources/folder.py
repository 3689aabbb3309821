"""A folder of images, each with its caption in a text file beside it, for data of one's own.

    RAW/….jpg, .png, .webp, …
    RAW/….txt

At any depth, folder by folder in the order of their names; `a/b.jpg` has its caption in `a/b.txt`, in UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.index import IMAGES
from data.raw import BadRaw
from data.record import Record, Skipped, caption


def records(raw: Path) -> Iterator[Record | Skipped]:
    """All images that have a text; what lacks its other half is skipped."""
    empty = True
    for place, folders, names in os.walk(raw):
        folders.sort()  # in place: this is the order in which os.walk goes on
        files = [Path(place, name) for name in sorted(names)]
        images = [file for file in files if file.suffix[1:].lower() in IMAGES]
        texts = {file.stem: file for file in files if file.suffix.lower() == ".txt"}
        lone = {texts[stem] for stem in texts.keys() - {image.stem for image in images}}
        used: set[str] = set()
        for file in sorted([*images, *lone]):
            empty = False
            key = file.relative_to(raw).with_suffix("").as_posix()
            if file in lone:
                yield Skipped(key, "a text without an image")
            elif file.stem not in texts:
                yield Skipped(key, "an image without a text")
            elif file.stem in used:
                yield Skipped(key + file.suffix, "a second image for one text")
            else:
                used.add(file.stem)
                yield _captioned(key, file, texts[file.stem])
    if empty:
        raise BadRaw(f"{raw} holds no images ({', '.join(IMAGES)}) and no .txt")


def _captioned(key: str, image: Path, file: Path) -> Record | Skipped:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return Skipped(key, "the text is not UTF-8")
    return caption(key, image, text) if text.strip() else Skipped(key, "empty text")
