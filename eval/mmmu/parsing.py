"""From a free reply to an answer, as MMMU's official parser does it, quirks included.

Source of the behaviour: MMMU-Benchmark/MMMU, `mmmu/utils/eval_utils.py`. What looks like a mistake here is one there,
and is kept: scores are comparable only when the same replies count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

Value = str | float
"""A normalised answer: lower-case text, or a number rounded to two decimals."""

_ENDS = (",", ".", "!", "?", ";", ":", "'")
"""Stripped from a reply's ends in this order, once each: `B'.` loses both, `B.'` only the quote; spaces stay."""

_WORDS_FOR_CONTENT = 5
"""An option's text is searched for only in a reply of more words than this."""

_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What follows the last of one of these is taken for the answer; found inside words too (`this `, `also `)."""

_LINES = re.compile(r"\.\s(?=[A-Z])|\n")
"""Where a reply is split. It is lower-case by then, so the official sentence branch never matches: only lines count."""

_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,234,567
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.5e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12, 0.5, .5
)


def parse_multi_choice_response(response: str, options: Mapping[str, str]) -> str | None:
    """The letter that `response` chooses among `options` (letter to text); None where the official parser draws one.

    Letters in brackets count first, then letters between spaces, then the options' texts; of several found, the one
    that occurs last, and the first in the options' order where two occur at the same place.
    """
    for end in _ENDS:
        response = response.strip(end)
    response = f" {response} "
    found = _last(response, {letter: f"({letter})" for letter in options})
    if found is None:
        found = _last(response, {letter: f" {letter} " for letter in options})
    if found is None and len(response.split()) > _WORDS_FOR_CONTENT:
        found = _last(response.lower(), {letter: text.lower() for letter, text in options.items()})
    return found


def _last(response: str, marks: Mapping[str, str]) -> str | None:
    """The letter whose mark occurs last in `response`; None when none occurs."""
    places = {letter: response.rfind(mark) for letter, mark in marks.items() if mark in response}
    key: Callable[[str], int] = places.__getitem__
    return max(places, key=key) if places else None


def parse_open_response(response: str) -> set[Value]:
    """Everything in `response` that may be its answer, normalised: the tails after key words, and their numbers."""
    text = response.strip().strip(".").lower()
    tails = list(_tails(text)) or [text]
    found = tails + [number for tail in tails for number in extract_numbers(tail)]
    return {value for candidate in found for value in normalize_str(candidate)}


def _tails(text: str) -> Iterator[str]:
    lines = _LINES.split(text)
    for index, line in enumerate(lines):
        # An equation is taken for an answer on the last line only.
        indicators = (*_INDICATORS, "=") if index == len(lines) - 1 else _INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                tail = line.rsplit(indicator, 1)[-1].strip()
                # An empty tail holds no ground: the next indicator's replaces it, also where that one is longer.
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            yield shortest


def extract_numbers(text: str) -> list[str]:
    """All numbers written in `text`. A range `3-5` gives 3 and -5; `1,234` gives 234 besides."""
    return [number for pattern in _NUMBERS for number in pattern.findall(text)]


def normalize_str(text: str) -> list[Value]:
    """`text` in the form in which answers are compared.

    A number becomes a float of two decimals (whatever Python reads as one: `1_000`, `nan` and full-width digits too).
    Text becomes lower-case, and a single character becomes two, with a space before and after it, so that it is not
    found inside every word.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
