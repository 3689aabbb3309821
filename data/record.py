"""What a converter lists: a sample whose text is at hand and whose images are still where their publishers put them.

A converter is a module in `data/sources/`, named as the source, with one function

    def records(raw: Path) -> Iterator[Record | Skipped]

which goes through the publishers' files in an order that never changes, and holds no images. `data.prepare` turns the
records into shards. Settings of a converter are keyword-only strings with defaults. Data that comes as shards has
`def shards(raw: Path) -> list[Path]` instead: they are used in place. What cuts its shards by itself has
`def jobs(raw: Path) -> Iterator[Job]`, of `data.prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from yivl.conversation import Turn

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""Ends the first question of a conversation whose answers are words, as in LLaVA-1.5 (arXiv 2310.03744, table 7)."""
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
"""The same for multiple choice."""
MAX_EXCHANGES = 10
"""Questions on one image that share a conversation; more begin another. The longest, with options or boxes, take some
70 tokens each, and so fit 2048 beside an image of 1024."""


class Readable(Protocol):
    """Where an image lies: a `Path`, or a place inside a file that is read when asked."""

    def read_bytes(self) -> bytes:
        """The bytes of the image file; `OSError` when it can't be read."""


@dataclass(frozen=True, slots=True)
class Record:
    """A sample to be written: one pair, in the sense of a cap."""

    key: str
    """Distinct within the source."""
    turns: tuple[Turn, ...]
    """A single turn of the assistant is a caption (with images) or a document (without)."""
    images: tuple[Readable, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of the raw files that can't become a sample."""

    key: str
    reason: str
    """In few fixed words, such as "empty answer": equal reasons are counted together."""


def caption(key: str, image: Readable, text: str) -> Record:
    """An image and its caption."""
    return Record(key, (Turn("assistant", text.strip(), images=1),), (image,))


def conversations(
    key: str, image: Readable, exchanges: Sequence[tuple[str, str]], instruction: str = ""
) -> list[Record | Skipped]:
    """All questions on one image, `MAX_EXCHANGES` to a conversation: `KEY`, `KEY-1`, `KEY-2`, …

    Exchanges whose question or answer is empty are left out; when none is left, that is one `Skipped`.

    Args:
        key: of the image.
        image: where it lies.
        exchanges: questions and answers, in their publishers' order.
        instruction: put on a line of its own after the first question of each conversation.
    """
    whole = [(question.strip(), answer.strip()) for question, answer in exchanges]
    whole = [exchange for exchange in whole if all(exchange)]
    if not whole:
        return [Skipped(key, "empty question or answer" if exchanges else "no questions")]
    records: list[Record | Skipped] = []
    for number, first in enumerate(range(0, len(whole), MAX_EXCHANGES)):
        turns: list[Turn] = []
        for question, answer in whole[first : first + MAX_EXCHANGES]:
            asked = question if turns or not instruction else f"{question}\n{instruction}"
            turns += [Turn("human", asked, images=0 if turns else 1), Turn("assistant", answer)]
        records.append(Record(f"{key}-{number}" if number else key, tuple(turns), (image,)))
    return records


def most_frequent(answers: Sequence[str]) -> str:
    """One target of several people's answers (VQAv2 and VizWiz ask ten): the one most of them gave, without regard to
    case and surrounding space; of equally many the one given first. In lower case."""
    given = [answer.strip().lower() for answer in answers]
    return max(given, key=given.count)  # max returns the first of equals
