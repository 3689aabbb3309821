"""What a benchmark is: questions, the pictures they come with, and a judgement of replies.

A benchmark is one module of `eval` (or a package, where it has much to parse) that `eval.registry` names. It reads the
published files, puts questions as a named protocol does, and judges replies as the official scripts do; asking
(`eval.runner`), keeping replies (`eval.predictions`), averaging with confidence intervals (`eval.scores`) and the
result's files and page (`eval.results`, `eval.page`) are the same for all. Nothing here or in a benchmark knows
torch: replies can be scored anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL import Image

from eval.revision import of_files

Picture = bytes | Path | Image.Image | None
"""The bytes of an image file, such a file, or an image; None for a picture of zeros, which stands for a missing one."""


class BadData(ValueError):
    """A file of a benchmark is not as it should be; the message names the file and the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, as the model is asked it. Benchmarks add what they judge by."""

    id: str
    prompt: str
    """The user's text; pictures stand before it, each on a line of its own."""
    truth: str = ""
    """The right answer, for readers."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What it counts in besides all together, such as {"discipline": "Science", "subject": "Math"}."""
    file: Path = Path()
    row: int = 0
    """Of `file`, from 0."""

    @property
    def where(self) -> str:
        """File, row and id, for messages."""
        return f"{self.file}, row {self.row} ({self.id})"


class Part(NamedTuple):
    """What one question adds to a metric: the metric is the sum of amounts over the sum of `of`."""

    amount: float
    of: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a question."""

    question: Question
    reply: str | None
    """As the model gave it; None where there is none, which counts as wrong."""
    answer: str
    """What was read from the reply, or drawn; empty for nothing."""
    parts: Mapping[str, Part]
    """By metric, the first of which is the benchmark's own; empty where the right answer is withheld."""
    why: str
    """Why it counts so."""
    drawn: bool = False
    """Nothing was found in the reply: `Benchmark.fallback` decided, officially by a draw at random."""

    @property
    def score(self) -> float | None:
        """Share of the first metric, such as 1 for a right answer; None where the right answer is withheld."""
        first = next(iter(self.parts.values()), None)
        return None if first is None else first.amount / first.of if first.of else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Scores of others, to stand beside one's own."""

    source: str
    """Where they are from."""
    columns: tuple[str, ...]
    """Names of groups, or `OVERALL`."""
    rows: Mapping[str, tuple[float | None, ...]]
    """By model, in percent (or as the metric is printed); None for what is not published."""


OVERALL = "Overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a user may say about a run, beside its data."""

    split: str | None = None
    """None for the benchmark's usual one."""
    protocol: str | None = None
    """None for the benchmark's first."""
    subjects: tuple[str, ...] | None = None
    """Only these; None for all that there are."""
    fallback: str | None = None
    """What becomes of a reply without a choice; None for what the protocol does."""


class Benchmark(ABC):
    """Questions of one split, put as one protocol does.

    Building one raises FileNotFoundError where files are missing, ValueError for a choice that it does not know, and
    BadData for a file that is not as it should be.
    """

    title: ClassVar[str]
    """For readers."""
    splits: ClassVar[tuple[str, ...]]
    """Those that `load` takes; the first is the usual one."""
    protocols: ClassVar[tuple[str, ...]]
    """Likewise."""
    fallbacks: ClassVar[tuple[str, ...]] = ()
    """Likewise; empty where nothing is drawn."""
    layout: ClassVar[str]
    """What the folder of data holds, and where it is published."""
    max_new_tokens: int
    """Longest reply."""

    def __init__(self, data: Path, choices: Choices) -> None:
        self.data = data
        self.subjects = choices.subjects
        self.split = _chosen("split", choices.split, self.splits)
        self.protocol = _chosen("protocol", choices.protocol, self.protocols)
        self.fallback = _chosen("fallback", choices.fallback, self.fallbacks) if self.fallbacks else None
        if choices.fallback and not self.fallbacks:
            raise ValueError(f"{self.title} draws no answers, so there is no fallback to choose")
        if choices.subjects is not None and not any(choices.subjects):
            raise ValueError("no subject is named; name some, or leave the choice out for all")
        if not data.exists():
            raise FileNotFoundError(f"no {data}; {self.title} wants {self.layout}")

    @property
    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """In the official order."""

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """What the questions were read from, pictures in files of their own left out."""

    @cached_property
    def revision(self) -> str:
        """Tells these files from others."""
        return of_files(self.data if self.data.is_dir() else self.data.parent, self.files)

    @abstractmethod
    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """The pictures that each of these questions comes with.

        Raises:
            BadData: one is missing.
        """

    @abstractmethod
    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """All questions, in order, by the replies to their ids."""

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """Files for the benchmark's own server: name to content."""
        return {}

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """What a reader of the score should know."""
        return ()

    @property
    def published(self) -> Published | None:
        """Scores of others on this split."""
        return None


def _chosen(kind: str, wanted: str | None, known: tuple[str, ...]) -> str:
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise ValueError(f"unknown {kind} {wanted!r}; there are {', '.join(known)}")
    return wanted
