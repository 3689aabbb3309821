"""MMMU's scores against what the official scripts and harnesses are known to give."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mmmu_case import asked, row, write

from eval.benchmark import OVERALL, Verdict
from eval.mmmu.dataset import accepted
from eval.mmmu.inference import infer
from eval.mmmu.published import COLUMNS, PUBLISHED
from eval.mmmu.subjects import DISCIPLINES, SUBJECTS, TEST_QUESTIONS, in_order, size, total
from eval.scores import scores
from eval.tables import percent

FOUR = {"A": "The man", "B": "A pretty girl", "C": "No", "D": "cell wall"}


def verdicts(
    folder: Path, replies: Mapping[str, str], rows: Mapping[str, dict[str, Any]], **choices: Any
) -> dict[str, Verdict]:
    """What becomes of replies to rows of the hub's files, by id; the right answer to each is A unless the row says."""
    split = next(iter(rows)).split("_")[0]
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for id, fields in rows.items():
        by_subject.setdefault("_".join(id.split("_")[1:-1]), []).append(row(id, **{"answer": "A"} | fields))
    for subject, of_subject in by_subject.items():
        write(folder, subject, of_subject, split=split)
    return {one.question.id: one for one in asked(folder, split=split, **choices).judge(replies)}


def opened(answer: str) -> dict[str, str]:
    return {"question_type": "open", "options": "[]", "answer": answer}


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
    ],
)
def test_only_a_list_literal_becomes_a_list(written: str, read: str | list[str]) -> None:
    assert accepted(written) == (read if isinstance(read, list) else [read])


def test_any_answer_of_a_list_is_right_but_not_with_lmms_eval(tmp_path: Path) -> None:
    rows = {"validation_Math_15": opened("['24/7', '3.429']"), "validation_Geography_4": opened("['Tampa', 'Florida']")}
    replies = {"validation_Math_15": "about 3.43", "validation_Geography_4": "It is florida"}
    for protocol, right in (("official", 1), ("yi", 1), ("lmms-eval", 0), ("vlmevalkit", 0)):
        found = verdicts(tmp_path, replies, rows, protocol=protocol)
        assert [one.score for one in found.values()] == [right, right], protocol


def test_why_a_reply_counts_so(tmp_path: Path) -> None:
    rows = {f"validation_Art_{n}": {} for n in range(1, 5)} | {"validation_Art_5": opened("5")}
    replies = {"1": "(A)", "2": "A or B", "3": "it is w because of the x", "4": "none", "5": "The answer is 5 kg"}
    found = verdicts(tmp_path, {f"validation_Art_{n}": reply for n, reply in replies.items()}, rows)
    assert [one.why for one in found.values()] == [
        "(A) in brackets",
        "B between spaces",
        "the text of option B",
        "nothing found: drawn at random",
        "5.0 was read from it",
    ]
    assert found["validation_Art_5"].answer == "5 kg; 5.0"


# ------------------------------------------------------------------ VLMEvalKit


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("Answer: B.", "B"),
        ("B, I think so", "B"),
        # The last four tokens are near enough to the end.
        ("B would be the choice", None),
        ("The correct answer is **b** in the opinion of many people", "B"),
        ("A or B", None),
        ("A pretty girl", "A"),  # a letter, before the text is looked at
        ("a pretty girl", "B"),
        ("the man and the cell wall", None),
        ("b", None),
        ("Cannot determine the answer", "Z"),
        ("Z", "Z"),
        # Much longer than all options together, so their texts are not looked for.
        ("a cell wall" + ", as one can see quite clearly in this picture" * 2, None),
    ],
)
def test_letter_inferred_by_vlmevalkit(reply: str, letter: str | None) -> None:
    found = infer(reply, FOUR)
    assert (None if found is None else found.answer) == letter


@pytest.mark.parametrize(
    ("answer", "reply", "score"),
    [
        ("0.963", "0.963", 1),
        ("0.963", "It is 0.963 mm", 1),
        ("0.963", "0.956", 0),
        # Graded as a choice between the answer and other ones; its letter is the answer if that is a letter (#1617).
        ("C", "C", 0),
        ("B", "B", 1),
        ("B", "line b", 0),
        ("B", "other answers", 1),
    ],
)
def test_open_questions_of_vlmevalkit(tmp_path: Path, answer: str, reply: str, score: int) -> None:
    rows = {"validation_Art_1": opened(answer)}
    found = verdicts(tmp_path, {"validation_Art_1": reply}, rows, protocol="vlmevalkit")
    assert found["validation_Art_1"].score == score


def test_what_vlmevalkit_can_not_infer_is_wrong_and_never_drawn(tmp_path: Path) -> None:
    rows = {f"validation_Art_{n}": {} for n in range(1, 4)}
    replies = {
        "validation_Art_1": "no idea",
        "validation_Art_2": "Cannot determine the answer",
        "validation_Art_3": "A",
    }
    found = verdicts(tmp_path, replies, rows, protocol="vlmevalkit")
    assert [one.score for one in found.values()] == [0, 0, 1]
    assert [list(one.parts) for one in found.values()] == [["accuracy"]] * 3
    assert asked(tmp_path, protocol="vlmevalkit").fallback == "wrong"
    with pytest.raises(ValueError, match="vlmevalkit draws no answers"):
        asked(tmp_path, protocol="vlmevalkit", fallback="expected")


# ------------------------------------------------------------------ replies without a letter


def test_random_letters_come_from_one_stream_over_the_subjects_in_official_order(tmp_path: Path) -> None:
    options = {
        "validation_Art_1": "wxyz", "validation_Music_1": "wx", "validation_Music_2": "vwxyz",
        "validation_Accounting_1": "xyz",
    }  # fmt: skip
    rows = {id: {"options": repr(list(texts))} for id, texts in options.items()}
    for protocol, seed in (("yi", 42), ("official", 42), ("lmms-eval", 0)):
        random.seed(seed)
        expected = {
            id: random.choice(list("ABCDE"[: len(options[id])]))
            for id in ("validation_Accounting_1", "validation_Art_1", "validation_Music_1", "validation_Music_2")
        }
        drawn = verdicts(tmp_path, dict.fromkeys(options, "no idea"), rows, protocol=protocol)
        assert {id: one.answer for id, one in drawn.items()} == expected
        assert all(one.drawn for one in drawn.values())


def test_the_first_random_letters_of_four_are_these(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {f"validation_Art_{n}": {} for n in range(12)}
    assert "".join(one.answer for one in verdicts(tmp_path, dict.fromkeys(rows, "?"), rows).values()) == "AACBBBAADAAA"


def test_only_what_has_no_letter_draws(tmp_path: Path) -> None:
    rows = {f"validation_Art_{n}": {} for n in range(4)} | {"validation_Art_9": opened("5")}
    replies = {"validation_Art_0": "D", "validation_Art_2": "none", "validation_Art_9": "none", "validation_Art_3": "-"}
    found = {id: one.answer for id, one in verdicts(tmp_path, replies, rows).items()}
    # Question 1 has no reply: it draws nothing, and the stream's first two letters go to 2 and 3.
    assert found == {
        "validation_Art_0": "D",
        "validation_Art_1": "",
        "validation_Art_2": "A",
        "validation_Art_3": "A",
        "validation_Art_9": "none",
    }


@pytest.mark.parametrize(
    ("fallback", "accuracy", "firm"), [("official", 1.0, 0.5), ("wrong", 0.5, None), ("expected", 0.625, 0.5)]
)
def test_fallbacks(tmp_path: Path, fallback: str, accuracy: float, firm: float | None) -> None:
    """Of two questions with four options one is answered right; the other's draw is lucky, or worth a quarter."""
    rows: dict[str, dict[str, Any]] = {"validation_Art_1": {}, "validation_Art_2": {}}
    replies = {"validation_Art_1": "I don't know", "validation_Art_2": "A"}
    found = verdicts(tmp_path, replies, rows, fallback=fallback)
    metrics = {name: levels[OVERALL][OVERALL].value for name, levels in scores(list(found.values())).items()}
    assert metrics == {"accuracy": accuracy} | ({} if firm is None else {"accuracy, drawn as wrong": firm})
    assert [one.drawn for one in found.values()] == [True, False]


def test_what_a_draw_is_worth_depends_on_the_number_of_options(tmp_path: Path) -> None:
    rows = {
        "validation_Art_1": {"options": "['x', 'y']"},
        "validation_Art_2": {"options": "['x', 'y', 'z', 'u', 'v']"},
        "validation_Art_3": {"options": "['x', 'y']", "answer": "F"},
    }
    found = verdicts(tmp_path, dict.fromkeys(rows, "?"), rows, fallback="expected")
    assert [one.score for one in found.values()] == [0.5, 0.2, 0.0]


# ------------------------------------------------------------------ averages


def test_averages_are_over_questions_not_subjects(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {"test_Art_1": {}, **{f"test_Math_{n}": {} for n in range(3)}}
    replies = {"test_Art_1": "A", "test_Math_0": "B", "test_Math_1": "B", "test_Math_2": "B"}
    levels = scores(list(verdicts(tmp_path, replies, rows).values()))["accuracy"]
    assert levels[OVERALL][OVERALL].value == 0.25  # over subjects it would be 0.5
    assert {name: (one.questions, one.value) for name, one in levels["subject"].items()} == {
        "Art": (1, 1.0),
        "Math": (3, 0.0),
    }
    assert set(levels["discipline"]) == {"Art and Design", "Science"}


def test_a_missing_reply_is_wrong_and_stays_in_the_denominator(tmp_path: Path) -> None:
    rows = {"test_Art_1": {}, "test_Art_2": {}, "test_Art_3": opened("")}
    found = verdicts(tmp_path, {"test_Art_1": "A"}, rows)
    assert [one.score for one in found.values()] == [1, 0, None]


def test_any_other_type_than_multiple_choice_is_open(tmp_path: Path) -> None:
    for kind in ("open", "short-answer", "fill"):
        rows = {"test_Art_1": {"question_type": kind, "answer": "no"}}
        assert verdicts(tmp_path, {"test_Art_1": "(A) not sure"}, rows)["test_Art_1"].score == 1


def test_percent_is_the_official_rounding() -> None:
    assert percent(330 / 900) == "36.7"
    assert percent(2 / 3) == "66.7"


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
