"""MMMU as it lies on the hub, `MMMU/MMMU`, downloaded to a folder: parquet files to samples.

    FOLDER/Accounting/dev-00000-of-00001.parquet
    FOLDER/Accounting/validation-00000-of-00001.parquet
    FOLDER/Accounting/test-00000-of-00001.parquet
    FOLDER/Agriculture/...

A split may have several shards (`-00000-of-00003` to `-00002-of-00003`). One row is one question; the hub's columns, in
order:

    id                string   `{split}_{Subject}_{n}`
    question          string   with `<image N>` where the images belong
    options           string   a Python list literal; "[]" for an open question
    explanation       string
    image_1..image_7  struct<bytes: binary, path: string>   an image file; null where there is none
    img_type          string   a list literal
    answer            string   a letter; open: text, or a list literal of accepted texts; "?" where it is withheld
    topic_difficulty  string   Easy, Medium or Hard
    question_type     string   "multiple-choice"; anything else is an open question
    subfield          string

Read are `id`, `question`, `options`, `question_type` and `image_1`, which must be there, and `answer`, which may be
missing. Images are read when they are asked for.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eval.mmmu import revision
from eval.mmmu.subjects import SPLITS, SUBJECTS, in_order

MULTIPLE_CHOICE = "multiple-choice"
WITHHELD = ("", "?")
"""Answers that say that there is none to compare with."""

_TEXT_COLUMNS = ("id", "question", "options", "question_type")
_IMAGE_COLUMN = "image_1"
_NO_LITERAL = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises."""

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question."""

    id: str
    subject: str
    question: str
    """With its `<image N>` tags."""
    options: tuple[str, ...] = ()
    question_type: str = MULTIPLE_CHOICE
    answer: str | None = None
    """As it stands in the file; None where the file has none."""
    file: Path = Path()
    row: int = 0
    """Row in `file`, from 0."""

    @property
    def multiple_choice(self) -> bool:
        """True when one of the options is asked for; otherwise the question is open."""
        return self.question_type == MULTIPLE_CHOICE

    @property
    def choices(self) -> dict[str, str]:
        """The options by letter, from A."""
        return {chr(ord("A") + index): option for index, option in enumerate(self.options)}

    @property
    def gold(self) -> str | list[str] | None:
        """The right answer or the accepted answers; None where it is withheld."""
        return gold(self.answer)

    @property
    def where(self) -> str:
        """File, row and id, for messages."""
        return f"{self.file}, row {self.row} ({self.id})"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of some subjects."""

    folder: Path
    split: str
    files: tuple[Path, ...]
    samples: tuple[Sample, ...]
    """Subjects in the official order, rows as in the files."""
    revision: str
    """sha256 over the files' names (relative to the folder) and contents, in the order of their names."""

    @property
    def subjects(self) -> list[str]:
        """The subjects that it holds, in the official order."""
        return in_order(list({sample.subject for sample in self.samples}))


def gold(answer: str | None) -> str | list[str] | None:
    """`answer` as the scoring takes it: a list literal becomes the list of accepted answers."""
    if answer is None or answer in WITHHELD:
        return None
    if answer.startswith("["):
        try:
            values = ast.literal_eval(answer)
        except _NO_LITERAL:
            return answer  # such as the interval "[0, 1)"
        if isinstance(values, list):
            return [str(value) for value in values]
    return answer


def load(folder: Path, split: str, subjects: Sequence[str] | None = None) -> Dataset:
    """The questions of `split`, of the named subjects or of all that `folder` has.

    Raises:
        FileNotFoundError: no such folder, no such subject in it, or no file of the split.
        ValueError: an unknown split or subject, or a file or row that is not as the module's text says.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown MMMU split {split!r}; there are {', '.join(SPLITS)}")
    files = _files(folder, split, subjects)
    samples: list[Sample] = []
    seen: dict[str, Sample] = {}
    for subject, shards in files.items():
        before = len(samples)
        for shard in shards:
            for sample in _samples(shard, subject):
                if sample.id in seen:
                    raise ValueError(f"{sample.where}: the same id as {seen[sample.id].where}")
                seen[sample.id] = sample
                samples.append(sample)
        if len(samples) == before:
            raise ValueError(f"{', '.join(map(str, shards))}: no rows, so subject {subject} is empty")
    every = tuple(shard for shards in files.values() for shard in shards)
    return Dataset(folder, split, every, tuple(samples), revision.of_files(folder, every))


def read_images(samples: Sequence[Sample]) -> list[bytes | None]:
    """The file bytes of each sample's `image_1`, None where it has none; only these rows stay in memory.

    Raises:
        ValueError: what is there is no image file.
    """
    found: dict[tuple[Path, int], bytes | None] = {}
    for file in dict.fromkeys(sample.file for sample in samples):
        wanted = {sample.row: sample for sample in samples if sample.file == file}
        for row, image in _rows_of(file, wanted):
            content = (image or {}).get("bytes")
            if content is not None:
                _check_image(content, wanted[row])
            elif image and image.get("path"):
                raise ValueError(f"{wanted[row].where}: {_IMAGE_COLUMN} has a path and no bytes: {image['path']!r}")
            found[file, row] = content
    return [found[sample.file, sample.row] for sample in samples]


def _rows_of(file: Path, wanted: dict[int, Sample]) -> Iterator[tuple[int, Any]]:
    """The `image_1` of the wanted rows, by the row groups that hold them."""
    with _reading(file) as parquet:
        first = 0
        for group in range(parquet.num_row_groups):
            rows = range(first, first := first + parquet.metadata.row_group(group).num_rows)
            here = [row for row in rows if row in wanted]
            if here:
                column = parquet.read_row_group(group, columns=[_IMAGE_COLUMN]).column(_IMAGE_COLUMN)
                yield from ((row, column[row - rows.start].as_py()) for row in here)


def _check_image(content: bytes, sample: Sample) -> None:
    """Only the header: the model decodes each image anyway, and some have tens of megapixels."""
    try:
        Image.open(io.BytesIO(content)).close()
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error and others
        raise ValueError(f"{sample.where}: {_IMAGE_COLUMN} can't be decoded: {error}") from error


def _files(folder: Path, split: str, subjects: Sequence[str] | None) -> dict[str, list[Path]]:
    """The split's shards by subject, in the official order."""
    if subjects is not None and not subjects:
        raise ValueError("no MMMU subject is named; name some, or leave the choice out for all")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; it should hold MMMU's parquet files, one folder to a subject")
    if subjects is None:
        with_data = {path.parent.name for path in folder.glob("[!.]*/*.parquet") if _split_of(path) in SPLITS}
        subjects = in_order(list(with_data))
        if not subjects:
            raise FileNotFoundError(
                f"{folder} has no folder of an MMMU subject; expected files like "
                f"{folder / SUBJECTS[0]}/{split}-00000-of-00001.parquet"
            )
    return {subject: _shards(folder / subject, split) for subject in in_order(list(subjects))}


def _split_of(path: Path) -> str:
    return path.name.split("-")[0]


def _shards(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}, so the subject {folder.name} is not there")
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if not shards:
        others = sorted({_split_of(path) for path in folder.glob("*.parquet")})
        raise FileNotFoundError(f"{folder} has no {split}-*.parquet; it has {', '.join(others) or 'no parquet file'}")
    numbers = [match for shard in shards if (match := _SHARD.search(shard.name))]
    if numbers:
        expected = set(range(int(numbers[0][2])))
        missing = sorted(expected - {int(match[1]) for match in numbers})
        if missing:
            raise FileNotFoundError(f"{folder}: of {len(expected)} {split} shards, number {missing[0]} is missing")
    return shards


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable parquet file: {error}") from error


def _samples(file: Path, subject: str) -> Iterator[Sample]:
    with _reading(file) as parquet:
        _check_columns(file, parquet.schema_arrow)
        labelled = "answer" in parquet.schema_arrow.names
        table = parquet.read(columns=[*_TEXT_COLUMNS, *(("answer",) if labelled else ())])
    for row, record in enumerate(table.to_pylist()):
        where = f"{file}, row {row}"
        for column in ("id", "question", "question_type"):
            if record[column] is None:
                raise ValueError(f"{where}: no {column}")
        sample = Sample(
            id=record["id"],
            subject=subject,
            question=record["question"],
            options=_options(record["options"], f"{where} ({record['id']})"),
            question_type=record["question_type"],
            answer=record.get("answer"),
            file=file,
            row=row,
        )
        if sample.multiple_choice and not sample.options:
            raise ValueError(f"{sample.where}: a {MULTIPLE_CHOICE} question without options")
        yield sample


def _check_columns(file: Path, schema: Any) -> None:
    names = set(schema.names)
    missing = [name for name in (*_TEXT_COLUMNS, _IMAGE_COLUMN) if name not in names]
    if missing:
        raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    for name in (*_TEXT_COLUMNS, *({"answer"} & names)):
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _all_null(name, kind)):
            raise ValueError(f"{file}: column {name} is {kind}; it should be string")
    kind = schema.field(_IMAGE_COLUMN).type
    if not (_all_null(_IMAGE_COLUMN, kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
        raise ValueError(f"{file}: column {_IMAGE_COLUMN} is {kind}; it should be struct<bytes: binary, path: string>")


def _all_null(name: str, kind: Any) -> bool:
    """A column that may be empty, and is: arrow then knows no other type for it."""
    return name in ("answer", _IMAGE_COLUMN) and bool(pa.types.is_null(kind))


def _options(literal: str | None, where: str) -> tuple[str, ...]:
    try:
        values = ast.literal_eval(literal or "[]")
    except _NO_LITERAL as error:
        raise ValueError(f"{where}: options are no Python list literal: {literal!r}") from error
    if not isinstance(values, list):
        raise ValueError(f"{where}: options are a {type(values).__name__}, not a list: {literal!r}")
    return tuple(str(value) for value in values)
