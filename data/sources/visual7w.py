"""Visual7W, the telling questions, train: what, where, when, who, why and how, each with four answers to choose from.

    RAW/dataset_v7w_telling.json
    RAW/images/v7w_2358125.jpg …                         visual7w_images.zip

With the pointing questions, whose answers are regions, and the other splits 327,939 questions on 47,300 images. The
toolkit is MIT; the images are COCO's, under Flickr's terms of use. https://github.com/yukezhu/visual7w-toolkit

A sample is an image with its questions. The answers stand below their question as A to D, in an order that depends on
the question's id alone; the target is the letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from data.raw import BadRaw, field, find, items
from data.record import LETTER_ANSWER, Record, Skipped, conversations

LETTERS = "ABCD"


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The images in their publishers' order."""
    questions = find(raw, "dataset_v7w_telling.json")
    for entry in items(questions, "images.item"):
        if field(entry, "split", str, questions) != "train":
            continue
        file = field(entry, "filename", str, questions)
        where = f"{questions}: {file}"
        pairs = field(entry, "qa_pairs", list, where)
        exchanges = [exchange for pair in pairs if (exchange := _exchange(pair, where))]
        if exchanges:
            yield from conversations(Path(file).stem, raw / "images" / file, exchanges)
        else:
            yield Skipped(Path(file).stem, "empty question or answer" if pairs else "no questions")


def _exchange(pair: object, where: str) -> tuple[str, str] | None:
    """A question with its options, and the letter of the right one; None if a text is empty."""
    number = field(pair, "qa_id", int, where)
    question = field(pair, "question", str, where).strip()
    wrong = field(pair, "multiple_choices", list, where)
    if len(wrong) != len(LETTERS) - 1 or not all(isinstance(option, str) for option in wrong):
        raise BadRaw(f"{where}: question {number} should have {len(LETTERS) - 1} wrong answers, not {wrong}")
    options = [option.strip() for option in (field(pair, "answer", str, where), *wrong)]
    if not question or not all(options):
        return None
    order = sorted(range(len(options)), key=lambda option: blake2b(f"{number}/{option}".encode()).digest())
    lines = [f"{letter}. {options[option]}" for letter, option in zip(LETTERS, order, strict=True)]
    return "\n".join([question, *lines, LETTER_ANSWER]), LETTERS[order.index(0)]
