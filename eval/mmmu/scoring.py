"""Replies to scores, as MMMU's official scripts compute them.

Source of the behaviour: MMMU-Benchmark/MMMU, `mmmu/utils/eval_utils.py`, `mmmu/main_parse_and_eval.py` and
`mmmu/main_eval_only.py`. Every average is over questions, not over subjects. A multiple-choice reply in which the
parser finds no answer gets a random letter, from one stream that runs through the subjects in the official order.

Two things differ, on purpose: an unanswered question counts as wrong (officially it leaves the denominator), and
beside the official score stands a strict one, in which a random letter is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval.mmmu.dataset import Sample
from eval.mmmu.parsing import Value, normalize_str, parse_multi_choice_response, parse_open_response
from eval.mmmu.subjects import DISCIPLINES, OVERALL, SUBJECTS

SEED = 42
"""Of the random fallback, as in the official scripts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One question and what became of it."""

    sample: Sample
    submitted: str | None
    """The final answer: a letter, or an open question's reply as it is; None where there is no reply."""
    random: bool
    """The letter was drawn: the parser found none."""
    correct: bool | None
    """None where the right answer is withheld."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Questions, and how many of them were answered right."""

    questions: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Right answers per question; 0 where there is no question."""
        return self.correct / self.questions if self.questions else 0.0

    @property
    def percent(self) -> str:
        """As tables print it: rounded officially to three decimals, so to one in percent; a dash for no question."""
        return f"{100 * round(self.accuracy, 3):.1f}" if self.questions else "-"


@dataclass(frozen=True, slots=True)
class Scores:
    """One way of counting, by subject, by discipline and over all."""

    subjects: dict[str, Tally]
    """Those that have questions, in the official order."""
    disciplines: dict[str, Tally]
    """All six; without questions where none of its subjects has any."""
    overall: Tally

    @property
    def row(self) -> dict[str, Tally]:
        """What a table shows: Overall, then the disciplines."""
        return {OVERALL: self.overall, **self.disciplines}


def judge(samples: Sequence[Sample], replies: Mapping[str, str]) -> list[Judged]:
    """Every sample with its parsed reply, in the official order of subjects; a missing reply draws nothing."""
    order = {subject: place for place, subject in enumerate(SUBJECTS)}
    stream = random.Random(SEED)
    return [
        _judge(sample, replies.get(sample.id), stream)
        for sample in sorted(samples, key=lambda sample: order[sample.subject])
    ]


def _judge(sample: Sample, reply: str | None, stream: random.Random) -> Judged:
    gold = sample.gold
    if reply is None:
        return Judged(sample=sample, submitted=None, random=False, correct=None if gold is None else False)
    if not sample.multiple_choice:
        correct = None if gold is None else eval_open(gold, parse_open_response(reply))
        return Judged(sample=sample, submitted=reply, random=False, correct=correct)
    found = parse_multi_choice_response(reply, sample.choices)
    letter = stream.choice(list(sample.choices)) if found is None else found
    correct = None if gold is None else eval_multi_choice(gold, letter)
    return Judged(sample=sample, submitted=letter, random=found is None, correct=correct)


def eval_multi_choice(gold: str | list[str], letter: str) -> bool:
    """Whether `letter` is the right one, or one of the right ones."""
    return letter in gold if isinstance(gold, list) else letter == gold


def eval_open(gold: str | list[str], found: Iterable[Value]) -> bool:
    """Whether anything found in the reply matches an accepted answer.

    A found text matches when it contains an accepted text, a found number when it equals an accepted number.
    """
    accepted = [value for answer in ([gold] if isinstance(gold, str) else gold) for value in normalize_str(answer)]
    texts = [value for value in accepted if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in accepted for value in found)


def official(judged: Sequence[Judged]) -> Scores:
    """The score as the official scripts give it."""
    return _score(judged, lambda one: bool(one.correct))


def strict(judged: Sequence[Judged]) -> Scores:
    """The same with every random letter counted as wrong."""
    return _score(judged, lambda one: bool(one.correct) and not one.random)


def _score(judged: Sequence[Judged], right: Callable[[Judged], bool]) -> Scores:
    def tally(subjects: Iterable[str]) -> Tally:
        chosen = set(subjects)
        here = [one for one in judged if one.sample.subject in chosen]
        return Tally(len(here), sum(map(right, here)))

    present = {one.sample.subject for one in judged}
    return Scores(
        subjects={subject: tally([subject]) for subject in SUBJECTS if subject in present},
        disciplines={name: tally(subjects) for name, subjects in DISCIPLINES.items()},
        overall=tally(SUBJECTS),
    )
