"""VizWiz-VQA, train: photos and spoken questions of blind people, ten people's answers to each.

    RAW/Annotations/train.json                           or annotations/train.json
    RAW/train/VizWiz_train_00000000.jpg …

20,523 images with a question each, 205,230 answers. CC BY 4.0, as stated for captions of the same images. https://vizwiz.org/tasks-and-datasets/vqa/

The target is the answer that most of the ten gave (`most_frequent`). Where the photo does not show what is asked, that
is the word "unanswerable", and it is kept: a model that never saw it would invent an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import field, find, items
from data.record import SHORT_ANSWER, Record, Skipped, conversations, most_frequent


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The images in their publishers' order."""
    annotations = find(raw, "Annotations/train.json", "annotations/train.json")
    exchanges: dict[str, list[tuple[str, str]]] = {}
    for entry in items(annotations, "item"):
        answers = [field(given, "answer", str, annotations) for given in field(entry, "answers", list, annotations)]
        exchange = (field(entry, "question", str, annotations), most_frequent(answers or [""]))
        exchanges.setdefault(field(entry, "image", str, annotations), []).append(exchange)
    for image, asked in exchanges.items():
        yield from conversations(Path(image).stem, raw / "train" / image, asked, SHORT_ANSWER)
