"""Parquet as Hugging Face datasets ship it, for data of one's own: images and texts in columns of a table.

    RAW/….parquet     all below RAW, in the order of their paths

Images are in the column that `image=` names, else in the one named image, images, jpg or png: {"bytes", "path"}, bytes
alone, a path, or a list of one of these. Where "bytes" is null, "path" is taken, below RAW or the folder `images=`.
Texts are in the column that `text=` names, else in the one named text, caption, conversations, messages or texts:
    a string                                            a caption, or a document where the table has no images
    a list of strings                                   as many captions
    [{"from", "value"}] or [{"role", "content"}]        a conversation, as `llava` reads it
    [{"user", "assistant", …}]                          questions and answers (the_cauldron)

Listing reads the texts, not the images; those are read when they are written, a row group at a time.
Source: https://huggingface.co/docs/datasets/image_dataset, https://huggingface.co/datasets/HuggingFaceM4/the_cauldron.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from data.raw import BadRaw
from data.record import MAX_EXCHANGES, Readable, Record, Skipped
from data.sources.jsonl import sample
from data.sources.llava import Unusable, paths

_IMAGES = ("image", "images", "jpg", "png")
_TEXTS = ("text", "caption", "conversations", "messages", "texts")
_ROWS = 1024
"""Rows of text at hand while listing."""
_reading = threading.Lock()
"""Several threads that miss the cache at once would each hold a row group."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An image inside a table; its bytes are read when asked for."""

    file: Path
    group: int
    row: int
    """Within the row group."""
    column: str
    folder: Path
    """Where the path begins that stands instead of bytes."""
    place: int | None = None
    """In a list of images."""

    def read_bytes(self) -> bytes:
        """The bytes of the image file; `OSError` when there are none."""
        where = f"{self.file}: row {self.row} of row group {self.group}, {self.column!r}"
        try:
            with _reading:
                value = _column(self.file, self.group, self.column)[self.row]
            stored = (value if self.place is None else value[self.place]).as_py()
            if isinstance(stored, dict) and stored.get("bytes") is None:
                (path,) = paths(stored.get("path"), self.folder) or (None,)
                stored = path.read_bytes() if path else None
        except (pyarrow.ArrowException, OSError, Unusable) as error:
            raise OSError(f"{where}: {error}") from error
        content = stored["bytes"] if isinstance(stored, dict) else stored
        if not isinstance(content, bytes):
            raise OSError(f"{where}: no bytes and no path")
        return content


@lru_cache(maxsize=1)
def _column(file: Path, group: int, column: str) -> Any:
    with parquet.ParquetFile(file) as opened:
        return opened.read_row_group(group, columns=[column]).column(0)


def records(raw: Path, *, image: str = "", text: str = "", images: str = ".") -> Iterator[Record | Skipped]:
    """All rows.

    Args:
        raw: the folder.
        image: the column with the images; without it and without one of the usual names, the table is text alone.
        text: the column with the texts.
        images: the folder for paths that stand instead of bytes.
    """
    files = sorted(raw.rglob("*.parquet"))
    if not files:
        raise BadRaw(f"{raw} holds no .parquet")
    for file in files:
        try:
            yield from _table(file, file.relative_to(raw).with_suffix("").as_posix(), image, text, raw / images)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadRaw(f"{file} can't be read as parquet: {error}") from error


def _table(file: Path, name: str, image: str, text: str, folder: Path) -> Iterator[Record | Skipped]:
    with parquet.ParquetFile(file) as opened:
        columns = opened.schema_arrow.names
        said = _pick(file, columns, text, "text", _TEXTS)
        if not said:
            raise BadRaw(f"{file} has the columns {', '.join(columns)}; name the one with the texts with text=")
        pictured = _pick(file, columns, image, "image", _IMAGES)
        light = _light(opened, pictured) if pictured else None
        number = 0
        for group in range(opened.num_row_groups):
            row = 0
            wanted = [said, light] if light else [said]
            for batch in opened.iter_batches(batch_size=_ROWS, row_groups=[group], columns=wanted):
                for values in batch.to_pylist():
                    cell = Cell(file, group, row, pictured, folder)
                    shown = values[pictured] if light else b""
                    yield from _row(values[said], f"{name}/{number}", shown, cell)
                    number += 1
                    row += 1


def _pick(file: Path, columns: list[str], named: str, option: str, usual: tuple[str, ...]) -> str:
    """The column that was named, or the only one with a usual name, or none."""
    found = [column for column in columns if (column == named if named else column in usual)]
    if len(found) > 1 or (named and not found):
        remedy = f"name one of them with {option}=" + (f", not {named!r}" if named else "")
        raise BadRaw(f"{file} has the columns {', '.join(columns)}; {remedy}")
    return found[0] if found else ""


def _light(opened: Any, column: str) -> str | None:
    """What tells how many images a row has, without their bytes: the paths; None where each row has one."""
    kind = opened.schema_arrow.field(column).type
    leaves = [opened.schema.column(leaf).path for leaf in range(len(opened.schema))]
    beside = [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")]
    if beside:
        return str(beside[0])
    return None if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) else column


def _row(said: Any, key: str, shown: Any, cell: Cell) -> Iterator[Record | Skipped]:
    """The samples of one row; `shown` is None, a list, or anything for one image."""
    try:
        found = _images(shown, cell) if cell.column else ()
    except Unusable as error:
        yield Skipped(key, str(error))
        return
    entry: dict[str, Any] = {"image": None} if cell.column else {}
    if not isinstance(said, list):
        yield sample({**entry, "text": said}, key, found)
    elif said and isinstance(said[0], str):
        for number, text in enumerate(said):
            yield sample({**entry, "text": text}, f"{key}-{number}", found)
    elif said and isinstance(said[0], dict) and "user" in said[0]:
        for number, first in enumerate(range(0, len(said), MAX_EXCHANGES)):
            messages = [
                {"role": role, "content": exchange[role]}
                for exchange in said[first : first + MAX_EXCHANGES]
                for role in ("user", "assistant")
            ]
            yield sample({"messages": messages}, f"{key}-{number}" if number else key, found)
    else:
        yield sample({"messages": said}, key, found)


def _images(shown: Any, cell: Cell) -> tuple[Readable, ...]:
    if isinstance(shown, list):
        if any(isinstance(one, str) for one in shown):
            return paths(shown, cell.folder)
        return tuple(replace(cell, place=place) for place in range(len(shown)))
    if isinstance(shown, str):
        return paths(shown, cell.folder)
    return () if shown is None else (cell,)
