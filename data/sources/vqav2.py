"""VQAv2, train: people's questions on COCO images, ten people's answers to each.

    RAW/v2_OpenEnded_mscoco_train2014_questions.json
    RAW/v2_mscoco_train2014_annotations.json
    RAW/train2014/COCO_train2014_000000000009.jpg …      train2014.zip of COCO

82,783 images, 443,757 questions, 4,437,570 answers. Annotations CC BY 4.0; the images under Flickr's terms of use.
https://visualqa.org/download.html

A sample is an image with its questions. The target is the answer that most of the ten gave (`most_frequent`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import BadRaw, field, find, items
from data.record import SHORT_ANSWER, Record, Skipped, conversations, most_frequent


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The images in the order in which the questions first name them."""
    questions = find(raw, "v2_OpenEnded_mscoco_train2014_questions.json")
    annotations = find(raw, "v2_mscoco_train2014_annotations.json")
    targets: dict[int, str] = {}
    for entry in items(annotations, "annotations.item"):
        answers = [field(given, "answer", str, annotations) for given in field(entry, "answers", list, annotations)]
        targets[field(entry, "question_id", int, annotations)] = most_frequent(answers or [""])

    exchanges: dict[int, list[tuple[str, str]]] = {}
    for entry in items(questions, "questions.item"):
        number = field(entry, "question_id", int, questions)
        if number not in targets:
            raise BadRaw(f"{questions}: question {number} has no answers in {annotations}, or comes twice")
        exchange = (field(entry, "question", str, questions), targets.pop(number))
        exchanges.setdefault(field(entry, "image_id", int, questions), []).append(exchange)
    if targets:
        raise BadRaw(f"{annotations}: {len(targets)} questions are not in {questions}, such as {next(iter(targets))}")

    for image, asked in exchanges.items():
        file = raw / "train2014" / f"COCO_train2014_{image:012d}.jpg"
        yield from conversations(f"{image:012d}", file, asked, SHORT_ANSWER)
