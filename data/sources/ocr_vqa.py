"""OCR-VQA-200K: questions on book covers, made from what is known of the books.

    RAW/dataset.json            {ID: {"imageURL", "questions": […], "answers": […], "split": 1 | 2 | 3, …}, …}
    RAW/images/ID.EXTENSION     what the publishers' loadDataset.py downloads; the extension is that of the imageURL

207,572 covers with a million questions; of these the training split (1): 166,022 covers, one conversation each. Of the
covers 901 are not .jpg; where such a file is missing, ID.jpg is taken, the name that LLaVA's users give it.

Source: https://ocr-vqa.github.io/, https://huggingface.co/datasets/howard-hou/OCR-VQA (sizes of the splits),
https://github.com/haotian-liu/LLaVA/issues/601 (extensions).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data.raw import field, find, pairs
from data.record import SHORT_ANSWER, Record, Skipped, conversations

_TRAIN = 1


def records(raw: Path) -> Iterator[Record | Skipped]:
    """One conversation for each cover of the training split."""
    file = find(raw, "dataset.json")
    for key, entry in pairs(file):
        where = f"{file}: {key}"
        if field(entry, "split", int, where) != _TRAIN:
            continue
        questions: list[Any] = field(entry, "questions", list, where)
        answers: list[Any] = field(entry, "answers", list, where)
        if len(questions) != len(answers):
            yield Skipped(key, "questions and answers differ in number")
            continue
        image = raw / "images" / (key + PurePosixPath(field(entry, "imageURL", str, where)).suffix)
        if image.suffix != ".jpg" and not image.is_file():
            image = image.with_suffix(".jpg")
        asked = [(str(question), str(answer)) for question, answer in zip(questions, answers, strict=True)]
        yield from conversations(key, image, asked, SHORT_ANSWER)
