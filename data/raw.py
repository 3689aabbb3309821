"""Reading publishers' raw files: JSON of any size without holding it, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import ijson

T = TypeVar("T")


class BadRaw(ValueError):
    """Raw files that are not as their publishers ship them; the message says which and what was expected."""


def find(raw: Path, *names: str) -> Path:
    """The first of these files that exists below `raw`.

    Raises:
        BadRaw: there is none.
    """
    for name in names:
        if (raw / name).is_file():
            return raw / name
    raise BadRaw(f"{raw} has no {' or '.join(names)}; RAW is the folder that the publishers' archives unpack into")


def items(file: Path, prefix: str) -> Iterator[Any]:
    """The entries of an array in a JSON file, one at a time; numbers are int or float.

    Args:
        file: a JSON file.
        prefix: where the array is, as ijson writes it: `item` for a file that is an array, `questions.item` for the
            one under the key `questions`.

    Raises:
        BadRaw: the file is not JSON, or has nothing there.
    """
    yield from _streamed(file, prefix, ijson.items)


def pairs(file: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of an object in a JSON file, one at a time. Arguments and errors as of `items`."""
    yield from _streamed(file, prefix, ijson.kvitems)


def _streamed(file: Path, prefix: str, reader: Any) -> Iterator[Any]:
    found = 0
    with file.open("rb") as opened:
        try:
            for found, entry in enumerate(reader(opened, prefix, use_float=True), start=1):  # noqa: B007
                yield entry
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise BadRaw(f"{file}: damaged after {found} entries: {error}") from error
    if not found:
        raise BadRaw(f"{file}: no entries at {prefix or 'its top'!r}")


def lines(file: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a JSONL file with the numbers of their lines, from 1; empty lines are passed over.

    Raises:
        BadRaw: a line is not JSON in UTF-8.
    """
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise BadRaw(f"{file}: line {number} is not JSON: {error}") from error


def field(entry: Any, name: str, kind: type[T], where: object) -> T:
    """`entry[name]`, of that type.

    Raises:
        BadRaw: it is missing or of another type; `where` says in which entry.
    """
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise BadRaw(f"{where}: {name!r} should be {kind.__name__}, in {str(entry)[:200]}")
    return value
