"""RefCOCO: boxes read from replies in the form that the training data teaches, and their overlap."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sources_case import put
from vqa_case import ask, image, read, value

from data.sources import refcoco as training
from eval.benchmark import BadData, Choices
from eval.phrases import overlap
from eval.refcoco import RefCOCO
from yivl.boxes import Box, from_text, to_text

ROOT = Path(__file__).parents[1]


def ref(picture: int, annotation: int, split: str, *phrases: tuple[int, str]) -> dict[str, Any]:
    sentences = [{"tokens": p.split(), "raw": p.upper(), "sent_id": number, "sent": p} for number, p in phrases]
    return {
        "ref_id": annotation,
        "ann_id": annotation,
        "image_id": picture,
        "split": split,
        "category_id": 1,
        "file_name": f"COCO_train2014_{picture:012d}_{annotation}.jpg",
        "sent_ids": [number for number, _ in phrases],
        "sentences": sentences,
    }


def put_refs(folder: Path, name: str, refs: list[dict[str, Any]]) -> None:
    """A wide image 1 with the annotations 11 and 12, and a tall image 2 with 21."""
    sizes = {1: (640, 480), 2: (300, 500)}
    boxes = {11: (1, [64, 48, 128, 96]), 12: (1, [320.0, 0.0, 160.5, 480]), 21: (2, [50, 100, 100, 150])}
    images = [
        {"id": number, "width": width, "height": height, "file_name": f"COCO_train2014_{number:012d}.jpg"}
        for number, (width, height) in sizes.items()
    ]
    annotations = [
        {"id": number, "image_id": picture, "bbox": box, "segmentation": [[1.5, 2]], "iscrowd": 0, "category_id": 1}
        for number, (picture, box) in boxes.items()
    ]
    put(folder / name / "instances.json", {"images": images, "annotations": annotations, "categories": []})
    by = "umd" if name == "refcocog" else "unc"
    (folder / name / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    folder = tmp_path / "refer"
    put_refs(
        folder,
        "refcoco",
        [
            ref(1, 12, "train", (1, "unseen")),
            ref(1, 11, "val", (7, "man at the café"), (8, "left man")),
            ref(2, 21, "val", (9, "tall one")),
            ref(1, 12, "testA", (10, "right man")),
        ],
    )
    put_refs(folder, "refcoco+", [ref(2, 21, "val", (7, "one")), ref(1, 12, "testA", (3, "bus"))])
    put_refs(folder, "refcocog", [ref(1, 12, "val", (0, "a bus")), ref(1, 11, "test", (1, "a man"))])
    for number, size in {1: (640, 480), 2: (300, 500)}.items():
        image(folder / f"images/mscoco/images/train2014/COCO_train2014_{number:012d}.jpg", *size)
    return folder


def test_each_phrase_is_asked_as_in_training_and_its_box_found(refcoco: Path, tmp_path: Path) -> None:
    replies = {
        "refcoco-7": "[0.100,0.200,0.300,0.350]",  # the box itself: the square is 640, the image 80 from its top
        "refcoco-8": "It is at [ 0.1, 0.2, 0.25, 0.35 ].",  # three quarters of it
        "refcoco-9": "[0.300,0.200,0.500,0.351]",  # a little more than half of it
        "refcoco+-7": "[0.300,0.200,0.500,0.349]",  # a little less
        "refcocog-0": "a bus",
    }
    result, model = ask(RefCOCO(refcoco, Choices()), tmp_path / "out", replies)
    assert model.prompt("refcoco-7") == training.WHERE.format("man at the café")
    assert model.prompt("refcoco-7") == "Give the bounding box of what this describes: man at the café"
    folder = refcoco / "images/mscoco/images/train2014"
    assert model.asked["refcoco-9"].images == (folder / "COCO_train2014_000000000002.jpg",)
    assert list(result.scores["accuracy"]["data set"]) == ["RefCOCO", "RefCOCO+", "RefCOCOg"]
    assert [verdict.score for verdict in result.verdicts] == [1, 1, 1, 0, 0]
    assert [value(result, "accuracy", name) for name in ("RefCOCO", "RefCOCO+", "RefCOCOg", "Overall")] == [
        1,
        0,
        0,
        0.6,
    ]
    assert [verdict.answer for verdict in result.verdicts][:2] == ["pixels 64, 48, 192, 144", "pixels 64, 48, 160, 144"]
    assert result.verdicts[0].question.truth == "pixels 64, 48, 192, 144"
    assert "1 replies hold no box; they count as wrong." in result.notes
    assert result.verdicts[-1].why == "no box"


def test_a_split_is_that_of_the_data_sets_which_have_it(refcoco: Path) -> None:
    asked = {split: [one.id for one in RefCOCO(refcoco, Choices(split=split)).questions] for split in ("testA", "test")}
    assert asked == {"testA": ["refcoco-10", "refcoco+-3"], "test": ["refcocog-1"]}


def test_a_data_set_can_be_asked_alone(refcoco: Path) -> None:
    (refcoco / "refcoco" / "refs(unc).p").unlink()
    one = RefCOCO(refcoco, Choices(subjects=("refcocog",)))
    assert [question.id for question in one.questions] == ["refcocog-0"]
    with pytest.raises(ValueError, match=r"no questions of the split testA in refcocog"):
        RefCOCO(refcoco, Choices(split="testA", subjects=("refcocog",)))
    with pytest.raises(FileNotFoundError, match=r"no refcoco/refs\(unc\).p; RefCOCO wants refs\(unc\).p"):
        RefCOCO(refcoco, Choices())


def test_a_box_is_read_as_it_is_written() -> None:
    rng = random.Random(0)
    for _ in range(200):
        width, height = rng.randint(20, 700), rng.randint(20, 700)
        left, top = rng.uniform(0, width - 10), rng.uniform(0, height - 10)
        box = Box(left, top, rng.uniform(left + 5, width), rng.uniform(top + 5, height))
        again = from_text(f"Sure: {to_text(box, width, height)}.", width, height)
        assert again is not None
        # three decimals of the longer side
        assert again == pytest.approx(box, abs=0.0005 * max(width, height) + 1e-9)


@pytest.mark.parametrize("reply", ["", "a man", "[0.1,0.2,0.3]", "0.1,0.2,0.3,0.4", "[a,b,c,d]", "[0.1,0.2,0.3,0.4"])
def test_what_is_no_box_is_none(reply: str) -> None:
    assert from_text(reply, 640, 480) is None


def test_the_first_box_counts() -> None:
    assert from_text("[0,0,1,1] or [0.5,0.5,1,1]", 10, 10) == Box(0, 0, 10, 10)


def test_overlap_is_that_of_counted_pixels() -> None:
    rng = random.Random(1)
    for _ in range(300):
        (a, b, c, d), (e, f, g, h) = ([rng.randint(0, 12) for _ in range(4)] for _ in range(2))
        one = {(x, y) for x in range(a, c) for y in range(b, d)}
        other = {(x, y) for x in range(e, g) for y in range(f, h)}
        expected = len(one & other) / len(one | other) if one and other else 0
        assert overlap(Box(a, b, c, d), Box(e, f, g, h)) == pytest.approx(expected)
    assert overlap(Box(0, 0, 4, 4), Box(0, 0, 4, 8)) == 0.5


def test_what_is_missing_in_the_instances_is_named(refcoco: Path) -> None:
    put_refs(refcoco, "refcoco+", [ref(1, 99, "val", (1, "ghost"))])
    with pytest.raises(
        BadData, match=r"refcoco\+/refs\(unc\).p, entry 0: .*instances.json has no image 1 or no object 99"
    ):
        RefCOCO(refcoco, Choices())
    put_refs(refcoco, "refcoco+", [ref(1, 11, "train", (1, "man"))])
    with pytest.raises(BadData, match=r"refcoco\+/refs\(unc\).p: nothing of the split val"):
        RefCOCO(refcoco, Choices())


def test_a_wrong_box_is_named_with_its_entry(refcoco: Path) -> None:
    file = refcoco / "refcocog/instances.json"
    content = read(file)
    content["annotations"][1]["bbox"] = [1, 2, 3]
    put(file, content)
    with pytest.raises(
        BadData, match=r"refcocog/instances.json, entry 1: a bbox has x, y, width and height, not \[1, 2, 3"
    ):
        RefCOCO(refcoco, Choices())


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(refcoco: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    (refcoco / "refcoco" / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch \"%b\"'\ntR." % str(mark).encode())
    with pytest.raises(BadData, match=r"refcoco/refs\(unc\).p: not a pickle of lists.*it asks for os.system"):
        RefCOCO(refcoco, Choices())
    assert not mark.exists()


def test_scoring_runs_where_torch_is_not_installed(refcoco: Path, tmp_path: Path) -> None:
    replies = dict.fromkeys(("refcoco-7", "refcoco-8", "refcoco-9", "refcoco+-7", "refcocog-0"), "[0,0,1,1]")
    ask(RefCOCO(refcoco, Choices()), tmp_path / "out", replies)
    (tmp_path / "out/result.json").unlink()
    script = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
from eval.command import run
run("refcoco", ["model", "--data", {str(refcoco)!r}, "--out", {str(tmp_path / "out")!r}, "--score-only"])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RefCOCO val, protocol `yivl`: 5 questions." in done.stdout
    assert (tmp_path / "out/result.json").is_file()
