"""What the tests of converters share: writing raw files, and reading what comes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from data.record import Record, Skipped
from yivl.conversation import Conversation, Turn


def put(file: Path, content: object) -> Path:
    """Writes bytes, text, lines of JSON (of a tuple) or JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, tuple):
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
    if not isinstance(content, str | bytes):
        content = json.dumps(content, ensure_ascii=False)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def human(text: str, images: int = 0) -> Turn:
    return Turn("human", text, images=images)


def gpt(text: str) -> Turn:
    return Turn("assistant", text)


def caption(key: str, image: Path, text: str) -> Record:
    return Record(key, (Turn("assistant", text, images=1),), (image,))


def talk(*values: str) -> list[dict[str, str]]:
    """Messages by human and gpt in turn."""
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


def whole(found: Iterable[Record | Skipped]) -> list[Record | Skipped]:
    """All of them; what is no conversation, or a key that comes twice, is an error."""
    listed = list(found)
    assert len({one.key for one in listed}) == len(listed)
    for one in listed:
        if isinstance(one, Record):
            Conversation(turns=one.turns, images=(b"",) * len(one.images), key=one.key)
    return listed


def texts(record: Record | Skipped) -> list[str]:
    """The texts of a record, after checking that it makes a conversation whose image is asked about first."""
    assert isinstance(record, Record)
    conversation = Conversation(turns=record.turns, images=(b"",) * len(record.images))
    assert not conversation.open and [turn.images for turn in record.turns] == [1] + [0] * (len(record.turns) - 1)
    return [turn.text for turn in record.turns]
