"""MMMU's parsers and scores against what the official scripts are known to give (the facts behind each are theirs)."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.mmmu.dataset import Sample, gold
from eval.mmmu.parsing import extract_numbers, normalize_str, parse_multi_choice_response, parse_open_response
from eval.mmmu.published import COLUMNS, PUBLISHED
from eval.mmmu.scoring import Tally, eval_multi_choice, eval_open, judge, official, strict
from eval.mmmu.subjects import DISCIPLINES, OVERALL, SUBJECTS, TEST_QUESTIONS, in_order, size, total

FOUR = {"A": "The man", "B": "A pretty girl", "C": "No", "D": "cell wall"}


def multiple_choice(id: str, answer: str | None = "A", options: str = "wxyz") -> Sample:
    subject = "_".join(id.split("_")[1:-1])
    return Sample(id=id, subject=subject, question="q", options=tuple(options), answer=answer)


def open_question(id: str, answer: str) -> Sample:
    subject = "_".join(id.split("_")[1:-1])
    return Sample(id=id, subject=subject, question="q", question_type="open", answer=answer)


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
    assert parse_multi_choice_response(reply, FOUR) == letter


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
    assert parse_multi_choice_response(reply, FOUR) is None


def test_option_text_counts_only_in_a_reply_of_more_than_five_words() -> None:
    cells = {"A": "cell", "B": "cell wall"}
    assert parse_multi_choice_response("It is the cell wall", cells) is None
    assert parse_multi_choice_response("It is surely the cell wall", cells) is not None


def test_first_option_wins_where_two_texts_end_at_one_place() -> None:
    assert parse_multi_choice_response("I think it is the cell wall", {"A": "cell", "B": "cell wall"}) == "A"
    assert parse_multi_choice_response("I think it is the cell wall", {"A": "cell wall", "B": "cell"}) == "A"
    assert parse_multi_choice_response("I think it is the cell wall", {"A": "cell", "B": "wall"}) == "B"


def test_an_empty_option_text_matches_every_long_reply() -> None:
    assert parse_multi_choice_response("one two three four five cell", {"A": "cell", "B": ""}) == "B"


def test_letters_outside_the_options_are_no_answer() -> None:
    assert parse_multi_choice_response("E", FOUR) is None
    nine = dict(zip("ABCDEFGHI", "123456789", strict=True))
    assert parse_multi_choice_response("(I)", nine) == "I"


@given(st.text(string.printable, max_size=60), st.lists(st.text(max_size=8), min_size=1, max_size=9))
def test_whatever_is_found_is_an_option(reply: str, texts: list[str]) -> None:
    options = dict(zip(string.ascii_uppercase, texts, strict=False))
    assert parse_multi_choice_response(reply, options) in {*options, None}


@given(st.text(string.ascii_lowercase + " .,", max_size=40), st.sampled_from("ABCD"))
def test_a_letter_in_brackets_is_found_wherever_it_stands_alone(around: str, letter: str) -> None:
    assert parse_multi_choice_response(f"{around}({letter}){around}", FOUR) == letter


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
    assert parse_open_response(reply) == found


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
    assert eval_open(answer, parse_open_response(reply)) is right


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("['$MgS$', 'MgS']", ["$MgS$", "MgS"]),
        ("['24/7', '3.429']", ["24/7", "3.429"]),
        ("B", "B"),
        ("[0, 1)", "[0, 1)"),
        ("('a', 'b')", "('a', 'b')"),
        ("{'a': 1}", "{'a': 1}"),
        ("[{[]: 1}]", "[{[]: 1}]"),
        ("?", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_list_literal_becomes_a_list(written: str | None, read: str | list[str] | None) -> None:
    assert gold(written) == read


def test_any_answer_of_a_list_is_right() -> None:
    assert eval_open(["24/7", "3.429"], parse_open_response("about 3.43"))
    assert eval_open(["Tampa", "Florida"], parse_open_response("It is florida"))
    assert eval_multi_choice(["A", "C"], "C")
    assert not eval_multi_choice(["A", "C"], "B")


# ------------------------------------------------------------------ the random letters


def test_random_letters_come_from_one_stream_over_the_subjects_in_official_order() -> None:
    options = {"validation_Art_1": "wxyz", "validation_Music_1": "wx", "validation_Music_2": "vwxyz"}
    options |= {"validation_Accounting_1": "xyz"}
    samples = [multiple_choice(id, options=choices) for id, choices in options.items()]
    random.seed(42)
    expected = {
        id: random.choice(list("ABCDE"[: len(options[id])]))
        for id in ("validation_Accounting_1", "validation_Art_1", "validation_Music_1", "validation_Music_2")
    }
    drawn = judge(samples, dict.fromkeys(options, "no idea"))
    assert {one.sample.id: one.submitted for one in drawn} == expected
    assert all(one.random for one in drawn)


def test_the_first_random_letters_of_four_are_these() -> None:
    samples = [multiple_choice(f"validation_Art_{n}") for n in range(12)]
    drawn = judge(samples, {sample.id: "?" for sample in samples})
    assert "".join(one.submitted or "" for one in drawn) == "AACBBBAADAAA"


def test_only_what_has_no_letter_draws() -> None:
    samples = [multiple_choice(f"validation_Art_{n}") for n in range(4)] + [open_question("validation_Art_9", "5")]
    replies = {"validation_Art_0": "D", "validation_Art_2": "none", "validation_Art_9": "none", "validation_Art_3": "-"}
    submitted = {one.sample.id: one.submitted for one in judge(samples, replies)}
    # Question 1 has no reply: it draws nothing, and the stream's first two letters go to 2 and 3.
    assert submitted == {
        "validation_Art_0": "D",
        "validation_Art_1": None,
        "validation_Art_2": "A",
        "validation_Art_3": "A",
        "validation_Art_9": "none",
    }


def test_strict_counts_lucky_letters_as_wrong() -> None:
    samples = [multiple_choice("validation_Art_1"), multiple_choice("validation_Art_2")]
    judged = judge(samples, {"validation_Art_1": "I don't know", "validation_Art_2": "A"})
    assert official(judged).overall == Tally(2, 2)
    assert strict(judged).overall == Tally(2, 1)


# ------------------------------------------------------------------ averages


def test_averages_are_over_questions_not_subjects() -> None:
    samples = [multiple_choice("test_Art_1")] + [multiple_choice(f"test_Math_{n}") for n in range(3)]
    scores = official(judge(samples, {"test_Art_1": "A", "test_Math_0": "B", "test_Math_1": "B", "test_Math_2": "B"}))
    assert scores.overall.accuracy == 0.25  # over subjects it would be 0.5
    assert scores.subjects == {"Art": Tally(1, 1), "Math": Tally(3, 0)}
    assert scores.disciplines["Art and Design"].accuracy == 1.0
    assert scores.disciplines["Business"] == Tally(0, 0)
    assert scores.disciplines["Business"].percent == "-"


def test_a_missing_reply_is_wrong_and_stays_in_the_denominator() -> None:
    samples = [multiple_choice("test_Art_1"), multiple_choice("test_Art_2"), open_question("test_Art_3", "")]
    judged = judge(samples, {"test_Art_1": "A"})
    assert [one.correct for one in judged] == [True, False, None]
    assert official(judge(samples[:2], {"test_Art_1": "A"})).overall == Tally(2, 1)


def test_any_other_type_than_multiple_choice_is_open() -> None:
    for kind in ("open", "short-answer", "fill"):
        sample = Sample(id="test_Art_1", subject="Art", question="q", question_type=kind, answer="no")
        assert judge([sample], {"test_Art_1": "(A) not sure"})[0].correct


def test_percent_is_the_official_rounding() -> None:
    assert Tally(900, 330).percent == "36.7"
    assert Tally(3, 2).percent == "66.7"


# ------------------------------------------------------------------ constants


def test_thirty_subjects_in_six_disciplines() -> None:
    assert len(SUBJECTS) == 30
    assert list(SUBJECTS) == sorted(SUBJECTS)
    assert sorted(subject for subjects in DISCIPLINES.values() for subject in subjects) == sorted(SUBJECTS)


@pytest.mark.parametrize(
    ("discipline", "test", "validation"),
    [
        ("Art and Design", 1163, 120),
        ("Business", 1428, 150),
        ("Science", 2426, 150),
        ("Health and Medicine", 1752, 150),
        ("Humanities and Social Science", 947, 120),
        ("Tech and Engineering", 2784, 210),
    ],
)
def test_sizes_of_disciplines(discipline: str, test: int, validation: int) -> None:
    assert sum(TEST_QUESTIONS[subject] for subject in DISCIPLINES[discipline]) == test
    assert sum(size("validation", subject) for subject in DISCIPLINES[discipline]) == validation


def test_sizes_of_splits() -> None:
    assert (total("dev"), total("validation"), total("test")) == (150, 900, 10500)


def test_subjects_are_put_in_order_and_unknown_ones_named() -> None:
    assert in_order(["Music", "Accounting", "Music"]) == ["Accounting", "Music"]
    with pytest.raises(ValueError, match=r"unknown MMMU subject 'Arts'; there are Accounting, Agriculture"):
        in_order(["Art", "Arts"])


def test_published_scores_of_yi_vl() -> None:
    assert COLUMNS[0] == OVERALL
    assert PUBLISHED["test"]["Yi-VL-34B"] == (41.6, 56.1, 33.3, 32.9, 45.9, 66.5, 36.0)
    assert PUBLISHED["test"]["Yi-VL-6B"] == (37.8, 53.4, 30.3, 30.0, 39.3, 58.5, 34.1)
    assert PUBLISHED["validation"]["Yi-VL-34B"] == (45.9, 59.2, 36.0, 33.3, 51.3, 62.5, 41.0)
    assert PUBLISHED["validation"]["Yi-VL-6B"] == (39.1, 52.5, 30.7, 31.3, 38.0, 53.3, 35.7)
    assert len(PUBLISHED["test"]) == 17


@pytest.mark.parametrize("split", ["test", "validation"])
def test_published_overall_is_the_average_over_questions(split: str) -> None:
    """A wrong digit or a wrong order of columns would show: with sizes so unlike, few permutations average alike."""
    sizes = [sum(size(split, subject) for subject in subjects) for subjects in DISCIPLINES.values()]
    for model, (overall, *disciplines) in PUBLISHED[split].items():
        average = sum(n * score for n, score in zip(sizes, disciplines, strict=True)) / sum(sizes)
        assert average == pytest.approx(overall, abs=0.1), model
