"""MMMU's parser, and the looser one of MMMU-Pro and lmms-eval, against what they are known to give."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.parsing import (
    LOOSE,
    extract_numbers,
    match,
    normalize_str,
    parse_multi_choice_response,
    parse_open_response,
)

FOUR = {"A": "The man", "B": "A pretty girl", "C": "No", "D": "cell wall"}


def letter_in(reply: str, options: Mapping[str, str] = FOUR, **how: Any) -> str | None:
    found = parse_multi_choice_response(reply, options, **how)
    return None if found is None else found.answer


# ------------------------------------------------------------------ multiple choice


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("Answer: B", "B"),
        ("答案是 B 。", "B"),
        ("A or B", "B"),
        ("B or A", "A"),
        ("(A) is wrong, B is right", "A"),
        ("B. A pretty girl", "A"),
        ("USA B", "B"),
        ("B'.", "B"),
        ("(B) and then (C), not (A)", "A"),
        ("(A) (A) (C)", "C"),
        ("I would say it must be none of the above", "C"),
        ("there is, as one can see, a Cell Wall", "D"),
    ],
)
def test_letter_found(reply: str, letter: str) -> None:
    assert letter_in(reply) == letter


@pytest.mark.parametrize(
    "reply",
    [
        "B. ",
        "B\n",
        "b",
        "(b)",
        "[B]",
        "\uff08B\uff09",
        "B)",
        "**B**",
        "答案是B",
        "Answer:B",
        "C: No",
        "'.B",
        "B.'",
        "",
        " ",
    ],
)
def test_letter_not_found_where_the_official_parser_draws_one(reply: str) -> None:
    assert letter_in(reply) is None


def test_option_text_counts_only_in_a_reply_of_more_than_five_words() -> None:
    cells = {"A": "cell", "B": "cell wall"}
    assert letter_in("It is the cell wall", cells) is None
    assert letter_in("It is surely the cell wall", cells) is not None


def test_first_option_wins_where_two_texts_end_at_one_place() -> None:
    assert letter_in("I think it is the cell wall", {"A": "cell", "B": "cell wall"}) == "A"
    assert letter_in("I think it is the cell wall", {"A": "cell wall", "B": "cell"}) == "A"
    assert letter_in("I think it is the cell wall", {"A": "cell", "B": "wall"}) == "B"


def test_an_empty_option_text_matches_every_long_reply() -> None:
    assert letter_in("one two three four five cell", {"A": "cell", "B": ""}) == "B"


def test_letters_outside_the_options_are_no_answer() -> None:
    assert letter_in("E", FOUR) is None
    nine = dict(zip("ABCDEFGHI", "123456789", strict=True))
    assert letter_in("(I)", nine) == "I"


@given(st.text(string.printable, max_size=60), st.lists(st.text(max_size=8), min_size=1, max_size=9))
def test_whatever_is_found_is_an_option(reply: str, texts: list[str]) -> None:
    options = dict(zip(string.ascii_uppercase, texts, strict=False))
    assert letter_in(reply, options) in {*options, None}
    assert letter_in(reply, options, marks=LOOSE) in {*options, None}


@given(st.text(string.ascii_lowercase + " .,", max_size=40), st.sampled_from("ABCD"))
def test_a_letter_in_brackets_is_found_wherever_it_stands_alone(around: str, letter: str) -> None:
    assert letter_in(f"{around}({letter}){around}") == letter
    assert letter_in(f"{around}({letter}){around}", marks=LOOSE) == letter


# ------------------------------------------------------------------ open questions


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.963", [0.96]),
        (" 1,234.5 ", [1234.5]),
        ("1_000", [1000.0]),
        ("\uff11\uff12", [12.0]),
        ("inf", [float("inf")]),
        ("A", [" a", "a "]),
        ("Tampa ", ["tampa"]),
        ("50%", ["50%"]),
        ("24/7", ["24/7"]),
        ("", [""]),
    ],
)
def test_normalised(text: str, values: list[str | float]) -> None:
    assert normalize_str(text) == values


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3-5", ["3", "-5"]),
        ("1,234", ["1,234", "234"]),
        ("1.5e-3", ["1.5e-3", "1", "-3"]),
        ("x = .5", [".5"]),
        ("5kg", []),
        ("5 kg", ["5"]),
        ("none", []),
    ],
)
def test_numbers_found(text: str, numbers: list[str]) -> None:
    assert extract_numbers(text) == numbers


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Tampa.", {"tampa"}),
        ("The answer is 5 kg", {"5 kg", 5.0}),
        ("so it could be X", {" x", "x "}),
        # `this ` ends in `is `.
        ("this one", {"one"}),
        # Lower-cased before it is split, so a new sentence is no new line.
        ("It is red. Surely blue", {"red. surely blue"}),
        ("It is red\nSurely blue", {"red"}),
        # `=` counts on the last line only.
        ("x = 4\nno more", {"x = 4\nno more", 4.0}),
        ("no more\nx = 4", {4.0}),
        # A tail that is only punctuation is dropped.
        ("the answer is :", {"the answer is :"}),
        # An empty tail gives way to the next indicator's, though that is longer.
        ("the final answer \n", {"answer"}),
    ],
)
def test_open_reply_parsed(reply: str, found: set[str | float]) -> None:
    assert set(parse_open_response(reply)) == found


@given(st.text(max_size=80))
def test_open_parser_takes_any_text(reply: str) -> None:
    assert parse_open_response(reply)


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("0.963", "0.956", True),
        ("A", "Point B shows a force", True),
        ("no", "not sure", True),
        ("50%", "0.5", False),
        ("0.5", "50%", False),
        ("5", "5kg", False),
        ("5", "5 kg", True),
        ("3", "3-5", True),
        ("-5", "3-5", True),
        ("5", "3-5", False),
        ("1234", "1,234", True),
        ("234", "it is 1,234", True),
        ("2000", "2 x 10^3", False),
        ("nan", "nan", False),
        ("inf", "inf", True),
        ("Tampa", "It is in tampa, Florida.", True),
        ("Tampa", "", False),
    ],
)
def test_open_reply_judged(answer: str, reply: str, right: bool) -> None:
    assert (match(normalize_str(answer), parse_open_response(reply)) is not None) is right


# ------------------------------------------------------------------ the looser parser


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("Answer:B", "B"),
        ("答案是B", "B"),
        ("B. the second", "B"),
        ("(C) B", "C"),
        # A letter at the end of a word counts too.
        ("USA is the answer", "A"),
        ("A or B", "B"),
        # Of several, none of which stands between spaces, the first wins.
        ("xB and xA say so", "A"),
        ("**B**", None),
        ("B)", None),
        ("b", None),
    ],
)
def test_letter_found_by_the_looser_parser(reply: str, letter: str | None) -> None:
    assert letter_in(reply, marks=LOOSE) == letter
