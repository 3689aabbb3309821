"""Parquet files as the hub publishes them: shards of a split, their columns checked, pictures read when asked for.

A picture is `struct<bytes: binary, path: string>`, the bytes those of an image file, or null where there is none.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eval.benchmark import BadData

NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises."""

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


class Cell(NamedTuple):
    """Where a picture stands."""

    file: Path
    row: int
    column: str
    where: str
    """File, row and question, for messages."""


class Shape(NamedTuple):
    """What a file holds, without its rows."""

    columns: tuple[str, ...]
    rows: int


def shards(folder: Path, split: str) -> list[Path]:
    """The files of `split` in `folder`: `{split}-00000-of-00002.parquet` and the like, in order.

    Raises:
        FileNotFoundError: there is none, or one of them is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}, so {folder.name} is not there")
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        others = sorted({split_of(path) for path in folder.glob("*.parquet")})
        raise FileNotFoundError(f"{folder} has no {split}-*.parquet; it has {', '.join(others) or 'no parquet file'}")
    numbers = [match for shard in found if (match := _SHARD.search(shard.name))]
    if numbers:
        expected = set(range(int(numbers[0][2])))
        missing = sorted(expected - {int(match[1]) for match in numbers})
        if missing:
            raise FileNotFoundError(f"{folder}: of {len(expected)} {split} shards, number {missing[0]} is missing")
    return found


def split_of(path: Path) -> str:
    """The split that a shard belongs to, by its name."""
    return path.name.split("-")[0]


def rows(
    file: Path, text: Sequence[str], images: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The text of every row: its number, and the text columns with those of the optional ones that are there.

    Args:
        file: a shard.
        text: columns of strings that must be there. Whole numbers are taken as well, as strings.
        images: columns of pictures that must be there; they are not read.
        optional: columns of strings that need not be there, or may be empty.

    Raises:
        BadData: it is no parquet file, or its columns are not these.
    """
    with _reading(file) as parquet:
        schema = parquet.schema_arrow
        _check_columns(file, schema, text, images, optional)
        table = parquet.read(columns=[*text, *(name for name in optional if name in schema.names)])
    for row, record in enumerate(table.to_pylist()):
        yield row, {name: None if value is None else str(value) for name, value in record.items()}


def records(file: Path) -> list[dict[str, Any]]:
    """All rows with all columns, of whatever type.

    Raises:
        BadData: it is no parquet file, or is cut off.
    """
    with _reading(file) as parquet:
        found: list[dict[str, Any]] = parquet.read().to_pylist()
    return found


def shape(file: Path) -> Shape:
    """Names of columns and number of rows of a shard.

    Raises:
        BadData: it is no parquet file, or is cut off.
    """
    with _reading(file) as parquet:
        return Shape(tuple(parquet.schema_arrow.names), parquet.metadata.num_rows)


def given(record: Mapping[str, str | None], column: str, where: str) -> str:
    """The text of a column that must not be null.

    Raises:
        BadData: it is.
    """
    value = record[column]
    if value is None:
        raise BadData(f"{where}: no {column}")
    return value


def string_list(literal: str | None, where: str) -> tuple[str, ...]:
    """A Python list literal as MMMU writes options; nothing for an empty cell.

    Raises:
        BadData: it is none.
    """
    try:
        values = ast.literal_eval(literal or "[]")
    except NO_LITERAL as error:
        raise BadData(f"{where}: options are no Python list literal: {literal!r}") from error
    if not isinstance(values, list):
        raise BadData(f"{where}: options are a {type(values).__name__}, not a list: {literal!r}")
    return tuple(str(value) for value in values)


def images(cells: Sequence[Cell]) -> dict[Cell, bytes | None]:
    """The bytes of image files by cell, None where there is none; only the row groups that hold them are read.

    Raises:
        BadData: what is there is no image file.
    """
    found: dict[Cell, bytes | None] = {}
    for file in dict.fromkeys(cell.file for cell in cells):
        wanted: dict[int, list[Cell]] = {}
        for cell in cells:
            if cell.file == file:
                wanted.setdefault(cell.row, []).append(cell)
        for cell, image in _values(file, wanted):
            content = (image or {}).get("bytes")
            if content is not None:
                _check_image(content, cell)
            elif image and image.get("path"):
                raise BadData(f"{cell.where}: {cell.column} has a path and no bytes: {image['path']!r}")
            found[cell] = content
    return found


def _values(file: Path, wanted: Mapping[int, Sequence[Cell]]) -> Iterator[tuple[Cell, Any]]:
    """What stands in the wanted cells, by row."""
    with _reading(file) as parquet:
        first = 0
        for group in range(parquet.num_row_groups):
            here = range(first, first := first + parquet.metadata.row_group(group).num_rows)
            cells = [cell for row in here for cell in wanted.get(row, ())]
            if cells:
                table = parquet.read_row_group(group, columns=sorted({cell.column for cell in cells}))
                for cell in cells:
                    yield cell, table.column(cell.column)[cell.row - here.start].as_py()


def _check_image(content: bytes, cell: Cell) -> None:
    """Only the header: the model decodes each image anyway, and some have tens of megapixels."""
    try:
        Image.open(io.BytesIO(content)).close()
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and others
        raise BadData(f"{cell.where}: {cell.column} can't be decoded: {error}") from error


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{file}: not a readable parquet file: {error}") from error


def _check_columns(
    file: Path, schema: Any, text: Sequence[str], images: Sequence[str], optional: Sequence[str]
) -> None:
    names = set(schema.names)
    if missing := [name for name in (*text, *images) if name not in names]:
        raise BadData(f"{file}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    for name in (*text, *optional):
        if name in names:
            kind = schema.field(name).type
            if not (_is_text(kind) or (name in optional and pa.types.is_null(kind))):
                raise BadData(f"{file}: column {name} is {kind}; it should be string")
    for name in images:
        kind = schema.field(name).type
        if not (pa.types.is_null(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
            raise BadData(f"{file}: column {name} is {kind}; it should be struct<bytes: binary, path: string>")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))
