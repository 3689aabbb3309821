"""What HumanEval and MBPP share: problems read from the published files, and tests as the judgement.

A model completes a prompt greedily; the completion ends at the first stop in it, wherever that stands, and is run
between what the problem puts before it and its tests. pass@1 is the share of programs that come to their end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval import parquet
from eval.annotations import Entry, lines
from eval.benchmark import BadData, Benchmark, Choices, Part, Picture, Question, Verdict
from eval.image_questions import NO_REPLY
from eval.programs.sandbox import KINDS, PASSED, Sandbox

PASS_AT_1 = "pass@1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Question):
    """A problem; its program is `before`, the completion, `after`."""

    before: str = ""
    after: str
    """The tests."""


class CodeBenchmark(Benchmark):
    """Problems of one split, whose answers are executed by a sandbox. They are read when it is made."""

    protocols = ("paper",)
    shots: ClassVar[int]
    """Examples before each problem."""
    stops: ClassVar[tuple[str, ...]]
    """A completion ends before the first of these."""
    max_new_tokens = 512

    def __init__(self, data: Path, sandbox: Sandbox, split: str | None = None) -> None:
        super().__init__(data, Choices(split=split))
        self.sandbox = sandbox
        self._files: list[Path] = []
        self._problems: dict[str, Problem] = {}
        for problem in self.read():
            if problem.id in self._problems:
                raise BadData(f"{problem.where}: {self._problems[problem.id].where} has the same id")
            self._problems[problem.id] = problem

    @abstractmethod
    def read(self) -> Iterator[Problem]:
        """The problems, in the official order.

        Raises:
            FileNotFoundError: a file is missing.
            BadData: one is not as it should be.
        """

    def lines(self, file: Path) -> list[Entry]:
        """The rows of a file of JSON lines, which is from now on one of `files`."""
        self._files.append(file)
        return lines(file)

    def rows(self, folder: Path, split: str) -> list[Entry]:
        """The rows of a split as the hub has it, or in one file of JSON lines; the files are from now on `files`."""
        if (file := folder / f"{split}.jsonl").is_file():
            return self.lines(file)
        shards = parquet.shards(folder, split)
        self._files += shards
        found = [Entry(row, file, number) for file in shards for number, row in enumerate(parquet.records(file))]
        if not found:
            raise BadData(f"{shards[0]} has no rows; download it again")
        return found

    @property
    def questions(self) -> Sequence[Problem]:
        """In the official order."""
        return tuple(self._problems.values())

    @property
    def files(self) -> Sequence[Path]:
        """Those of the problems, and of the examples."""
        return self._files

    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """None."""
        return [() for _ in questions]

    def cut(self, text: str) -> str:
        """The completion in what a model wrote."""
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))]

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By running every program."""
        codes = {one.id: self.cut(replies[one.id]) for one in self.questions if one.id in replies}
        programs = [f"{self._problems[key].before}{code}{self._problems[key].after}" for key, code in codes.items()]
        outcomes = dict(zip(codes, self.sandbox.run_all(programs), strict=True))
        return [
            Verdict(
                question=problem,
                reply=replies.get(problem.id),
                answer=codes.get(problem.id, ""),
                parts={PASS_AT_1: Part(float(problem.id in outcomes and outcomes[problem.id].kind == PASSED))},
                why=": ".join(filter(None, outcomes[problem.id])) if problem.id in outcomes else NO_REPLY,
            )
            for problem in self.questions
        ]

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """How the programs ended, and in what isolation they ran."""
        ends = Counter(verdict.why.split(":")[0] for verdict in verdicts)
        by = self.sandbox.isolation.items()
        isolation = ", ".join(f"{what} by {' and '.join(means) or 'nothing'}" for what, means in by)
        return (
            f"{self.shots} shots, greedy, up to {self.max_new_tokens} tokens: "
            + ", ".join(f"{ends[kind]} {kind}" for kind in KINDS)
            + ".",
            f"Kept from programs: {isolation}. Limits of each: {self.sandbox.limits}.",
        )
