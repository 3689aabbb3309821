"""MMMU as a benchmark: its questions as a protocol puts them, and what is handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmark import Benchmark, Choices, Picture, Published, Question, Verdict
from eval.fallback import FALLBACKS, Marker
from eval.mmmu import dataset
from eval.mmmu.dataset import Sample
from eval.mmmu.protocol import PROTOCOLS
from eval.mmmu.published import COLUMNS, PUBLISHED, SOURCES
from eval.mmmu.subjects import SPLITS, in_order, total

SUBMISSION = "submission.json"


class MMMU(Benchmark):
    """College-level questions about images in thirty subjects."""

    title = "MMMU"
    splits = SPLITS
    protocols = tuple(PROTOCOLS)
    fallbacks = tuple(FALLBACKS)
    layout = "the hub's MMMU/MMMU, downloaded: a folder for each subject, with parquet files"

    def __init__(self, data: Path, choices: Choices) -> None:
        super().__init__(data, choices)
        self._protocol = PROTOCOLS[self.protocol]
        self.max_new_tokens = self._protocol.max_new_tokens[self.split]
        if self._protocol.seed is None:
            if self.fallback == "expected":
                raise ValueError(f"the protocol {self.protocol} draws no answers; what shows no choice is wrong")
            self.fallback = "wrong"
        if choices.subjects is not None:
            self.subjects = tuple(in_order(list(choices.subjects)))
        read = dataset.load(data, self.split, self.subjects)
        self._files = read.files
        self._samples = {one.id: replace(one, prompt=self._protocol.prompt(one)) for one in read.samples}

    @property
    def questions(self) -> Sequence[Sample]:
        """Subjects in the official order, rows as in the files."""
        return tuple(self._samples.values())

    @property
    def files(self) -> Sequence[Path]:
        """The shards."""
        return self._files

    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """What the protocol shows with each."""
        samples = [self._samples[question.id] for question in questions]
        images = dataset.read_images(samples, self._protocol.wanted)
        return [self._protocol.show(sample, found) for sample, found in zip(samples, images, strict=True)]

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the protocol's parser and grading. A missing reply is wrong (officially it leaves the denominator)."""
        marker = Marker(self.fallback or "official", self._protocol.seed or 0)
        return [
            self._protocol.grade(sample, replies[sample.id], marker) if sample.id in replies else marker.missing(sample)
            for sample in self._samples.values()
        ]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """Two files of all replies.

        `{split}_output.json`, {id: reply}, as Yi's script writes it, and `submission.json`, {id: final answer}, which
        the MMMU leaderboard takes: a letter (none where none was found nor drawn), or an open question's reply.
        """
        replies = {verdict.question.id: verdict.reply for verdict in verdicts if verdict.reply is not None}
        answers = {verdict.question.id: verdict.answer for verdict in verdicts}
        return {
            f"{self.split}_output.json": _json(replies, 4),
            SUBMISSION: _json({id: _final(self._samples[id], reply, answers[id]) for id, reply in replies.items()}, 2),
        }

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """How many questions of either kind there are, and whether these are all."""
        choices = sum(sample.multiple_choice for sample in self._samples.values())
        kinds = f"{choices} multiple-choice and {len(self._samples) - choices} open; averages are over questions."
        if len(self._samples) == total(self.split):
            return (kinds,)
        subjects = {sample.subject for sample in self._samples.values()}
        return (
            kinds,
            f"Only {len(self._samples)} of the split's {total(self.split)} questions, in {len(subjects)} of 30 "
            "subjects: not comparable with published scores.",
        )

    @property
    def published(self) -> Published | None:
        """Yi-VL's and others' scores; none for dev."""
        if self.split not in SOURCES:
            return None
        return Published(source=SOURCES[self.split], columns=COLUMNS, rows=PUBLISHED[self.split])


def _final(sample: Sample, reply: str, answer: str) -> str:
    if not sample.multiple_choice:
        return reply
    return answer if answer in sample.choices else ""


def _json(content: Mapping[str, str], indent: int) -> str:
    return json.dumps(content, indent=indent, ensure_ascii=False)
