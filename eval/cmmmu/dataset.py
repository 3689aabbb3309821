"""CMMMU as it is published, in either layout: files to questions.

The repository CMMMU-Benchmark/CMMMU, cloned:

    FOLDER/cmmmu-data-val/art_and_design/art_and_design.jsonl    a question to a line
    FOLDER/cmmmu-data-val/art_and_design/q_01900_001.jpg         the pictures, beside it
    FOLDER/cmmmu-data-val/business/...

The hub's copy, `m-a-p/CMMMU`, downloaded:

    FOLDER/art_and_design/val-00000-of-00001.parquet

Both have for each question

    id                  whole number
    type                选择 (choice), 判断 (true or false) or 填空 (a blank)
    question            with `<img="q_01900_001.jpg">` where pictures belong
    option1..option4    of a choice; may be `<img="a_01486_001.jpg">`
    answer              "B", "ACD"; 对 or 错; text; missing where it is withheld, as in the split test
    subcategory         one of thirty subjects, in Chinese

and the repository `img_list`, the names of the pictures, for which the hub's copy has `image_1` to `image_5`, structs
of bytes and path, and their names in `image_1_filename` to `image_5_filename`. The rest is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import parquet
from eval.benchmark import BadData, Question
from eval.parquet import Cell

CATEGORIES = {
    "art_and_design": "Art & Design",
    "business": "Business",
    "science": "Science",
    "health_and_medicine": "Health & Medicine",
    "humanities_and_social_sciences": "Humanities & Social Sciences",
    "technology_and_engineering": "Technology & Engineering",
}
"""Folders to names, in the order in which the official script goes through them (`eval/eval_script.py`), on which the
random fallback depends."""

SIZES = {"val": 900, "dev": 112, "test": 11000}
"""Questions by split; the usual one first."""

CHOICE, TRUE_FALSE, BLANK = "选择", "判断", "填空"
TYPES = (CHOICE, TRUE_FALSE, BLANK)
WITHHELD = ("", "?", "-")
"""Answers that say that there is none to compare with."""

_OPTIONS = tuple(f"option{number}" for number in range(1, 5))
_IMAGES = tuple(f"image_{number}" for number in range(1, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Question):
    """One question. Its `truth` is its answer, empty where that is withheld."""

    prompt: str = ""
    """Filled in by the benchmark."""
    type: str
    question: str
    """With its `<img="...">` tags."""
    options: tuple[str, ...] = ()
    """Four, of a choice."""
    images: Mapping[str, Path | Cell] = field(default_factory=dict)
    """Its pictures by name, in the file's order: names with `q_` belong to the question, with `a_` to an option."""

    @property
    def choices(self) -> dict[str, str]:
        """The options by letter."""
        return dict(zip("ABCD", self.options, strict=False))


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of some categories."""

    files: tuple[Path, ...]
    entries: tuple[Entry, ...]
    """Categories in the official order, rows as in the files."""


def load(folder: Path, split: str, categories: Sequence[str] | None = None) -> Dataset:
    """The questions of `split`, of the named categories or of all that `folder` has.

    Raises:
        FileNotFoundError: no files of the split, or none of a category.
        ValueError: an unknown category.
        BadData: a file or row that is not as the module's text says.
    """
    if unknown := [name for name in categories or () if name not in CATEGORIES]:
        raise ValueError(f"unknown CMMMU category {unknown[0]!r}; there are {', '.join(CATEGORIES)}")
    cloned = folder / f"cmmmu-data-{split}"
    files = _cloned(cloned, categories) if cloned.is_dir() else _downloaded(folder, split, categories)
    entries: dict[str, Entry] = {}
    for category, shards in files.items():
        before = len(entries)
        for shard in shards:
            for entry in (_from_jsonl if shard.suffix == ".jsonl" else _from_parquet)(shard, category):
                if entry.id in entries:
                    raise BadData(f"{entry.where}: the same id as {entries[entry.id].where}")
                entries[entry.id] = entry
        if len(entries) == before:
            raise BadData(f"{', '.join(map(str, shards))}: no rows, so category {category} is empty")
    return Dataset(tuple(shard for shards in files.values() for shard in shards), tuple(entries.values()))


def _cloned(folder: Path, categories: Sequence[str] | None) -> dict[str, list[Path]]:
    files = {name: folder / name / f"{name}.jsonl" for name in CATEGORIES if categories is None or name in categories}
    if categories is None:
        files = {name: file for name, file in files.items() if file.is_file()}
    if missing := [file for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(f"no {missing[0]}")
    if not files:
        raise FileNotFoundError(f"{folder} has no category; expected files like business/business.jsonl")
    return {name: [file] for name, file in files.items()}


def _downloaded(folder: Path, split: str, categories: Sequence[str] | None) -> dict[str, list[Path]]:
    there = [name for name in CATEGORIES if list((folder / name).glob("*.parquet"))]
    if not there:
        raise FileNotFoundError(
            f"{folder} has neither cmmmu-data-{split}/business/business.jsonl, as the repository CMMMU-Benchmark/CMMMU "
            f"has, nor business/{split}-00000-of-00001.parquet, as the hub's m-a-p/CMMMU has"
        )
    chosen = there if categories is None else [name for name in CATEGORIES if name in categories]
    return {name: parquet.shards(folder / name, split) for name in chosen}


def _from_jsonl(file: Path, category: str) -> Iterator[Entry]:
    for row, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        where = f"{file}, row {row}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadData(f"{where}: not JSON, so the file is damaged; fetch it again: {error}") from error
        if not isinstance(record, dict):
            raise BadData(f"{where}: not an object but {line[:40]!r}")
        names = record.get("img_list")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise BadData(f"{where}: img_list is no list of names: {names!r}")
        yield _entry(record, {name: file.parent / name for name in names}, category, file, row)


def _from_parquet(file: Path, category: str) -> Iterator[Entry]:
    names = tuple(f"{image}_filename" for image in _IMAGES)
    for row, record in parquet.rows(
        file, ("id", "type", "question"), _IMAGES, (*_OPTIONS, "answer", "subcategory", *names)
    ):
        where = f"{file}, row {row} ({record['id']})"
        images = {
            name: Cell(file, row, image, where)
            for image, column in zip(_IMAGES, names, strict=True)
            if (name := record.get(column))
        }
        yield _entry(record, images, category, file, row)


def _entry(record: Mapping[str, Any], images: Mapping[str, Path | Cell], category: str, file: Path, row: int) -> Entry:
    where = f"{file}, row {row}"
    for name in ("id", "type", "question"):
        if record.get(name) is None:
            raise BadData(f"{where}: no {name}; it has {', '.join(record)}")
    kind, answer = str(record["type"]), record.get("answer")
    if not str(record["id"]).isdecimal():
        raise BadData(f"{where}: id is {record['id']!r}; it should be a whole number")
    if kind not in TYPES:
        raise BadData(f"{where}: type {kind!r}; there are {', '.join(TYPES)}")
    options = [record.get(name) for name in _OPTIONS] if kind == CHOICE else []
    if all(option is None for option in options) and kind == CHOICE:
        raise BadData(f"{where}: a question of choice without options")
    return Entry(
        id=str(record["id"]),
        type=kind,
        question=str(record["question"]),
        options=tuple("" if option is None else str(option) for option in options),
        images=images,
        truth="" if answer is None or answer in WITHHELD else str(answer),
        groups={
            "discipline": CATEGORIES[category],
            "subject": str(record.get("subcategory") or category),
            "type": kind,
        },
        file=file,
        row=row,
    )
