"""COCO captions: CIDEr by COCO's own scripts, against its definition written out."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sources_case import put
from vqa_case import ask, image, read, value

from eval.benchmark import BadData, Choices
from eval.cider import cider
from eval.coco_captions import COCOCaptions
from eval.results import rescore

pytestmark = pytest.mark.skipif(
    find_spec("pycocoevalcap") is None or shutil.which("java") is None, reason="wants pycocoevalcap and Java"
)

PEOPLE = {
    42: ["a red bus on the street", "the bus is red", "a bus", "a big red bus parked on a street", "bus on a road"],
    73: ["two dogs play in the grass", "dogs in the grass", "a dog and a dog", "two brown dogs", "dogs play"],
    74: ["a man rides a wave", "a surfer on a wave", "a man on a surfboard", "the man is surfing", "a big wave"],
}
SAID = {42: "a red bus on a street", 73: "two dogs in the grass", 74: "a dog rides a bus"}


def ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def slow_cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr-D: the mean over n-grams of 1 to 4 words and over references of the cosine of their tf-idf vectors, where
    no word counts more often than in the reference, times a penalty for another length, times ten."""

    def weights(text: str, n: int) -> dict[tuple[str, ...], float]:
        images = {
            gram: sum(any(gram in ngrams(one, n) for one in several) for several in references.values())
            for gram in ngrams(text, n)
        }
        return {
            gram: count * (math.log(len(references)) - math.log(max(1, images[gram])))
            for gram, count in ngrams(text, n).items()
        }

    def norm(vector: Mapping[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(weight**2 for weight in vector.values()))

    scores = {}
    for key, caption in captions.items():
        total = 0.0
        for reference in references[key]:
            penalty = math.exp(-((len(caption.split()) - len(reference.split())) ** 2) / (2 * 6**2))
            for n in range(1, 5):
                said, given = weights(caption, n), weights(reference, n)
                dot = sum(min(weight, given.get(gram, 0)) * given.get(gram, 0) for gram, weight in said.items())
                if norm(said) and norm(given):
                    total += penalty * dot / (norm(said) * norm(given))
        scores[key] = 10 * total / 4 / len(references[key])
    return scores


def karpathy(number: int, split: str) -> dict[str, Any]:
    name = f"COCO_val2014_{number:012d}.jpg"
    sentences = [
        {"tokens": raw.split(), "raw": raw, "imgid": number, "sentid": 10 * number + i}
        for i, raw in enumerate(PEOPLE[number])
    ]
    entry = {"filepath": "val2014", "sentids": [one["sentid"] for one in sentences], "filename": name, "imgid": number}
    return entry | {"split": split, "sentences": sentences, "cocoid": number}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    put(folder / "dataset_coco.json", {"images": [karpathy(n, "test") for n in PEOPLE], "dataset": "coco"})
    annotations = [
        {"image_id": number, "id": 10 * number + i, "caption": caption}
        for number, captions in PEOPLE.items()
        for i, caption in enumerate(captions)
    ]
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in PEOPLE]
    put(folder / "annotations/captions_val2014.json", {"images": images, "annotations": annotations[::-1]})
    for number in PEOPLE:
        image(folder / f"val2014/COCO_val2014_{number:012d}.jpg")
    return folder


def named(captions: Mapping[int, Any]) -> dict[str, Any]:
    return {str(number): one for number, one in captions.items()}


def test_the_score_of_the_corpus_is_the_mean_of_its_images(coco: Path, tmp_path: Path) -> None:
    result, model = ask(COCOCaptions(coco, Choices()), tmp_path / "out", named(SAID))
    assert model.prompt("42") == "Provide a one-sentence caption for the provided image."
    assert model.asked["73"].images == (coco / "val2014/COCO_val2014_000000000073.jpg",)
    assert model.max_new_tokens == 64
    expected = slow_cider(named(SAID), named(PEOPLE))
    assert [verdict.score for verdict in result.verdicts] == pytest.approx(list(expected.values()))
    assert value(result, "CIDEr") == pytest.approx(sum(expected.values()) / 3)
    assert min(expected.values()) > 0.01  # so that there is something to be wrong about
    assert read(tmp_path / "out/captions_val2014_results.json")[0] == {"image_id": 42, "caption": SAID[42]}


def test_karpathys_split_and_cocos_own_file_give_the_same_score(coco: Path, tmp_path: Path) -> None:
    scores = [
        value(ask(COCOCaptions(coco, Choices(split=split)), tmp_path / split, named(SAID))[0], "CIDEr")
        for split in ("test", "val2014")
    ]
    assert scores[0] == pytest.approx(scores[1])


def test_case_and_punctuation_do_not_count() -> None:
    shouted = {key: f"{caption.upper()} !" for key, caption in named(SAID).items()}
    assert cider(shouted, named(PEOPLE)) == cider(named(SAID), named(PEOPLE))


def test_captions_of_no_line_or_of_several_keep_the_others_in_place() -> None:
    plain = cider(named(SAID), named(PEOPLE))
    odd = named(SAID) | {"42": "a red bus\r\non\u2028a\x0bstreet\x85"}
    assert cider(odd, named(PEOPLE)) == plain
    nothing = named(SAID) | {"42": " \n", "74": "..."}
    assert cider(nothing, named(PEOPLE)) == plain | {"42": 0.0, "74": 0.0}
    assert cider(dict.fromkeys(plain, ""), named(PEOPLE)) == dict.fromkeys(plain, 0.0)


def test_a_missing_caption_scores_nothing(coco: Path, tmp_path: Path) -> None:
    benchmark = COCOCaptions(coco, Choices())
    ask(benchmark, tmp_path / "out", named(SAID))
    path = tmp_path / "out/predictions.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"42"' not in line))
    result = rescore(benchmark, tmp_path / "out")
    expected = slow_cider(named(SAID), named(PEOPLE)) | {"42": 0.0}
    assert value(result, "CIDEr") == pytest.approx(sum(expected.values()) / 3)
    assert result.verdicts[0].why == "no reply"


def test_without_java_nothing_is_asked(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(coco))
    with pytest.raises(ValueError, match=r"CIDEr takes Java.*install a Java runtime"):
        COCOCaptions(coco, Choices())


def test_images_without_captions_are_named(coco: Path) -> None:
    put(coco / "dataset_coco.json", {"images": [karpathy(42, "train"), {**karpathy(73, "test"), "sentences": []}]})
    with pytest.raises(BadData, match=r"dataset_coco.json, entry 1: val2014/COCO_.*73.jpg has no captions"):
        COCOCaptions(coco, Choices())
    with pytest.raises(ValueError, match="COCO captions has no questions of the split val"):
        COCOCaptions(coco, Choices(split="val"))
    images = [{"id": 5, "file_name": "COCO_val2014_000000000005.jpg"}]
    captions = [{"image_id": 42, "id": 1, "caption": "a bus"}]
    put(coco / "annotations/captions_val2014.json", {"images": images, "annotations": captions})
    with pytest.raises(BadData, match=r"captions_val2014.json, entry 0: image 5 has no captions"):
        COCOCaptions(coco, Choices(split="val2014"))
