"""From a free reply to an answer, as MMMU's official parser does it, quirks included; CMMMU and MMMU-Pro build on it.

Source of the behaviour: MMMU-Benchmark/MMMU, `mmmu/utils/eval_utils.py`. What looks like a mistake here is one there,
and is kept: scores are comparable only when the same replies count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

Value = str | float
"""A normalised answer: text, or a number rounded to two decimals."""


class Found(NamedTuple):
    """What a reply chooses."""

    answer: str
    why: str
    """By which rule, in words."""


class Mark(NamedTuple):
    """A way in which a letter may stand in a reply; `{}` is the letter."""

    form: str
    last: str
    """In this form the last of several is looked for."""
    why: str


_BRACKETS = Mark("({})", "({})", "({}) in brackets")
OFFICIAL = (_BRACKETS, Mark(" {} ", " {} ", "{} between spaces"))
LOOSE = (_BRACKETS, Mark("{} ", " {} ", "{} before a space"), Mark("{}.", " {} ", "{} before a full stop"))
"""As MMMU-Pro and lmms-eval have it: letters at the end of a word count too (`USA is` holds A), and of several the last
is still looked for between spaces, so that where none stands so the first of the options wins.

Source: MMMU-Benchmark/MMMU, `mmmu-pro/evaluate.py`; lmms-eval, `tasks/_task_utils/mmmu_mcq_utils.py`.
"""

_ENDS = (",", ".", "!", "?", ";", ":", "'")
"""Stripped from a reply's ends in this order, once each: `B'.` loses both, `B.'` only the quote; spaces stay."""

_WORDS_FOR_CONTENT = 5
"""An option's text is searched for only in a reply of more words than this."""

TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
"""Tails that say nothing."""

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What follows the last of one of these is taken for the answer; found inside words too (`this `, `also `)."""

_LINES = re.compile(r"\.\s(?=[A-Z])|\n")
"""Where a reply is split. It is lower-case by then, so the official sentence branch never matches: only lines count."""

_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 0.5, .5
)


def parse_multi_choice_response(
    response: str, options: Mapping[str, str], marks: Sequence[Mark] = OFFICIAL
) -> Found | None:
    """The letter that `response` chooses among `options` (letter to text); None where the official parser draws one.

    The marks count in their order, then the options' texts; of several found, the one that occurs last, and the first
    in the options' order where two occur at the same place.
    """
    response = padded(response)
    for mark in marks:
        here = [letter for letter in options if mark.form.format(letter) in response]
        if here:
            letter = _last(response, {letter: mark.last.format(letter) for letter in here})
            return Found(letter, mark.why.format(letter))
    if len(response.split()) > _WORDS_FOR_CONTENT:
        response = response.lower()
        texts = {letter: text.lower() for letter, text in options.items() if text.lower() in response}
        if texts:
            return Found(letter := _last(response, texts), f"the text of option {letter}")
    return None


def padded(response: str) -> str:
    """`response` without punctuation at its ends, between two spaces, so that a letter alone stands between spaces."""
    for end in _ENDS:
        response = response.strip(end)
    return f" {response} "


def _last(response: str, marks: Mapping[str, str]) -> str:
    """The letter whose mark occurs last in `response`; the first where none does."""
    place: Callable[[str], int] = lambda letter: response.rfind(marks[letter])  # noqa: E731
    return max(marks, key=place)


def parse_open_response(response: str) -> list[Value]:
    """Everything in `response` that may be its answer, normalised: the tails after key words, and their numbers."""
    text = response.strip().strip(".").lower()
    # An equation is taken for an answer on the last line only.
    found = list(tails(_LINES.split(text), _INDICATORS, last_line=("=",))) or [text]
    found += [number for tail in found for number in extract_numbers(tail)]
    return list(dict.fromkeys(value for candidate in found for value in normalize_str(candidate)))


def tails(
    lines: Sequence[str], indicators: Sequence[str], last_line: Sequence[str] = (), trivial: Iterable[str] = TRIVIAL
) -> Iterator[str]:
    """Of each line the shortest text behind the last of an indicator, unless it is trivial.

    Args:
        lines: of a reply.
        indicators: words after which an answer is expected.
        last_line: more of them, for the last line alone.
        trivial: tails that say nothing.
    """
    for index, line in enumerate(lines):
        shortest = ""
        for indicator in (*indicators, *(last_line if index == len(lines) - 1 else ())):
            if indicator in line:
                tail = line.rsplit(indicator, 1)[-1].strip()
                # An empty tail holds no ground: the next indicator's replaces it, also where that one is longer.
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in trivial:
            yield shortest


def extract_numbers(text: str, patterns: Sequence[re.Pattern[str]] = _NUMBERS) -> list[str]:
    """All numbers written in `text`. A range `3-5` gives 3 and -5; `1,234` gives 234 besides."""
    return [number for pattern in patterns for number in pattern.findall(text)]


def number(text: str) -> float | None:
    """`text` as a number of two decimals (whatever Python reads as one: `1_000`, `nan` and full-width digits too)."""
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


def normalize_str(text: str) -> list[Value]:
    """`text` in the form in which answers are compared.

    A number becomes a float of two decimals. Text becomes lower-case, and a single character becomes two, with a space
    before and after it, so that it is not found inside every word.
    """
    text = text.strip()
    value = number(text)
    if value is not None:
        return [value]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def match(accepted: Sequence[Value], found: Iterable[Value]) -> Value | None:
    """The accepted answer that something found in a reply matches; None if nothing does.

    A found text matches when it contains an accepted text, a found number when it equals an accepted number.
    """
    texts = [value for value in accepted if isinstance(value, str)]
    for value in found:
        if not isinstance(value, str):
            if value in accepted:
                return value
        else:
            for text in texts:
                if text in value:
                    return text
    return None
