"""Annotation files as they are published, in JSON: what is wrong with one is said with its file and entry."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eval.benchmark import BadData

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in an annotation file, which knows where it stands."""

    content: Any
    file: Path
    row: int
    """Of the file's entries, from 0."""

    @property
    def where(self) -> str:
        """File and entry, for messages."""
        return f"{self.file}, entry {self.row}"

    def get(self, name: str, kind: type[T]) -> T:
        """The value under `name`.

        Raises:
            BadData: there is none, or it is of another type.
        """
        value = self.content.get(name) if isinstance(self.content, dict) else None
        if not isinstance(value, kind):
            raise BadData(f"{self.where}: {name!r} should be {kind.__name__}, in {str(self.content)[:200]}")
        return value

    def inside(self, name: str) -> Entry:
        """The object under `name`; raises as `get`."""
        return Entry(self.get(name, dict), self.file, self.row)

    def each(self, name: str) -> list[Entry]:
        """The objects in the list under `name`; raises as `get`."""
        return [Entry(one, self.file, self.row) for one in self.get(name, list)]


def entries(file: Path, name: str | None = None) -> list[Entry]:
    """The objects of a file that is a list, or has one under `name`.

    Raises:
        BadData: it is not JSON, has no such list, or an empty one.
    """
    content = _load(file)
    if name is not None:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, list) or not content:
        raise BadData(f"{file}: no entries{f' under {name!r}' if name else ''}; is it the published file?")
    return [Entry(one, file, row) for row, one in enumerate(content)]


def named_entries(file: Path) -> Iterator[tuple[str, Entry]]:
    """The objects of a file that is an object of objects, with their names; raises as `entries`."""
    content = _load(file)
    if not isinstance(content, dict) or not content:
        raise BadData(f"{file}: no entries; is it the published file?")
    for row, (name, one) in enumerate(content.items()):
        yield name, Entry(one, file, row)


def lines(file: Path) -> list[Entry]:
    """The objects of a file that has one to a line, packed by gzip or not; raises as `entries`."""
    numbered = enumerate(_content(file).splitlines(), start=1)
    found = [_parsed(line, f"{file}, line {number}") for number, line in numbered if line.strip()]
    if not found:
        raise BadData(f"{file}: no lines; is it the published file?")
    return [Entry(one, file, row) for row, one in enumerate(found)]


def _content(file: Path) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{file}: not packed by gzip ({error}); it may be cut off: download it again") from error


def _load(file: Path) -> Any:
    return _parsed(file.read_bytes(), str(file))


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where}: not JSON ({error}); it may be cut off: download it again") from error
