"""LLaVA's layout, for data of one's own: a JSON array, and images in a folder.

    RAW/ANY.json    the only .json at the top, or the one that `file=` names
    RAW/…           images, at the paths that the entries name; `images=` is another folder, below RAW or absolute

An entry is {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}; "image" is a path, a list of paths
or missing, and ids may repeat. `<image>` marks where an image belongs and moves to the front of its turn; where no turn
has one, the images belong to the first question. A first message by gpt is left out, as LLaVA does; so are system
messages: the prompt has a text of its own. "user" and "assistant" are other names for "human" and "gpt".

Source: https://github.com/haotian-liu/LLaVA (docs/Finetune_Custom_Data.md, llava/train/train.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data.raw import BadRaw, find, items
from data.record import Record, Skipped
from yivl.conversation import Role, Turn

IMAGE = "<image>"
_UNSAFE = re.compile(r"[^\w-]+")
_SPEAKERS: dict[str, Role] = {"human": "human", "user": "human", "gpt": "assistant", "assistant": "assistant"}


class Unusable(ValueError):
    """An entry that can't become a sample; the message is the reason, in few fixed words."""


def records(raw: Path, *, file: str = "", images: str = ".") -> Iterator[Record | Skipped]:
    """All entries, in their order.

    Args:
        raw: the folder.
        file: the JSON file in it; needed when there are several.
        images: the folder that the entries' paths begin in.
    """
    found = sorted(path.name for path in raw.glob("*.json"))
    if not file and len(found) != 1:
        raise BadRaw(f"{raw} has {', '.join(found) or 'no .json'} where one .json is expected; name it with file=")
    yield from entries(find(raw, file or found[0]), raw / images)


def entries(file: Path, images: Path, part: str = "") -> Iterator[Record | Skipped]:
    """The entries of one file; `part` begins their keys, where a source has several files."""
    for position, entry in enumerate(items(file, "item")):
        yield read(entry, part + keyed(position, entry), images)


def keyed(position: int, entry: Any) -> str:
    """`POSITION-ID`, which no other entry of the file has, of characters that are safe in a file name."""
    identity = entry.get("id") if isinstance(entry, dict) else None
    return str(position) if identity is None else f"{position}-{_UNSAFE.sub('_', str(identity))}"


def read(entry: Any, key: str, images: Path) -> Record | Skipped:
    """One entry, whose images are below the folder `images`."""
    try:
        if not isinstance(entry, dict):
            raise Unusable("not an object")
        found = paths(entry.get("image"), images)
        return Record(key, turns(entry.get("conversations"), len(found)), found)
    except Unusable as error:
        return Skipped(key, str(error))


def paths(named: object, folder: Path) -> tuple[Path, ...]:
    """Where the images lie that an entry names: by a path, a list of paths, or nothing.

    Raises:
        Unusable: a path is no text, is absolute, or holds `..`.
    """
    names: list[Any] = named if isinstance(named, list) else [named] if named else []
    for name in names:
        if not isinstance(name, str) or not name:
            raise Unusable("an image is not a path")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise Unusable("image path leaves the folder")
    return tuple(folder / name for name in names)


def turns(messages: object, images: int) -> tuple[Turn, ...]:
    """The turns of messages that are {"from", "value"} or {"role", "content"}.

    Raises:
        Unusable: they are no conversation with answers, or their `<image>`s are not as many as the images.
    """
    said = [_message(message) for message in messages] if isinstance(messages, list) else []
    said = [(speaker, text) for speaker, text in said if speaker != "system"]
    if said and _SPEAKERS.get(said[0][0]) == "assistant":
        del said[0]
    if len(said) < 2:
        raise Unusable("no question with an answer")
    roles: list[Role] = []
    for speaker, _ in said:
        if speaker not in _SPEAKERS:
            raise Unusable("unknown speaker")
        roles.append(_SPEAKERS[speaker])
        if roles[-1] != ("human", "assistant")[(len(roles) - 1) % 2]:
            raise Unusable("speakers do not alternate")
    if roles[-1] == "human":
        raise Unusable("the last question has no answer")
    places = [text.count(IMAGE) for _, text in said]
    if any(places[1::2]):
        raise Unusable("an answer holds an <image>")
    if not any(places):
        places[0] = images
    if sum(places) != images:
        raise Unusable("not as many images as <image>")
    texts = [text.replace(IMAGE, "").strip() for _, text in said]
    if not all(text or place for text, place in zip(texts, places, strict=True)):
        raise Unusable("empty message")
    return tuple(Turn(*turn) for turn in zip(roles, texts, places, strict=True))


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise Unusable("a message is not an object")
    speaker = message.get("from", message.get("role"))
    text = message.get("value", message.get("content"))
    if isinstance(text, list):  # content in parts, as chat templates have it
        parts = [part if isinstance(part, dict) else {} for part in text]
        text = "\n".join(IMAGE if part.get("type") == "image" else str(part.get("text") or "") for part in parts)
    if not isinstance(speaker, str) or not isinstance(text, str):
        raise Unusable("a message has no speaker or no text")
    return speaker, text
