"""TextCaps: photographs with text in them, with five captions each that take the text up.

    RAW/TextCaps_0.1_train.json         {"data": [{"image_id", "image_name", "caption_id", "caption_str", …}, …]}
    RAW/train_images/IMAGE_NAME.jpg     train_val_images.zip of TextVQA, with the validation images

Training split: 21,953 images, 109,765 captions, each an entry of its own and a pair of its own.

Source: https://textvqa.org/textcaps/dataset/ (files at https://dl.fbaipublicfiles.com/textvqa/), arXiv 2003.12462.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import field, find, items
from data.record import Record, Skipped, caption


def records(raw: Path) -> Iterator[Record | Skipped]:
    """All captions of the training split."""
    file = find(raw, "TextCaps_0.1_train.json")
    for position, entry in enumerate(items(file, "data.item")):
        where = f"{file}: entry {position}"
        key = f"{field(entry, 'image_id', str, where)}-{field(entry, 'caption_id', int, where)}"
        image = raw / "train_images" / f"{field(entry, 'image_name', str, where)}.jpg"
        text = field(entry, "caption_str", str, where)
        yield caption(key, image, text) if text.strip() else Skipped(key, "empty caption")
