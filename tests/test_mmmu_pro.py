"""MMMU-Pro in its three configurations: what is asked, and what the official parser makes of replies."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmmu_case import IMAGE, Recorder, png, read

from eval.benchmark import BadData, Choices
from eval.mmmu_pro import MMMUPro, parse
from eval.results import Result
from eval.runner import evaluate

TEXT = ["id", "question", "options", "explanation"]
STANDARD = pa.schema(
    [(name, pa.string()) for name in TEXT]
    + [(f"image_{n}", IMAGE) for n in range(1, 8)]
    + [(name, pa.string()) for name in ("img_type", "answer", "topic_difficulty", "subject")]
)
VISION = pa.schema(
    [("id", pa.string()), ("image", IMAGE)] + [(name, pa.string()) for name in ("options", "answer", "subject")]
)
FOLDERS = {"standard-10": "standard (10 options)", "standard-4": "standard (4 options)", "vision": "vision"}
LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER "
    "is one of options."
)


def item(id: str, /, **fields: Any) -> dict[str, Any]:
    """A question with ten options, `fields` apart."""
    return {
        "id": id,
        "question": "<image 1> Which?",
        "options": repr(list("klmnopqrst")),
        "explanation": "?",
        "image_1": {"bytes": png(1), "path": None},
        "img_type": "['Diagrams']",
        "answer": "J",
        "topic_difficulty": "Hard",
        "subject": "_".join(id.split("_")[1:-1]),
    } | fields


def write(folder: Path, rows: list[dict[str, Any]], split: str = "standard-10", shards: int = 1) -> Path:
    here = folder / FOLDERS[split]
    here.mkdir(parents=True, exist_ok=True)
    schema = VISION if split == "vision" else STANDARD
    for shard in range(shards):
        part = [{name: row.get(name) for name in schema.names} for row in rows[shard::shards]]
        pq.write_table(pa.Table.from_pylist(part, schema), here / f"test-{shard:05}-of-{shards:05}.parquet")
    return folder


def asked(folder: Path, rows: list[dict[str, Any]], split: str = "standard-10", **choices: Any) -> MMMUPro:
    return MMMUPro(write(folder, rows, split), Choices(split=split, **choices))


def judged(data: Path, out: Path, model: Recorder, **choices: Any) -> Result:
    return evaluate(model, MMMUPro(data, Choices(**choices)), out, model_name="model", batch_size=4)


# ------------------------------------------------------------------ what is asked


def test_prompts_of_the_standard_configurations(tmp_path: Path) -> None:
    rows = [item("test_Art_1", question="<image 1> and <image 2>?", options="['a', '<image 2>']", answer="A")]
    start = "[image] and [image]?\nA. a\nB. [image]\n"
    assert asked(tmp_path, rows).questions[0].prompt == (
        f"{start}Answer with the option letter from the given choices directly."
    )
    assert asked(tmp_path, rows, "standard-4", protocol="cot").questions[0].prompt == (
        f"{start}Answer the preceding multiple choice question. {LAST_LINE} Think step by step before answering."
    )


def test_prompts_of_vision_are_the_instruction_alone(tmp_path: Path) -> None:
    rows = [item("test_Art_1", image={"bytes": png(9), "path": None})]
    direct, cot = (asked(tmp_path, rows, "vision", protocol=protocol) for protocol in ("direct", "cot"))
    assert direct.questions[0].prompt == (f"Answer with the option letter from the given choices directly. {LAST_LINE}")
    assert cot.questions[0].prompt == (
        f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE} "
        "Think step by step before answering."
    )
    assert direct.pictures(direct.questions) == [(png(9),)]
    assert (direct.max_new_tokens, cot.max_new_tokens) == (50, 4096)


SHUFFLED = {
    "question": "Which of <image 3>?",
    "options": "['<image 2>', '<image 1>', '<image 3>']",
    **{f"image_{n}": {"bytes": png(n), "path": None} for n in range(1, 5)},
}


def test_pictures_stand_in_the_order_of_mention_each_as_often_as_mentioned(tmp_path: Path) -> None:
    """Options are shuffled, so that is not the order of their numbers (issue #70)."""
    benchmark = asked(tmp_path, [item("test_Art_1", **SHUFFLED)])
    assert benchmark.pictures(benchmark.questions) == [(png(3), png(2), png(1), png(3))]


def test_one_picture_for_a_model_that_reads_one(tmp_path: Path) -> None:
    benchmark = asked(tmp_path, [item("test_Art_1", **SHUFFLED)], protocol="direct-one")
    assert benchmark.pictures(benchmark.questions) == [(png(3),)]
    assert benchmark.max_new_tokens == 50
    assert asked(tmp_path, [item("test_Art_1", **SHUFFLED)], protocol="cot-one").max_new_tokens == 4096


# ------------------------------------------------------------------ the parser

TEN = dict(zip(string.ascii_uppercase, "klmnopqrst", strict=False))


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("I", "I"),
        ("Because of k.\nAnswer: D", "D"),
        ("Answer: A\nNo, wait.\nAnswer: (C)", "C"),
        ("Answer: **C**", "C"),
        # In a word too, as long as it is the only letter of an option.
        ("Answer: Crete", "C"),
        # Several behind `Answer:`, so the whole reply is read.
        ("Answer: A or B", "B"),
        ("(F) first.\nAnswer: A or B", "F"),
        ("answer: **C**", None),
        # Looser than MMMU's parser: at a word's end, or before a full stop.
        ("It is option-D as one sees", "D"),
        ("D.) is it", "D"),
        # Of several none of which stands between spaces the first wins.
        ("xE and xD say so", "D"),
        ("E and then D say so", "D"),
        ("k", None),
        ("K", None),
        ("", None),
    ],
)
def test_letter_found(reply: str, letter: str | None) -> None:
    found = parse(reply, TEN)
    assert (None if found is None else found.answer) == letter


def test_options_up_to_the_letter_l(tmp_path: Path) -> None:
    rows = [item("test_Art_1", options=repr(list("abcdefghijkl")), answer="L")]
    (found,) = asked(tmp_path, rows).judge({"test_Art_1": "Answer: L"})
    assert found.score == 1


def test_a_reply_without_a_letter_draws_from_a_stated_seed(tmp_path: Path) -> None:
    rows = [item(f"test_Art_{n}") for n in range(20)]
    random.seed(42)
    drawn = [random.choice(string.ascii_uppercase[:10]) for _ in rows]
    replies = {row["id"]: "?" for row in rows}
    official = asked(tmp_path, rows).judge(replies)
    assert [one.answer for one in official] == drawn
    expected = asked(tmp_path, rows, fallback="expected").judge(replies)
    assert [one.score for one in expected] == [pytest.approx(0.1)] * 20
    wrong = asked(tmp_path, rows, fallback="wrong").judge(replies)
    assert [one.score for one in wrong] == [0] * 20


# ------------------------------------------------------------------ results


def test_a_whole_run(tmp_path: Path) -> None:
    rows = [item("test_Art_1"), item("validation_Mechanical_Engineering_2", answer="A"), item("test_Math_3")]
    data = write(tmp_path / "data", rows, shards=2)
    result = judged(data, tmp_path / "out", Recorder(lambda key: "Answer: J"))
    assert result.overall is not None and result.overall.value == pytest.approx(2 / 3)
    assert {name: one.value for name, one in result.scores["accuracy"]["discipline"].items()} == {
        "Art and Design": 1.0,
        "Science": 1.0,
        "Tech and Engineering": 0.0,
    }
    assert "| GPT-4o" in result.text and "40.1" in result.text
    assert "the mean of standard-10 and vision" in result.text and "Only 3 of 1730 questions" in result.text
    # Under a name that the official evaluate.py reads, which wants id, options, answer and response.
    (first, *_) = (tmp_path / "out" / "output_standard_direct.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "id": "test_Art_1", "options": repr(list("klmnopqrst")), "answer": "J", "response": "Answer: J",
    }  # fmt: skip
    assert read(tmp_path / "out" / "result.json")["split"] == "standard-10"


def test_splits_are_the_three_configurations(tmp_path: Path) -> None:
    write(tmp_path, [item("test_Art_1")])
    assert MMMUPro(tmp_path, Choices()).split == "standard-10"
    with pytest.raises(FileNotFoundError, match=r"no folder .*vision"):
        MMMUPro(tmp_path, Choices(split="vision"))
    with pytest.raises(ValueError, match="unknown split 'test'; there are standard-10, standard-4, vision"):
        MMMUPro(tmp_path, Choices(split="test"))


def test_subjects_can_be_chosen(tmp_path: Path) -> None:
    rows = [item("test_Art_1"), item("test_Math_1")]
    assert [one.id for one in asked(tmp_path, rows, subjects=("Math",)).questions] == ["test_Math_1"]
    with pytest.raises(BadData, match="no questions of these subjects"):
        asked(tmp_path, rows, subjects=("Music",))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"options": "[1, "}, "options are no Python list literal"),
        ({"options": "[]"}, "no options"),
        ({"answer": None}, "no answer"),
        ({"question": None}, "no question"),
        ({"subject": "Arts"}, "unknown MMMU subject 'Arts'"),
        ({"id": "test_Art_0"}, "the same id as .*row 0"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadData, match=rf"test-00000-of-00001\.parquet, row 1.*{said}"):
        asked(tmp_path, [item("test_Art_0"), item("test_Art_1", **fields)])


def test_a_picture_that_is_mentioned_and_empty_is_named(tmp_path: Path) -> None:
    benchmark = asked(tmp_path, [item("test_Art_1", question="<image 2>?")])
    with pytest.raises(BadData, match=r"row 0 \(test_Art_1\): image_2 is mentioned, and empty"):
        benchmark.pictures(benchmark.questions)
