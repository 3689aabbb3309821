"""Documents in files: a line, a row of a table or a whole file each; and how files are divided among shards.

A .jsonl is divided between any two lines, a parquet file between row groups; a compressed file can't be divided.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
from pyarrow import parquet

from data.raw import BadRaw
from data.record import Skipped
from data.sources.llava import Unusable

_LINES, _COMPRESSED, _TABLES, _TEXTS = (".jsonl",), (".jsonl.gz", ".jsonl.zst"), (".parquet",), (".txt", ".md")
KNOWN = (*_LINES, *_COMPRESSED, *_TABLES, *_TEXTS)
"""How the names of files of documents end."""
_LONGEST = 16 * 2**20
"""Bytes of a document, and of its line: tokenising takes 80 times its size in memory. Longer ones are left out."""
_TOO_LONG = f"longer than {_LONGEST // 2**20} MiB"
_DIVISION = 2**20
"""Bytes of a .jsonl that are not divided further."""
_TABLE_ROWS = 64
"""Of a parquet file, in memory at a time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file."""

    file: Path
    name: str
    """Below RAW."""
    start: int
    end: int
    """In row groups of a parquet file, otherwise in bytes; the lines are those that begin in between."""


def divided(files: Iterable[Path], top: Path, text: str, size: int) -> Iterator[tuple[Piece, ...]]:
    """Stretches of the files, in order, that have `size` bytes together or a little more."""
    pieces: list[Piece] = []
    held = 0
    for file in files:
        for start, end, part in _parts(file, text):
            if pieces and pieces[-1].file == file:
                pieces[-1] = replace(pieces[-1], end=end)
            else:
                pieces.append(Piece(file, file.relative_to(top).as_posix(), start, end))
            held += part
            if held >= size:
                yield tuple(pieces)
                pieces, held = [], 0
    if pieces:
        yield tuple(pieces)


def _parts(file: Path, text: str) -> Iterator[tuple[int, int, int]]:
    """Where the parts that a file may be divided into begin and end, and how many bytes they have."""
    if file.name.endswith(_TABLES):
        yield from _groups(file, text)
        return
    size = file.stat().st_size
    step = _DIVISION if file.name.endswith(_LINES) else max(size, 1)
    for start in range(0, max(size, 1), step):
        end = min(start + step, size)
        yield start, end, end - start


def _groups(file: Path, text: str) -> Iterator[tuple[int, int, int]]:
    """The row groups of a parquet file, with the bytes of the documents' column alone."""
    try:
        with parquet.ParquetFile(file) as opened:
            if text not in (columns := opened.schema_arrow.names):
                raise BadRaw(f"{file} has the columns {', '.join(columns)}; name that of the documents with text=")
            for number in range(opened.num_row_groups):
                group = opened.metadata.row_group(number)
                leaves = [group.column(leaf) for leaf in range(group.num_columns)]
                own = [leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] == text]
                yield number, number + 1, sum(leaf.total_uncompressed_size for leaf in own)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRaw(f"{file} can't be read as parquet: {error}") from error


def documents(piece: Piece, text: str) -> Iterator[str | Skipped]:
    """The documents of a piece, and what is none, with where it stands."""
    entries, parse = _entries(piece, text)
    for where, one in entries:
        try:
            yield _sound(parse(one))
        except Unusable as error:
            yield Skipped(f"{piece.name}{where}", str(error))
        except UnicodeDecodeError:
            yield Skipped(f"{piece.name}{where}", "not UTF-8")


def _entries(piece: Piece, text: str) -> tuple[Iterable[tuple[str, Any]], Callable[[Any], object]]:
    """What stands where in a piece, unread, and what reads it."""
    if piece.name.endswith(_TABLES):
        return _cells(piece, text), methodcaller("as_py")
    if piece.name.endswith(_TEXTS):
        return [("", piece)], _content
    return _lines(piece), partial(_field, name=text)


def _sound(value: object) -> str:
    """A document that can be tokenised.

    Raises:
        Unusable: it can't be.
    """
    if not isinstance(value, str):
        raise Unusable("not a text")
    if not value.strip():
        raise Unusable("empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:  # JSON can express half of a pair of surrogates
        raise Unusable("text is not Unicode") from error
    if size > _LONGEST:
        raise Unusable(_TOO_LONG)
    return value


def _content(piece: Piece) -> str:
    """The text of a file."""
    if piece.end > _LONGEST:
        raise Unusable(_TOO_LONG)
    return piece.file.read_bytes().decode("utf-8-sig")


def _field(line: bytes, name: str) -> object:
    """What a line holds under that name."""
    if len(line) > _LONGEST:
        raise Unusable(_TOO_LONG)
    try:
        entry = json.loads(line)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise Unusable("not JSON") from error
    if not isinstance(entry, dict) or name not in entry:
        raise Unusable(f"no {name!r}")
    return entry[name]


def _lines(piece: Piece) -> Iterator[tuple[str, bytes]]:
    """The lines that begin in a piece, and at which byte; of one that is too long its first part, longer than
    `_LONGEST`. Empty ones are passed over."""
    compressed = piece.name.endswith(_COMPRESSED)
    at, end = piece.start, sys.maxsize if compressed else piece.end
    try:
        with _opened(piece.file, compressed) as file:
            if at:
                file.seek(at - 1)
                at += _pass_line(file) - 1  # which began before
            while at < end and (line := file.readline(_LONGEST + 1)):
                if line.strip():
                    yield f"@{at}", line
                at += len(line)
                if not line.endswith(b"\n"):
                    at += _pass_line(file)
    except OSError as error:
        raise BadRaw(f"{piece.file}: damaged after byte {at} of its lines: {error}") from error


def _opened(file: Path, compressed: bool) -> io.BufferedReader:
    return io.BufferedReader(pyarrow.input_stream(str(file), compression="detect")) if compressed else file.open("rb")


def _pass_line(file: BinaryIO) -> int:
    """Reads to the end of a line of any length; how many bytes that were."""
    passed = 0
    while part := file.readline(_LONGEST):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def _cells(piece: Piece, column: str) -> Iterator[tuple[str, Any]]:
    """The cells of a column in the piece's row groups, and where they are."""
    try:
        with parquet.ParquetFile(piece.file) as opened:
            for group in range(piece.start, piece.end):
                row = 0
                for batch in opened.iter_batches(batch_size=_TABLE_ROWS, row_groups=[group], columns=[column]):
                    for cell in batch.column(0):
                        yield f", row {row} of row group {group}", cell
                        row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRaw(f"{piece.file} can't be read as parquet: {error}") from error
