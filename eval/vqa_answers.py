"""Short answers as the VQA challenge compares them: normalised, and by how many of ten people gave them.

Sources of the behaviour, mistakes included: GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py
(`official`), and facebookresearch/mmf's M4C evaluator as LLaVA uses it, haotian-liu/LLaVA, llava/eval/m4c_evaluator.py
(`m4c`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.annotations import Entry
from eval.benchmark import BadData, Part, Verdict
from eval.image_questions import ACCURACY, NO_REPLY, ImageQuestion

PEOPLE = 10
"""Who answered each question."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"\d,\d")
"""A number such as 1,000: its comma goes, and with it all punctuation in the answer."""
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32
"""So many are removed: officially a flag (`re.UNICODE`, which is 32) stands where the count goes."""

_ARTICLES = ("a", "an", "the")
_COUNTING = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTING)}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _one_apostrophe_less(word: str) -> Iterator[str]:
    for place, character in enumerate(word):
        if character == "'":
            yield word[:place] + word[place + 1 :]


_CONTRACTIONS = {short: word for word in _CONTRACTED.split() for short in _one_apostrophe_less(word)}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round, as officially


def one_line(answer: str) -> str:
    """An answer without line ends, tabs, and space around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def official(answer: str) -> str:
    """An answer as the VQA challenge compares it."""
    return _words(_punctuation(one_line(answer)))


def m4c(answer: str) -> str:
    """An answer as TextVQA's evaluator compares it, and as LLaVA hands answers in to VQAv2 and VizWiz.

    Unlike `official`, commas and question marks go without a trace, and `'s` becomes a word of its own.
    """
    return official(answer.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def accuracy(agreeing: int) -> float:
    """Share of a point for an answer that so many of the ten gave.

    Officially the mean over the ten ways to leave one person out of min(agreeing / 3, 1), which comes to this.
    """
    return min(1.0, 3 * agreeing / PEOPLE)


def _punctuation(answer: str) -> str:
    """Removes what stands beside a space, and in an answer with a number such as 1,000 everything; the rest becomes a
    space. Full stops go unless a digit follows."""
    grouped = _GROUPED.search(answer)
    stripped = answer
    for mark in _PUNCTUATION:
        beside = f"{mark} " in answer or f" {mark}" in answer
        stripped = stripped.replace(mark, "" if beside or grouped else " ")
    return _FULL_STOP.sub("", stripped, count=_FULL_STOPS)


def _words(answer: str) -> str:
    """Lower-case words, numbers up to ten in digits, without articles, contractions with their apostrophes."""
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeoplesQuestion(ImageQuestion):
    """A question that ten people answered."""

    answers: tuple[str, ...] = ()
    """As published; empty where they are withheld."""


def ten(entry: Entry, answers: Sequence[str]) -> tuple[str, ...]:
    """The answers to a question.

    Raises:
        BadData: there are not ten.
    """
    if len(answers) != PEOPLE:
        raise BadData(f"{entry.where}: {len(answers)} answers; there should be {PEOPLE}")
    return tuple(answers)


def tally(answers: Sequence[str]) -> str:
    """Answers and how many people gave them, for readers: `yes (8), no (2)`."""
    return ", ".join(f"{answer} ({count})" for answer, count in Counter(answers).most_common())


def verdict(question: PeoplesQuestion, reply: str | None, answer: str, agreeing: int) -> Verdict:
    """The verdict on a reply that was read as `answer`, which so many people gave."""
    points = 0.0 if reply is None else accuracy(agreeing)
    return Verdict(
        question=question,
        reply=reply,
        answer=answer,
        parts={ACCURACY: Part(points)} if question.answers else {},
        why=_why(question, reply, agreeing),
    )


def _why(question: PeoplesQuestion, reply: str | None, agreeing: int) -> str:
    if reply is None:
        return NO_REPLY
    return f"{agreeing} of {PEOPLE} people gave it" if question.answers else "people's answers are withheld"
