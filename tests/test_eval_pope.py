"""POPE: replies read as yes or no, and a confusion matrix made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sources_case import put
from vqa_case import SHORT, ask, image, value

from eval.benchmark import BadData, Choices
from eval.pope import POPE, said
from eval.results import rescore
from eval.runner import evaluate
from yivl import YiVL

CATEGORIES = ("random", "popular", "adversarial")

# By category: TP, FP, TN, FN.
CONFUSION = {"random": (5, 1, 4, 0), "popular": (3, 2, 3, 2), "adversarial": (1, 4, 1, 1)}


def asked(number: int, label: str, **other: Any) -> dict[str, Any]:
    name = f"COCO_val2014_{number // 6:012d}.jpg"
    text = "Is there a snowboard in the image?"
    return {"question_id": number, "image": name, "image_id": number // 6, "text": text, "label": label} | other


def write(folder: Path, category: str, labels: list[str]) -> None:
    content = [asked(number, label) for number, label in enumerate(labels)]
    put(folder / f"coco_pope_{category}.json", "".join(json.dumps(one) + "\n" for one in content))


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    folder = tmp_path / "pope"
    for category, (tp, fp, tn, fn) in CONFUSION.items():
        write(folder, category, ["yes"] * (tp + fn) + ["no"] * (fp + tn))
    for number in range(2):
        image(folder / f"val2014/COCO_val2014_{number:012d}.jpg")
    return folder


def replies() -> dict[str, str]:
    found = {}
    for category, (tp, fp, tn, fn) in CONFUSION.items():
        said = ["Yes"] * tp + ["No, there is none."] * fn + ["Yes."] * fp + ["no"] * tn
        found |= {f"{category}-{number}": reply for number, reply in enumerate(said)}
    return found


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no, there isn't", "no"),
        ("There is not", "no"),
        ("Yes. There is no dog.", "yes"),
        ("I do not, see one", "no"),
        # whatever holds none of the three words is a yes
        ("NO", "yes"),
        ("None", "yes"),
        ("There isn't", "yes"),
        ("Yes\nno", "yes"),
        ("", "yes"),
    ],
)
def test_a_reply_is_yes_unless_its_first_sentence_denies(reply: str, answer: str) -> None:
    assert said(reply) == answer


def test_metrics_are_those_of_the_confusion_matrix(pope: Path, tmp_path: Path) -> None:
    result, model = ask(POPE(pope, Choices()), tmp_path / "out", replies())
    assert model.prompt("popular-3") == "Is there a snowboard in the image?" + SHORT
    assert model.asked["popular-7"].images == (pope / "val2014/COCO_val2014_000000000001.jpg",)
    together = [sum(column) for column in zip(*CONFUSION.values(), strict=True)]
    for group, (tp, fp, tn, fn) in {**CONFUSION, "Overall": together}.items():
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        expected = {
            "accuracy": (tp + tn) / (tp + fp + tn + fn),
            "precision": precision,
            "recall": recall,
            "F1": 2 * precision * recall / (precision + recall),
            "yes ratio": (tp + fp) / (tp + fp + tn + fn),
        }
        assert {metric: value(result, metric, group) for metric in expected} == pytest.approx(expected)
    assert result.metric == "accuracy"


def test_the_mean_that_papers_report_is_that_of_the_categories(pope: Path, tmp_path: Path) -> None:
    result, _ = ask(POPE(pope, Choices()), tmp_path / "out", replies())
    by_category = [value(result, "F1", category) for category in CATEGORIES]
    assert [value(result, "mean F1", category) for category in CATEGORIES] == pytest.approx(by_category)
    assert value(result, "mean F1") == pytest.approx(sum(by_category) / 3)
    assert value(result, "mean F1") != pytest.approx(value(result, "F1"), abs=0.01)
    header, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.table.splitlines()]
    assert header == ["Model", "Overall", *CATEGORIES]
    assert ["LLaVA-1.5 7B (mean F1)", "85.9", "-", "-", "-"] in rows


def test_a_model_that_never_says_yes_has_no_precision(pope: Path, tmp_path: Path) -> None:
    result, _ = ask(POPE(pope, Choices()), tmp_path / "out", dict.fromkeys(replies(), "No"))
    assert [value(result, metric) for metric in ("precision", "recall", "F1", "mean F1", "yes ratio")] == [0] * 5


def test_a_missing_reply_is_wrong_and_neither_yes_nor_no(pope: Path, tmp_path: Path) -> None:
    benchmark = POPE(pope, Choices(subjects=("random",)))
    ask(benchmark, tmp_path / "out", replies())
    path = tmp_path / "out/predictions.jsonl"
    # one that is there, and one that is not: both were answered right
    lines = [line for line in path.read_text().splitlines(keepends=True) if '-0"' not in line and '-9"' not in line]
    path.write_text("".join(lines))
    result = rescore(benchmark, tmp_path / "out")
    tp, fp, tn, fn = 4, 2, 3, 1
    assert value(result, "accuracy") == (tp + tn) / 10
    assert value(result, "F1") == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert value(result, "yes ratio") == 5 / 8


def test_categories_can_be_asked_alone(pope: Path, tmp_path: Path) -> None:
    for category in ("random", "popular"):
        (pope / f"coco_pope_{category}.json").unlink()
    result, model = ask(POPE(pope, Choices(subjects=("adversarial",))), tmp_path / "out", replies())
    assert set(model.asked) == {f"adversarial-{number}" for number in range(7)}
    assert any("Only adversarial: not comparable" in note for note in result.notes)
    with pytest.raises(ValueError, match=r"POPE has no subject 'easy'; there are random, popular, adversarial"):
        POPE(pope, Choices(subjects=("easy",)))


def test_a_model_is_shown_the_images_in_the_folder(pope: Path, tiny: YiVL, tmp_path: Path) -> None:
    write(pope, "random", ["yes", "no", "no"])
    benchmark = POPE(pope, Choices(subjects=("random",)))
    benchmark.max_new_tokens = 4
    result = evaluate(tiny.answer, benchmark, tmp_path / "out", model_name="tiny", batch_size=2)
    prompt = "Is there a snowboard in the image?" + SHORT
    alone = tiny.ask(pope / "val2014/COCO_val2014_000000000000.jpg", prompt, max_new_tokens=4)
    assert list(result.replies.values()) == [alone] * 3
    assert value(result, "accuracy") == (1 / 3 if said(alone) == "yes" else 2 / 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": 0, "image"', r"coco_pope_random.json, line 2: not JSON"),
        (json.dumps(asked(1, "maybe")), r"coco_pope_random.json, entry 1: label 'maybe'; it should be yes or no"),
        (json.dumps(asked(1, "yes", text=None)), r"coco_pope_random.json, entry 1: 'text' should be str"),
        (json.dumps(asked(0, "yes")), r"row 1 \(random-0\): .*row 0 \(random-0\) has the same id"),
    ],
)
def test_a_wrong_line_is_named(pope: Path, line: str, message: str) -> None:
    put(pope / "coco_pope_random.json", f"{json.dumps(asked(0, 'yes'))}\n{line}\n")
    with pytest.raises(BadData, match=message):
        POPE(pope, Choices())
