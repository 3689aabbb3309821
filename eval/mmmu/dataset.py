"""MMMU as it lies on the hub, `MMMU/MMMU`, downloaded to a folder: parquet files to questions.

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

Read are `id`, `question`, `options`, `question_type` and the images, which must be there, and `answer`, which may be
missing. Images are read when they are asked for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import parquet
from eval.benchmark import BadData, Question
from eval.mmmu.subjects import SPLITS, SUBJECTS, discipline_of, in_order
from eval.parquet import Cell

MULTIPLE_CHOICE = "multiple-choice"
WITHHELD = ("", "?")
"""Answers that say that there is none to compare with."""
IMAGES = tuple(range(1, 8))

TAG = re.compile(r"<image (\d+)>")
"""Where an image belongs in a text, and which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Question):
    """One question. Its `truth` is its answer as it stands in the file, empty where that is withheld."""

    prompt: str = ""
    """Filled in by a protocol."""
    subject: str
    question: str
    """With its `<image N>` tags."""
    options: tuple[str, ...] = ()
    question_type: str = MULTIPLE_CHOICE

    @property
    def multiple_choice(self) -> bool:
        """True when one of the options is asked for; otherwise the question is open."""
        return self.question_type == MULTIPLE_CHOICE

    @property
    def choices(self) -> dict[str, str]:
        """The options by letter, from A."""
        return lettered(self.options)

    @property
    def mentioned(self) -> tuple[int, ...]:
        """The images that the question and then its options mention, in order, each as often as it is."""
        return tuple(int(number) for text in (self.question, *self.options) for number in TAG.findall(text))


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of some subjects."""

    files: tuple[Path, ...]
    samples: tuple[Sample, ...]
    """Subjects in the official order, rows as in the files."""


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by letter, from A."""
    return {chr(ord("A") + index): option for index, option in enumerate(options)}


def accepted(answer: str) -> list[str]:
    """The answers that count as right: a list literal is the list of them.

    Three of validation's open questions have one (Chemistry_30, Geography_4, Math_15).
    """
    if answer.startswith("["):
        try:
            values = ast.literal_eval(answer)
        except parquet.NO_LITERAL:
            return [answer]  # such as the interval "[0, 1)"
        if isinstance(values, list):
            return [str(value) for value in values]
    return [answer]


def load(folder: Path, split: str, subjects: Sequence[str] | None = None) -> Dataset:
    """The questions of `split`, of the named subjects or of all that `folder` has.

    Raises:
        FileNotFoundError: no such subject in the folder, or no file of the split.
        ValueError: an unknown subject.
        BadData: a file or row that is not as the module's text says.
    """
    files = _files(folder, split, subjects)
    samples: dict[str, Sample] = {}
    for subject, shards in files.items():
        before = len(samples)
        for shard in shards:
            for sample in _samples(shard, subject):
                if sample.id in samples:
                    raise BadData(f"{sample.where}: the same id as {samples[sample.id].where}")
                samples[sample.id] = sample
        if len(samples) == before:
            raise BadData(f"{', '.join(map(str, shards))}: no rows, so subject {subject} is empty")
    return Dataset(tuple(shard for shards in files.values() for shard in shards), tuple(samples.values()))


def read_images(samples: Sequence[Sample], wanted: Callable[[Sample], Sequence[int]]) -> list[dict[int, bytes]]:
    """The file bytes of each sample's wanted images by number, in that order; those that are null are left out.

    Raises:
        BadData: what is there is no image file.
    """
    cells = [
        {number: Cell(sample.file, sample.row, f"image_{number}", sample.where) for number in wanted(sample)}
        for sample in samples
    ]
    read = parquet.images([cell for by_number in cells for cell in by_number.values()])
    return [
        {number: content for number, cell in by_number.items() if (content := read[cell]) is not None}
        for by_number in cells
    ]


def _files(folder: Path, split: str, subjects: Sequence[str] | None) -> dict[str, list[Path]]:
    """The split's shards by subject, in the official order."""
    if subjects is None:
        with_data = {path.parent.name for path in folder.glob("[!.]*/*.parquet") if parquet.split_of(path) in SPLITS}
        subjects = in_order(list(with_data))
        if not subjects:
            raise FileNotFoundError(
                f"{folder} has no folder of an MMMU subject; expected files like "
                f"{folder / SUBJECTS[0]}/{split}-00000-of-00001.parquet"
            )
    return {subject: parquet.shards(folder / subject, split) for subject in subjects}


def _samples(file: Path, subject: str) -> Iterator[Sample]:
    images = [f"image_{number}" for number in IMAGES]
    for row, record in parquet.rows(file, ("id", "question", "options", "question_type"), images, ("answer",)):
        where = f"{file}, row {row}"
        id = parquet.given(record, "id", where)
        answer = record.get("answer")
        sample = Sample(
            id=id,
            subject=subject,
            question=parquet.given(record, "question", where),
            options=parquet.string_list(record["options"], f"{where} ({id})"),
            question_type=parquet.given(record, "question_type", where),
            truth="" if answer is None or answer in WITHHELD else answer,
            groups={"discipline": discipline_of(subject), "subject": subject},
            file=file,
            row=row,
        )
        if sample.multiple_choice and not sample.options:
            raise BadData(f"{sample.where}: a {MULTIPLE_CHOICE} question without options")
        yield sample
