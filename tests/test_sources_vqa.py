"""Converters of question-and-answer and region data, from tiny files in their publishers' layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sources_case import put, texts

from data.raw import BadRaw
from data.record import Record, Skipped
from data.sources import gqa, refcoco, visual7w, visual_genome, vizwiz_vqa, vqav2

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        (vqav2, "v2_OpenEnded_mscoco_train2014_questions.json"),
        (vizwiz_vqa, "Annotations/train.json or annotations/train.json"),
        (gqa, "train_balanced_questions.json or questions1.2/train_balanced_questions.json"),
        (visual7w, "dataset_v7w_telling.json"),
        (refcoco, r"refcoco/refs\(unc\).p"),
        (visual_genome, "image_data.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, module: ModuleType, missing: str) -> None:
    with pytest.raises(BadRaw, match=f"{tmp_path} has no {missing};"):
        list(module.records(tmp_path))


# VQAv2


def ten(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, start=1)]


def put_vqav2(raw: Path, questions: list[tuple[int, int, str]], answers: dict[int, list[dict[str, Any]]]) -> None:
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": "train2014", "license": {}}
    put(
        raw / "v2_OpenEnded_mscoco_train2014_questions.json",
        head
        | {
            "task_type": "Open-Ended",
            "questions": [{"image_id": i, "question": text, "question_id": q} for q, i, text in questions],
        },
    )
    put(
        raw / "v2_mscoco_train2014_annotations.json",
        head
        | {
            "annotations": [
                {"question_type": "what is", "multiple_choice_answer": "unused", "answers": given, "image_id": 1}
                | {"answer_type": "other", "question_id": q}
                for q, given in answers.items()
            ]
        },
    )


def test_vqav2_questions_on_one_image_are_one_conversation(tmp_path: Path) -> None:
    put_vqav2(
        tmp_path,
        [
            (458752000, 458752, "What is this photo taken through?"),
            (9000, 9, "How many bowls?"),
            (458752001, 458752, "What position is this man playing?"),
        ],
        # of other order than the questions; in the last, five say catcher and five pitcher, who comes first
        {9000: ten(*["4"] * 10), 458752000: ten("net", "mesh", "Net ", "net", *["netting"] * 2, *["net"] * 4)}
        | {458752001: ten("pitcher", "catcher", "pitcher", "catcher", *["pitcher", "catcher"] * 3)},
    )
    first, second = vqav2.records(tmp_path)
    assert texts(first) == [
        f"What is this photo taken through?\n{SHORT}",
        "net",
        "What position is this man playing?",
        "pitcher",
    ]
    assert texts(second) == [f"How many bowls?\n{SHORT}", "4"]
    assert isinstance(first, Record) and isinstance(second, Record)
    assert (first.key, second.key) == ("000000458752", "000000000009")
    assert first.images == (tmp_path / "train2014" / "COCO_train2014_000000458752.jpg",)


def test_more_than_ten_questions_begin_another_conversation(tmp_path: Path) -> None:
    put_vqav2(tmp_path, [(q, 5, f"Q{q}?") for q in range(25)], {q: ten(*[f"a{q}"] * 10) for q in range(25)})
    found = list(vqav2.records(tmp_path))
    assert [record.key for record in found] == ["000000000005", "000000000005-1", "000000000005-2"]
    assert [len(texts(record)) for record in found] == [20, 20, 10]
    assert texts(found[2])[:2] == [f"Q20?\n{SHORT}", "a20"]


def test_an_empty_exchange_is_dropped_and_an_image_without_any_is_skipped(tmp_path: Path) -> None:
    put_vqav2(
        tmp_path,
        [(1, 1, "Kept?"), (2, 1, " "), (3, 2, "Nobody answered?"), (4, 2, "Nothing said?")],
        {1: ten(*["yes"] * 10), 2: ten(*["no"] * 10), 3: [], 4: ten(*[" "] * 6, *["no"] * 4)},
    )
    kept, skipped = vqav2.records(tmp_path)
    assert texts(kept) == [f"Kept?\n{SHORT}", "yes"]
    assert skipped == Skipped("000000000002", "empty question or answer")


def test_vqav2_questions_and_annotations_must_match(tmp_path: Path) -> None:
    put_vqav2(tmp_path, [(1, 1, "A?"), (2, 1, "B?")], {1: ten("yes")})
    with pytest.raises(BadRaw, match="question 2 has no answers"):
        list(vqav2.records(tmp_path))
    put_vqav2(tmp_path, [(1, 1, "A?")], {1: ten("yes"), 7: ten("no"), 8: ten("no")})
    with pytest.raises(BadRaw, match=r"2 questions are not in .*questions.json, such as 7"):
        list(vqav2.records(tmp_path))


def test_an_entry_without_its_key_is_named_with_its_file(tmp_path: Path) -> None:
    put_vqav2(tmp_path, [(1, 1, "A?")], {1: [{"reply": "yes"}]})
    with pytest.raises(BadRaw, match=r"v2_mscoco_train2014_annotations.json: 'answer' should be str.*reply"):
        list(vqav2.records(tmp_path))


# VizWiz


@pytest.mark.parametrize("folder", ["Annotations", "annotations"])
def test_vizwiz_keeps_unanswerable_as_an_answer(tmp_path: Path, folder: str) -> None:
    entry = {"answer_type": "unanswerable", "answerable": 0}
    put(
        tmp_path / folder / "train.json",
        [
            entry
            | {"image": "VizWiz_train_00000000.jpg", "question": "What's the name of this product?"}
            | {"answers": ten("basil leaves", "basil", *["basil leaves"] * 5, "Basil", "", "unsuitable")},
            entry
            | {"image": "VizWiz_train_00000001.jpg", "question": "Can you tell me what is in this can please?"}
            | {"answers": ten("soda", "unanswerable", "unsuitable", *["unanswerable"] * 4, *["soda"] * 3)},
            entry | {"image": "VizWiz_train_00000002.jpg", "question": "What?", "answers": ten(*[""] * 6, *["a"] * 4)},
        ],
    )
    answerable, unanswerable, skipped = vizwiz_vqa.records(tmp_path)
    assert texts(answerable) == [f"What's the name of this product?\n{SHORT}", "basil leaves"]
    assert texts(unanswerable)[1] == "unanswerable"
    assert isinstance(unanswerable, Record) and unanswerable.key == "VizWiz_train_00000001"
    assert unanswerable.images == (tmp_path / "train" / "VizWiz_train_00000001.jpg",)
    assert skipped == Skipped("VizWiz_train_00000002", "empty question or answer")


# GQA


@pytest.mark.parametrize("folder", ["", "questions1.2"])
def test_gqa_gathers_an_image_s_questions_from_all_over_the_file(tmp_path: Path, folder: str) -> None:
    def entry(image: str, question: str, answer: str) -> dict[str, Any]:
        return {"semantic": [], "imageId": image, "question": question, "answer": answer, "isBalanced": True} | {
            "fullAnswer": f"It is {answer}.",
            "groups": {"global": None, "local": "10q-wall_on"},
            "types": {"structural": "query"},
        }

    put(
        tmp_path / folder / "train_balanced_questions.json",
        {
            "07333408": entry("2375429", "What is on the white wall?", "pipe"),
            "07333405": entry("n161313", "Is that pipe red?", "no"),
            "15736264": entry("2375429", "Is the tall clock small or large?", "large"),
        },
    )
    first, second = gqa.records(tmp_path)
    assert texts(first) == [
        f"What is on the white wall?\n{SHORT}",
        "pipe",
        "Is the tall clock small or large?",
        "large",
    ]
    assert texts(second) == [f"Is that pipe red?\n{SHORT}", "no"]
    assert isinstance(first, Record) and first.key == "2375429"
    assert isinstance(second, Record) and second.images == (tmp_path / "images" / "n161313.jpg",)


def test_a_gqa_question_without_its_key_is_named(tmp_path: Path) -> None:
    put(tmp_path / "train_balanced_questions.json", {"07333408": {"imageId": "1", "question": "What?"}})
    with pytest.raises(BadRaw, match=r"train_balanced_questions.json: question 07333408: 'answer' should be str"):
        list(gqa.records(tmp_path))


# Visual7W


def v7w(image: int, split: str, pairs: list[tuple[int, str, str, list[str]]]) -> dict[str, Any]:
    keys = ("qa_id", "question", "answer", "multiple_choices")
    qa_pairs = [dict(zip(keys, pair, strict=True)) | {"image_id": image, "type": "what"} for pair in pairs]
    return {"image_id": image, "split": split, "filename": f"v7w_{image}.jpg", "qa_pairs": qa_pairs}


def put_v7w(raw: Path, *images: dict[str, Any]) -> None:
    put(raw / "dataset_v7w_telling.json", {"dataset": "visual7w-telling", "images": list(images)})


def test_visual7w_asks_for_the_letter_of_the_right_answer(tmp_path: Path) -> None:
    wrong = ["Tile.", "Carpet.", "Cement."]
    many = [(number, f"What {number}?", "Wood.", wrong) for number in range(1000)]
    put_v7w(
        tmp_path,
        v7w(2323054, "train", [(871917, "What type of flooring?", "Wood.", wrong)]),
        v7w(1, "val", [(1, "Unseen?", "Wood.", wrong)]),
        v7w(2, "test", [(2, "Unseen?", "Wood.", wrong)]),
        v7w(3, "train", many),
        v7w(4, "train", []),
        v7w(5, "train", [(5, "", "Wood.", wrong), (6, "What?", "Wood.", ["Tile.", " ", "Cement."])]),
    )
    first, *rest = visual7w.records(tmp_path)
    assert isinstance(first, Record) and first.key == "v7w_2323054"
    assert first.images == (tmp_path / "images" / "v7w_2323054.jpg",)
    asked, letter = texts(first)
    question, *options, instruction = asked.split("\n")
    assert question == "What type of flooring?" and instruction == LETTER
    assert [option[:3] for option in options] == ["A. ", "B. ", "C. ", "D. "]
    assert sorted(option[3:] for option in options) == ["Carpet.", "Cement.", "Tile.", "Wood."]
    assert f"{letter}. Wood." in options

    assert rest[-2:] == [Skipped("v7w_4", "no questions"), Skipped("v7w_5", "empty question or answer")]
    assert len(rest) == 100 + 2
    letters: Counter[str] = Counter()
    for record in rest[:-2]:
        told = texts(record)
        for asked, letter in zip(told[::2], told[1::2], strict=True):
            assert f"\n{letter}. Wood.\n" in asked and asked.endswith(LETTER)
            letters[letter] += 1
    assert set(letters) == set("ABCD") and min(letters.values()) > 200  # 250 each, with a deviation of 14


def test_visual7w_options_depend_on_the_question_alone(tmp_path: Path) -> None:
    pairs = [(number, f"What {number}?", "right", ["one", "two", "three"]) for number in range(6)]
    put_v7w(tmp_path / "a", v7w(1, "train", pairs))
    put_v7w(tmp_path / "b", v7w(9, "train", []), v7w(8, "train", pairs[::-1]))
    (forth,) = visual7w.records(tmp_path / "a")
    _, back = visual7w.records(tmp_path / "b")
    assert sorted(texts(forth)[::2]) == sorted(texts(back)[::2])
    assert texts(forth)[1::2] == texts(back)[1::2][::-1] == list("DDCADD")  # in every version, or shards would differ


def test_visual7w_has_four_options(tmp_path: Path) -> None:
    put_v7w(tmp_path, v7w(7, "train", [(3, "What?", "a", ["b", "c"])]))
    with pytest.raises(BadRaw, match=r"v7w_7.jpg: question 3 should have 3 wrong answers, not \['b', 'c'\]"):
        list(visual7w.records(tmp_path))
