"""GQA, balanced train: questions composed from the scene graphs of Visual Genome images.

    RAW/train_balanced_questions.json                    or questions1.2/train_balanced_questions.json
    RAW/images/2354786.jpg …

72,140 images, 943,000 questions. CC BY 4.0 by others' copies of it. https://cs.stanford.edu/people/dorarad/gqa/download.html

A sample is an image with its questions. The target is the short `answer`, not the `fullAnswer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import field, find, pairs
from data.record import SHORT_ANSWER, Record, Skipped, conversations


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The images in the order in which the questions first name them: the questions on one are far apart."""
    questions = find(raw, "train_balanced_questions.json", "questions1.2/train_balanced_questions.json")
    exchanges: dict[str, list[tuple[str, str]]] = {}
    for number, entry in pairs(questions):
        where = f"{questions}: question {number}"
        exchange = (field(entry, "question", str, where), field(entry, "answer", str, where))
        exchanges.setdefault(field(entry, "imageId", str, where), []).append(exchange)
    for image, asked in exchanges.items():
        yield from conversations(image, raw / "images" / f"{image}.jpg", asked, SHORT_ANSWER)
