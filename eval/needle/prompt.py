"""A cell as a prompt: needles drawn for it and hidden in as many sentences as the cell's length has room for.

The length counts everything, as in NVIDIA/RULER, and is exact to a sentence. Needles go between sentences: a place in
tokens, as in LLMTest_NeedleInAHaystack, has to be walked back to a full stop, which some tokenizers never show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

from eval.needle.grid import Cell
from eval.needle.haystack import Haystack
from eval.needle.reader import Reader

ANSWER_TOKENS = 32
"""Room for the answer: seven digits are seven tokens in Yi's vocabulary, and some models put words or signs around."""


class Needle(NamedTuple):
    """What is hidden."""

    key: str
    value: str


def draw(haystack: Haystack, cell: Cell, count: int, seed: int) -> list[Needle]:
    """The needles of a cell, no two with the same key or value, and none that the haystack has; the first is asked for.

    Raises:
        ValueError: there are not so many keys.
    """
    if len(haystack.keys) < count:
        raise ValueError(
            f"{count} needles, but there are only {len(haystack.keys)} keys that the haystack does not have"
        )
    rng = _rng("needles", haystack, cell, seed)
    keys = rng.sample(haystack.keys, count)
    values: dict[str, None] = {}
    while len(values) < count:
        value = str(rng.randrange(10**6, 10**7))
        if value not in haystack.text:
            values[value] = None
    return [Needle(*pair) for pair in zip(keys, values, strict=True)]


def build(reader: Reader, haystack: Haystack, cell: Cell, needles: Sequence[Needle], seed: int) -> str:
    """The prompt: so long that with the answer it takes the cell's length, or less by less than one more sentence.

    Raises:
        ValueError: the length has no room for the question.
    """
    language, asked = haystack.language, needles[0]
    rng = _rng("places", haystack, cell, seed)
    places = [rng.random() for _ in needles[1:]]

    def prompt(sentences: int) -> str:
        pile = haystack.take(sentences)
        for needle, place in zip(needles[1:], places, strict=True):
            pile.insert(int(place * (len(pile) + 1)), language.hidden(*needle))
        pile.insert(boundary(pile, cell.depth), language.hidden(*asked))
        text = "".join([language.before, *pile]).rstrip() + language.after.format(key=asked.key)
        return reader.frame(text, language.start.format(key=asked.key))

    def length(sentences: int) -> int:
        return reader.length(prompt(sentences))

    room = cell.length - ANSWER_TOKENS
    if (least := length(1)) > room:
        raise ValueError(
            f"length {cell.length}: question, needles, answer and a sentence take {least + ANSWER_TOKENS} tokens"
        )
    return prompt(_most(length, room))


def boundary(sentences: Sequence[str], depth: float) -> int:
    """Before which of the sentences (or behind the last) a depth in percent of their characters is; the nearest."""
    ends = [0, *accumulate(map(len, sentences))]
    wanted = depth / 100 * ends[-1]
    above = bisect_left(ends, wanted)
    return above - 1 if above and wanted - ends[above - 1] <= ends[above] - wanted else above


def _most(length: Callable[[int], int], room: int) -> int:
    """A count whose length fits into `room` while that of one more does not, given that one fits.

    Every call tokenises the whole prompt, so there are few: proportion finds a count that is too many, and then
    proportion and halving in turn, since sentences may be of very different lengths, what lies between.
    """
    fits, fitting = over, exceeding = 1, length(1)
    while exceeding <= room:
        fits, fitting = over, exceeding
        over = over * room // exceeding + 1
        exceeding = length(over)
    halve = False
    while over - fits > 1:
        share = 0.5 if halve else (room - fitting) / (exceeding - fitting)
        halve = not halve
        tried = min(max(fits + round(share * (over - fits)), fits + 1), over - 1)
        if (tokens := length(tried)) <= room:
            fits, fitting = tried, tokens
        else:
            over, exceeding = tried, tokens
    return fits


def _rng(what: str, haystack: Haystack, cell: Cell, seed: int) -> Random:
    return Random(f"{what} {seed} {haystack.language.name} {cell.id}")
