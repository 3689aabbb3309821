"""VQAv2, VizWiz, TextVQA and GQA: asked and scored from files in their publishers' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sources_case import put
from vqa_case import SHORT, ask, image, read, value

from eval.benchmark import BadData, Choices
from eval.gqa import GQA
from eval.results import rescore
from eval.textvqa import TextVQA
from eval.vizwiz import VizWiz
from eval.vqav2 import VQAv2

# VQAv2


def people(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number} for number, answer in enumerate(answers, 1)
    ]


def annotation(question: int, kind: str, answers: list[dict[str, Any]], start: str = "what") -> dict[str, Any]:
    return {
        "question_type": start,
        "multiple_choice_answer": answers[0]["answer"],
        "answers": answers,
        "image_id": question // 1000,
        "answer_type": kind,
        "question_id": question,
    }


VQA = {
    42000: ("Is it red?", "yes/no", people(*["yes"] * 10), "is it"),
    42001: ("How many?", "number", people(*["2"] * 8, "two", "two"), "how many"),
    73000: ("What colour?", "other", people(*["blue"] * 3, *["red"] * 2, "green", *["The Sky"] * 4), "what"),
}


def questions(numbers: list[int]) -> dict[str, Any]:
    asked = [
        {"image_id": number // 1000, "question": VQA[number][0], "question_id": number}
        if number in VQA
        else {"image_id": number // 1000, "question": "What?", "question_id": number}
        for number in numbers
    ]
    return {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "questions": asked}


@pytest.fixture
def vqav2(tmp_path: Path) -> Path:
    folder = tmp_path / "vqav2"
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", questions(list(VQA)))
    given = [annotation(number, kind, answers, start) for number, (_, kind, answers, start) in VQA.items()]
    put(folder / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": given[::-1]})
    put(folder / "v2_OpenEnded_mscoco_test2015_questions.json", questions([1000, 1001, 2000]))
    put(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", questions([2000]))
    for number in (42, 73):
        image(folder / f"val2014/COCO_val2014_{number:012d}.jpg")
    for number in (1, 2):
        image(folder / f"test2015/COCO_test2015_{number:012d}.jpg")
    return folder


def test_vqav2_asks_as_llava_does_and_scores_by_ten_answers(vqav2: Path, tmp_path: Path) -> None:
    replies = {"42000": "Yes.", "42001": "Two", "73000": "red"}
    result, model = ask(VQAv2(vqav2, Choices()), tmp_path / "out", replies)
    assert model.prompt("42000") == "Is it red?" + SHORT
    assert model.asked["73000"].images == (vqav2 / "val2014/COCO_val2014_000000000073.jpg",)
    assert model.max_new_tokens == 128
    # ten of ten say yes; ten of ten say 2 once it is normalised; two say red: 2 subsets have one of them, 8 have two
    red = (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert value(result, "accuracy") == pytest.approx((1 + 1 + red) / 3)
    assert value(result, "accuracy", "number") == 1
    assert value(result, "accuracy", "what") == pytest.approx(red)
    assert list(result.scores["accuracy"]) == ["Overall", "answer type", "question type"]
    assert read(tmp_path / "out/submission.json") == [
        {"question_id": 42000, "answer": "yes"},
        {"question_id": 42001, "answer": "2"},
        {"question_id": 73000, "answer": "red"},
    ]


@pytest.mark.parametrize(
    ("answers", "reply", "points"),
    [
        (["the sky"] * 9 + ["sky"], "Sky", 1.0),
        (["the sky"] * 10, "The sky", 0.0),  # handed in as "sky", and nothing is done to answers that all agree on
        (["none"] * 10, "none", 0.0),
        (["none"] * 9 + ["one"], "none", 1.0),
        ([" yes\n"] * 10, "yes", 1.0),
    ],
)
def test_vqav2_compares_what_all_people_say_as_it_is_written(
    vqav2: Path, tmp_path: Path, answers: list[str], reply: str, points: float
) -> None:
    put(vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json", questions([42000]))
    given = [annotation(42000, "other", people(*answers))]
    put(vqav2 / "v2_mscoco_val2014_annotations.json", {"annotations": given})
    result, _ = ask(VQAv2(vqav2, Choices()), tmp_path / "out", {"42000": reply})
    assert value(result, "accuracy") == points


def test_vqav2_test_dev_is_handed_in_with_the_rest_of_test(vqav2: Path, tmp_path: Path) -> None:
    result, model = ask(VQAv2(vqav2, Choices(split="test-dev")), tmp_path / "out", {"2000": "A dog"})
    assert result.scores == {} and result.overall is None
    assert model.asked["2000"].images == (vqav2 / "test2015/COCO_test2015_000000000002.jpg",)
    assert read(tmp_path / "out/submission.json") == [
        {"question_id": 1000, "answer": ""},
        {"question_id": 1001, "answer": ""},
        {"question_id": 2000, "answer": "dog"},
    ]


def test_vqav2_questions_and_answers_must_be_of_each_other(vqav2: Path) -> None:
    put(vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json", questions([42000, 99000]))
    with pytest.raises(BadData, match=r"val2014_questions.json, entry 1: question 99000 has no answers in .*annotati"):
        VQAv2(vqav2, Choices())
    put(vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json", questions([42000, 42001]))
    with pytest.raises(BadData, match=r"annotations.json: question 73000 is not in .*val2014_questions.json"):
        VQAv2(vqav2, Choices())


def test_a_question_that_comes_twice_names_both_places(vqav2: Path) -> None:
    put(vqav2 / "v2_OpenEnded_mscoco_test2015_questions.json", questions([1000, 2000, 1000]))
    with pytest.raises(BadData, match=r"row 2 \(1000\): .*row 0 \(1000\) has the same id"):
        VQAv2(vqav2, Choices(split="test"))


def test_a_missing_reply_is_wrong(vqav2: Path, tmp_path: Path) -> None:
    benchmark = VQAv2(vqav2, Choices())
    ask(benchmark, tmp_path / "out", {"42000": "yes", "42001": "2", "73000": "the sky"})
    kept = (tmp_path / "out/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/predictions.jsonl").write_text("".join(line for line in kept if '"42000"' not in line))
    result = rescore(benchmark, tmp_path / "out")
    assert value(result, "accuracy") == pytest.approx(2 / 3)
    assert result.verdicts[0].why == "no reply" and result.verdicts[0].answer == ""


# VizWiz


def photo(number: int, question: str, kind: str, answerable: int, *answers: str) -> dict[str, Any]:
    return {
        "image": f"VizWiz_val_{number:08d}.jpg",
        "question": question,
        "answers": [{"answer_confidence": "yes", "answer": answer} for answer in answers],
        "answer_type": kind,
        "answerable": answerable,
    }


PHOTOS = [
    photo(0, "What is this? ", "other", 1, *["basil"] * 5, *["Basil Leaves"] * 5),
    photo(1, "Can you read it?", "unanswerable", 0, *["unanswerable"] * 8, "no", "yes"),
    photo(2, "What colour?", "other", 1, *["grey"] * 9, "unanswerable"),
    photo(3, "And this?", "unanswerable", 0, *["unanswerable"] * 10),
]


@pytest.fixture
def vizwiz(tmp_path: Path) -> Path:
    folder = tmp_path / "vizwiz"
    put(folder / "Annotations/val.json", PHOTOS)
    for one in PHOTOS:
        image(folder / "val" / one["image"])
    return folder


def test_vizwiz_is_scored_by_ten_answers_and_by_what_can_not_be_answered(vizwiz: Path, tmp_path: Path) -> None:
    names = [one["image"] for one in PHOTOS]
    replies = dict(zip(names, ["Basil leaves", "Unanswerable.", "unanswerable", "a dog"], strict=True))
    result, model = ask(VizWiz(vizwiz, Choices()), tmp_path / "out", replies)
    hint = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    assert model.prompt(names[0]) == "What is this? " + hint + SHORT
    assert model.asked[names[0]].images == (vizwiz / "val/VizWiz_val_00000000.jpg",)
    # officially people's answers are compared as written, so "Basil Leaves" is nobody's "basil leaves"
    points = [0, 1, (9 * 1 / 3 + 0) / 10, 0]
    assert [verdict.score for verdict in result.verdicts] == pytest.approx(points)
    assert value(result, "accuracy") == pytest.approx(sum(points) / 4)
    assert value(result, "accuracy", "unanswerable") == 0.5
    # one rightly called unanswerable, one wrongly, one not: F1 = 2 / (2 + 1 + 1)
    assert value(result, "unanswerable F1") == 0.5
    assert read(tmp_path / "out/submission.json")[:2] == [
        {"image": names[0], "answer": "basil leaves"},
        {"image": names[1], "answer": "unanswerable"},
    ]


def test_vizwiz_test_has_no_answers_and_is_handed_in(vizwiz: Path, tmp_path: Path) -> None:
    put(vizwiz / "test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "What?"}])
    image(vizwiz / "test/VizWiz_test_00000000.jpg")
    result, _ = ask(VizWiz(vizwiz, Choices(split="test")), tmp_path / "out", {"VizWiz_test_00000000.jpg": "Soup."})
    assert result.scores == {}
    assert read(tmp_path / "out/submission.json") == [{"image": "VizWiz_test_00000000.jpg", "answer": "soup"}]


# TextVQA


def scene(number: int, picture: str, question: str, *answers: str) -> dict[str, Any]:
    return {
        "question": question,
        "image_id": picture,
        "image_classes": ["Poster"],
        "flickr_original_url": "https://example.org",
        "image_width": 6,
        "image_height": 4,
        "answers": list(answers),
        "question_tokens": question.rstrip("?").split(),
        "question_id": number,
        "set_name": "val",
    }


@pytest.fixture
def textvqa(tmp_path: Path) -> Path:
    folder = tmp_path / "textvqa"
    data = [
        scene(34602, "003a8ae2ef43b901", "what brand is this?", *["McDonald's"] * 6, *["mcdonalds"] * 4),
        scene(34603, "0054c91397f2fe05", "what is the number?", *["1,000"] * 2, *["1000"] * 1, *["one"] * 7),
    ]
    put(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_name": "textvqa", "data": data})
    tokens = [
        {"image_id": "0054c91397f2fe05", "ocr_tokens": [], "ocr_info": []},
        {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL"], "ocr_info": []},
    ]
    put(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})
    for one in data:
        image(folder / f"train_images/{one['image_id']}.jpg")
    return folder


def test_textvqa_normalises_people_and_model_alike(textvqa: Path, tmp_path: Path) -> None:
    result, model = ask(TextVQA(textvqa, Choices()), tmp_path / "out", {"34602": "mcdonald's", "34603": "1000"})
    assert model.prompt("34602") == "What brand is this?" + SHORT
    assert model.asked["34602"].images == (textvqa / "train_images/003a8ae2ef43b901.jpg",)
    assert [verdict.answer for verdict in result.verdicts] == ["mcdonald 's", "1000"]
    # three people say 1000: three subsets have two of them, seven have three
    assert [verdict.score for verdict in result.verdicts] == pytest.approx([1, (3 * 2 / 3 + 7) / 10])
    assert "LLaVA" not in result.table


def test_textvqa_with_tokens_stands_beside_llava(textvqa: Path, tmp_path: Path) -> None:
    benchmark = TextVQA(textvqa, Choices(protocol="llava-ocr"))
    result, model = ask(benchmark, tmp_path / "out", {"34602": "x", "34603": "x"})
    assert model.prompt("34602") == "What brand is this?\nReference OCR token: DAKOTA, DIGITAL" + SHORT
    assert model.prompt("34603") == "What is the number?\nReference OCR token: " + SHORT
    assert "| LLaVA-1.5 7B  |    58.2 |" in result.table
    put(textvqa / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [{"image_id": "0", "ocr_tokens": []}]})
    with pytest.raises(BadData, match=r"TextVQA_0.5.1_val.json, entry 0: image 003a8ae2ef43b901 has no tokens in"):
        TextVQA(textvqa, Choices(protocol="llava-ocr"))


def test_ten_people_are_wanted(textvqa: Path) -> None:
    put(textvqa / "TextVQA_0.5.1_val.json", {"data": [scene(1, "a", "what?", "x", "y")]})
    with pytest.raises(BadData, match=r"TextVQA_0.5.1_val.json, entry 0: 2 answers; there should be 10"):
        TextVQA(textvqa, Choices())


# GQA


def composed(picture: str, question: str, answer: str, structure: str, meaning: str) -> dict[str, Any]:
    return {
        "semantic": [],
        "entailed": [],
        "equivalent": [],
        "question": question,
        "imageId": picture,
        "isBalanced": True,
        "groups": {"global": None, "local": "x"},
        "answer": answer,
        "semanticStr": "",
        "annotations": {},
        "types": {"detailed": "x", "semantic": meaning, "structural": structure},
        "fullAnswer": f"It is {answer}.",
    }


@pytest.fixture
def gqa(tmp_path: Path) -> Path:
    folder = tmp_path / "gqa"
    asked = {
        "201307251": composed("n161313", "Is it overcast?", "no", "verify", "global"),
        "201640614": composed("n235859", "Who is wearing the dress?", "woman", "query", "rel"),
        "202225914": composed("n161313", "What is it?", "the sky", "query", "obj"),
    }
    put(folder / "questions1.2/testdev_balanced_questions.json", asked)
    for name in ("n161313", "n235859"):
        image(folder / f"images/{name}.jpg")
    return folder


def test_gqa_wants_the_answer_itself(gqa: Path, tmp_path: Path) -> None:
    replies = {"201307251": "No.", "201640614": "a woman", "202225914": "The sky"}
    result, model = ask(GQA(gqa, Choices()), tmp_path / "out", replies)
    assert model.prompt("201307251") == "Is it overcast?" + SHORT
    assert model.asked["201640614"].images == (gqa / "images/n235859.jpg",)
    # case and a last full stop do not count; an article does
    assert [verdict.score for verdict in result.verdicts] == [1, 0, 1]
    expected = {"Overall": 2 / 3, "binary": 1, "open": 0.5, "verify": 1, "query": 0.5, "scene": 1, "relation": 0}
    assert {name: value(result, "accuracy", name) for name in expected} == pytest.approx(expected)
    assert "| LLaVA-1.5 13B |    63.3 |" in result.table
    assert read(tmp_path / "out/testdev_predictions.json") == [
        {"questionId": "201307251", "prediction": "no"},
        {"questionId": "201640614", "prediction": "a woman"},
        {"questionId": "202225914", "prediction": "the sky"},
    ]


# files that are not as they should be


def test_a_missing_file_is_named_with_what_is_wanted(gqa: Path, vizwiz: Path, vqav2: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no val_balanced_questions.json or questions1.2/.*GQA wants testdev_b"
    ):
        GQA(gqa, Choices(split="val"))
    with pytest.raises(FileNotFoundError, match=r"has no Annotations/test.json or annotations/test.json or test.json"):
        VizWiz(vizwiz, Choices(split="test"))
    (vqav2 / "v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no v2_OpenEnded_mscoco_test2015_questions.json; VQAv2 wants"):
        VQAv2(vqav2, Choices(split="test-dev"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"image": "VizWiz_val_000', r"val.json: not JSON .*cut off"),
        (b"\xff\xfe", r"val.json: not JSON"),
        ([], r"val.json: no entries; is it the published file"),
        ({"data": []}, r"val.json: no entries"),
        ([PHOTOS[0], {"image": "x.jpg"}], r"val.json, entry 1: 'answers' should be list"),
        ([{**PHOTOS[0], "question": None}], r"val.json, entry 0: 'question' should be str"),
        ([{**PHOTOS[0], "answerable": 2}], r"val.json, entry 0: 'answerable' should be 0 or 1, not 2"),
        (["x"], r"val.json, entry 0: 'image' should be str, in x"),
    ],
)
def test_a_wrong_file_is_named_with_its_entry(vizwiz: Path, content: Any, message: str) -> None:
    put(vizwiz / "Annotations/val.json", content)
    with pytest.raises(BadData, match=message):
        VizWiz(vizwiz, Choices())


def test_a_missing_or_broken_image_names_the_question(vizwiz: Path, tmp_path: Path) -> None:
    replies = {one["image"]: "x" for one in PHOTOS}
    (vizwiz / "val/VizWiz_val_00000002.jpg").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"val.json, row 2 \(VizWiz_val_00000002.jpg\): the picture can't be decoded"):
        ask(VizWiz(vizwiz, Choices()), tmp_path / "broken", replies)
    (vizwiz / "val/VizWiz_val_00000002.jpg").unlink()
    with pytest.raises(BadData, match=r"val.json, row 2 \(.*\): no image .*00000002.jpg; VizWiz wants Annotations"):
        ask(VizWiz(vizwiz, Choices()), tmp_path / "missing", replies)


def test_subjects_are_refused_where_there_are_none(gqa: Path) -> None:
    with pytest.raises(ValueError, match=r"GQA has no subject 'rel'; it has none"):
        GQA(gqa, Choices(subjects=("rel",)))
