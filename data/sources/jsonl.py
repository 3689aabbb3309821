"""JSON lines, for data of one's own: conversations, captions and documents, one a line.

    RAW/….jsonl     all below RAW in the order of their paths, or the one that `file=` names
    RAW/…           images, at the paths that the lines name; `images=` is another folder, below RAW or absolute

What a line is, its keys decide; "image" or "images" is a path or a list of paths, and "id" is of use in messages:
    {"conversations": [{"from", "value"}], "image"}     as `llava` reads it
    {"messages": [{"role", "content"}], "images"}       the same in other words; content may be in parts
    {"image", "text"} or {"image", "caption"}           a caption
    {"text"}                                            a document
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.raw import BadRaw, find, lines
from data.record import Readable, Record, Skipped
from data.sources.llava import IMAGE, Unusable, keyed, paths, turns
from yivl.conversation import Turn


def records(raw: Path, *, file: str = "", images: str = ".") -> Iterator[Record | Skipped]:
    """All lines. Arguments as of `llava.records`."""
    files = [find(raw, file)] if file else sorted(raw.rglob("*.jsonl"))
    if not files:
        raise BadRaw(f"{raw} holds no .jsonl")
    for found in files:
        for number, entry in lines(found):
            key = f"{found.relative_to(raw).with_suffix('').as_posix()}/{keyed(number, entry)}"
            try:
                if not isinstance(entry, dict):
                    raise Unusable("not an object")
                yield sample(entry, key, paths(entry.get("image") or entry.get("images"), raw / images))
            except Unusable as error:
                yield Skipped(key, str(error))


def sample(entry: Mapping[str, Any], key: str, images: Sequence[Readable]) -> Record | Skipped:
    """What an entry with these images is, by its keys."""
    try:
        for name in ("conversations", "messages"):
            if name in entry:
                return Record(key, turns(entry[name], len(images)), tuple(images))
        return Record(key, (Turn("assistant", _text(entry, bool(images)), images=len(images)),), tuple(images))
    except Unusable as error:
        return Skipped(key, str(error))


def _text(entry: Mapping[str, Any], pictured: bool) -> str:
    if "text" not in entry and "caption" not in entry:
        raise Unusable("unknown keys")
    text = entry.get("text", entry.get("caption"))
    if not isinstance(text, str):
        raise Unusable("the text is not a string")
    if not pictured and not entry.keys().isdisjoint(("image", "images", "caption")):
        raise Unusable("a caption without an image")
    if not text.replace(IMAGE, "").strip():
        raise Unusable("empty text")
    return text.replace(IMAGE, "").strip() if pictured else text
