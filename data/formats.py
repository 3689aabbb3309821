"""From a sample's members to a conversation or a row of tokens: one small function per record shape, found by name in
`FORMATS`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from data.index import is_image, split_name
from data.rows import FORMAT, KINDS, Row
from data.tar import BLOCK, BadTar, members
from yivl.conversation import Conversation, Role, Turn

Members = Mapping[str, bytes]
"""Content by extension."""


class BadSample(ValueError):
    """A sample that its format can't read; the message says why."""


Format = Callable[[Members, str, str], Conversation | Row]
FORMATS: dict[str, Format] = {}


def form(name: str) -> Callable[[Format], Format]:
    """Registers a format; it is called with the members, the source and the key."""

    def register(function: Format) -> Format:
        FORMATS[name] = function
        return function

    return register


def format_named(name: str) -> Format:
    """The format of that name; `ValueError` lists those there are."""
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


@form("caption")
def caption(sample: Members, source: str, key: str) -> Conversation:
    """img2dataset's layout (LAION): `jpg`, `txt`, and a `json` of metadata that is not used."""
    text = _text(sample, "txt").strip()
    if not text:
        raise BadSample("the caption is empty")
    images = _images(sample)
    if not images:
        raise BadSample("there is no image")
    return Conversation(turns=(Turn("assistant", text, images=len(images)),), images=images, source=source, key=key)


@form("conversation")
def conversation(sample: Members, source: str, key: str) -> Conversation:
    """LLaVA's layout: a `json` with `conversations`, `[{"from": "human" | "gpt", "value": ...}]`, and any images.

    `<image>` stands where an image belongs; as in LLaVA's own preprocessing it moves to the front of its turn. A single
    message by gpt is a caption, and may hold images, or a document.
    """
    record = _record(sample)
    try:
        messages = [(message["from"], message["value"]) for message in record["conversations"]]
    except (KeyError, TypeError) as error:
        raise BadSample(f"its json has no readable 'conversations': {type(error).__name__}: {error}") from error
    turns = []
    for speaker, value in messages:
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise BadSample(f"a message is from {repr(speaker)[:80]}; known are {', '.join(_ROLES)}")
        if not isinstance(value, str):
            raise BadSample(f"a message is not a text but {repr(value)[:80]}")
        images = value.count("<image>")
        if images and _ROLES[speaker] == "assistant" and len(messages) > 1:
            raise BadSample("an answer holds an <image>")
        turns.append(Turn(_ROLES[speaker], _whole(value).replace("<image>", "").strip(), images=images))
    try:
        return Conversation(turns=tuple(turns), images=_images(sample), source=source, key=key)
    except ValueError as error:
        raise BadSample(str(error)) from error


@form("text")
def text(sample: Members, source: str, key: str) -> Conversation:
    """A document: `txt`, learned from its first word to its last."""
    return Conversation(turns=(Turn("assistant", _text(sample, "txt")),), source=source, key=key)


@form("completion")
def completion(sample: Members, source: str, key: str) -> Conversation:
    """A `json` with `prompt` and `completion`, of which the completion is learned."""
    record = _record(sample)
    try:
        given, learned = _whole(str(record["prompt"])), _whole(str(record["completion"]))
    except (KeyError, TypeError) as error:
        raise BadSample(
            f"its json has no readable 'prompt' and 'completion': {type(error).__name__}: {error}"
        ) from error
    return Conversation(turns=(Turn("assistant", learned),), given=given, source=source, key=key)


@form(FORMAT)
def tokens(sample: Members, source: str, key: str) -> Row:
    """A row of tokens: `ids`, and a `json` with `row`, `starts` and `tokenizer`, as `data.rows` tells of them."""
    record = _record(sample)
    if "ids" not in sample:
        raise BadSample(f"it has no ids member, only {', '.join(sample)}")
    try:
        length, starts, tokenizer = (record[name] for name in ("row", "starts", "tokenizer"))
        sound = isinstance(tokenizer, str) and all(type(number) is int for number in (length, *starts))
    except (KeyError, TypeError) as error:
        raise BadSample(
            f"its json has no readable 'row', 'starts' and 'tokenizer': {type(error).__name__}: {error}"
        ) from error
    if not sound or not starts or starts[0] or any(end <= start for start, end in pairwise((*starts, length))):
        raise BadSample(f"its json does not tell of segments: {repr(record)[:80]}")
    kind = next((kind for kind in KINDS if len(sample["ids"]) == length * kind.itemsize), None)
    if kind is None:
        raise BadSample(f"its ids are {len(sample['ids'])} bytes, which are not {length} tokens")
    return Row(
        ids=np.frombuffer(sample["ids"], dtype=kind), starts=tuple(starts), tokenizer=tokenizer, source=source, key=key
    )


_ROLES: dict[str, Role] = {"human": "human", "user": "human", "gpt": "assistant", "assistant": "assistant"}


def unpack(blob: bytes, key: str) -> dict[str, bytes]:
    """The members of a sample, cut out of its shard, by extension.

    Raises:
        BadTar: they are damaged, or not those of `key`.
    """
    found = {}
    with io.BytesIO(blob) as file:
        for member in members(file, "sample", end=len(blob) // BLOCK * BLOCK):
            name, extension = split_name(member.name)
            if name != key:
                raise BadTar(f"the shard holds {name!r} where its index says {key!r}")
            if extension in found:
                raise BadTar(f"its member {member.name!r} comes twice")
            found[extension] = blob[member.data : member.data + member.size]
    return found


def _text(sample: Members, extension: str) -> str:
    if extension not in sample:
        raise BadSample(f"it has no {extension} member, only {', '.join(sample) or 'none'}")
    try:
        return sample[extension].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSample(f"its {extension} is not UTF-8: {error}") from error


def _record(sample: Members) -> Any:
    try:
        return json.loads(_text(sample, "json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample(f"its json can't be read: {type(error).__name__}: {error}") from error


def _whole(text: str) -> str:
    """`text`, unless it holds half of a pair of surrogates, which JSON can express but no text is made of."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSample(f"its text is not Unicode: {error}") from error
    return text


def _images(sample: Members) -> tuple[bytes, ...]:
    """Images in the order of their extensions: `jpg`, or `0.jpg`, `1.jpg`, …"""
    return tuple(sample[e] for e in sorted(sample, key=_numbered) if is_image(e))


def _numbered(extension: str) -> tuple[int, str]:
    first: Any = extension.split(".", 1)[0]
    return (int(first) if first.isdecimal() and len(first) < 10 else -1, extension)
