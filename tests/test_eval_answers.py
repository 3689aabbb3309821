"""Short answers: the official normalisation, rule by rule, and the accuracy over ten people."""

from __future__ import annotations

import itertools

import pytest

from eval.vqa_answers import PEOPLE, accuracy, m4c, official


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("Yes", "yes"),
        (" yes\n", "yes"),
        ("red\nand\tblue", "red and blue"),
        # full stops go, decimal points stay
        ("Yes.", "yes"),
        ("e.g. this", "eg this"),
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        # punctuation is a space, or nothing where a space is beside it
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("yes,no", "yes no"),
        ("yes, no", "yes no"),
        ("rock-n-roll -", "rocknroll"),  # one hyphen beside a space, so all of them go
        ("really?!", "really"),
        # apostrophe and colon are none
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        # a comma between digits goes, and takes all punctuation with it
        ("1,000", "1000"),
        ("1,000 m/s", "1000 ms"),
        ("1000 m/s", "1000 m s"),
        # numbers, articles, contractions
        ("two", "2"),
        ("Ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("None", "0"),
        ("twenty-one", "twenty 1"),
        ("The dog and a cat", "dog and cat"),
        ("a", ""),
        ("dont", "don't"),
        ("Thats a no", "that's no"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("twas", "'twas"),
        ("yalld've", "yalld've"),
        ("y'alld've", "y'all'd've"),
        # words that look like contractions without being in the official list
        ("lets", "lets"),
        ("wed", "wed"),
        ("shed", "shed"),
        ("im", "im"),
        ("ill", "ill"),
        # official mistakes
        ("somebody'd", "somebodyd"),
        ("." * 33, "."),
        ("", ""),
    ],
)
def test_an_answer_is_normalised_as_officially(answer: str, compared: str) -> None:
    assert official(answer) == compared


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        ("Yes.", "yes"),
        ("McDonald's", "mcdonald 's"),
        ("it's a two?", "it 's 2"),
        ("yes,no", "yesno"),  # where the official one makes it two words
        ("1,000 m/s", "1000 m s"),  # no comma is left to take the slash with it
        ("what?no", "whatno"),
        ("dont", "don't"),
    ],
)
def test_m4c_treats_commas_question_marks_and_possessives_apart(answer: str, compared: str) -> None:
    assert m4c(answer) == compared


def test_the_accuracy_is_the_mean_over_the_ten_subsets_of_nine() -> None:
    for agreeing in range(PEOPLE + 1):
        people = ["it"] * agreeing + ["other"] * (PEOPLE - agreeing)
        subsets = list(itertools.combinations(people, PEOPLE - 1))
        assert len(subsets) == 10
        expected = sum(min(subset.count("it") / 3, 1) for subset in subsets) / len(subsets)
        assert accuracy(agreeing) == pytest.approx(expected)
