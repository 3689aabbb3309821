"""Converters of boxes: RefCOCO and Visual Genome, from tiny files in their publishers' layout."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from sources_case import put, texts

from data.raw import BadRaw
from data.record import Record, Skipped
from data.sources import refcoco, visual_genome

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


# RefCOCO


def python2_pickle(value: Any) -> bytes:
    """What Python 2 writes: its strings are bytes, which Python 3 has no way to write."""

    def code(value: Any) -> bytes:
        if isinstance(value, str):
            return b"T" + struct.pack("<i", len(value.encode())) + value.encode()
        if isinstance(value, int):
            return b"I%d\n" % value
        if isinstance(value, list):
            return b"(l" + b"".join(code(entry) + b"a" for entry in value)
        return b"(d" + b"".join(code(key) + code(entry) + b"s" for key, entry in value.items())

    return code(value) + b"."


def ref(image: int, annotation: int, split: str, *phrases: str) -> dict[str, Any]:
    sentences = [{"tokens": p.split(), "raw": p.upper(), "sent_id": i, "sent": p} for i, p in enumerate(phrases)]
    name = f"COCO_train2014_{image:012d}_{annotation}.jpg"
    return {"ref_id": annotation, "ann_id": annotation, "image_id": image, "split": split, "file_name": name} | {
        "category_id": 1,
        "sent_ids": list(range(len(phrases))),
        "sentences": sentences,
    }


REFS = {"refcoco": "refcoco/refs(unc).p", "refcoco+": "refcoco+/refs(unc).p", "refcocog": "refcocog/refs(umd).p"}


def put_refcoco(raw: Path, **refs: list[dict[str, Any]]) -> None:
    """A wide image 1 with annotations 11, 12, 13 and 14, which lies outside, and a tall image 2 with 21."""
    sizes = {1: (640, 480), 2: (300, 500)}
    boxes = {11: (1, [64, 48, 128, 96]), 12: (1, [320.0, 0.0, 400.5, 480]), 13: (1, [0, 0, 640, 480])}
    boxes |= {14: (1, [640, 100, 20, 20]), 21: (2, [50, 100, 100, 150])}
    for name, file in REFS.items():
        put(
            raw / name / "instances.json",
            {
                "info": {},
                "licenses": [],
                "images": [
                    {"id": i, "width": w, "height": h, "file_name": f"COCO_train2014_{i:012d}.jpg"}
                    for i, (w, h) in sizes.items()
                ],
                "annotations": [
                    {"id": a, "image_id": i, "bbox": box, "segmentation": [[1.5, 2]], "iscrowd": 0, "category_id": 1}
                    for a, (i, box) in boxes.items()
                ],
                "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
            },
        )
        default = [ref(2, 21, "train", "him")]
        (raw / file).write_bytes(python2_pickle(refs.get(name.replace("+", "plus"), default)))


def test_refcoco_phrases_ask_for_boxes_and_every_second_object_for_a_phrase(tmp_path: Path) -> None:
    refs = [ref(1, 11, "train", "man at the café", "left man"), ref(2, 21, "train", "tall one")]
    refs += [ref(1, 12, "train", "right bus", "big bus", "bus"), ref(1, 13, "train", "all of it")]
    refs += [ref(2, 22, "val", "unseen"), ref(2, 23, "testA", "unseen")]
    put_refcoco(tmp_path, refcoco=refs)
    wide, tall, plus, g = refcoco.records(tmp_path)
    # the square of the wide image has a side of 640 and the image begins 80 from its top
    assert texts(wide) == [
        "Give the bounding box of what this describes: man at the café",
        "[0.100,0.200,0.300,0.350]",
        "Give the bounding box of what this describes: left man",
        "[0.100,0.200,0.300,0.350]",
        "Describe what this bounding box shows, so that it can be told from the rest of the image: "
        "[0.500,0.125,1.000,0.875]",
        "right bus",
        "Give the bounding box of what this describes: big bus",
        "[0.500,0.125,1.000,0.875]",
        "Give the bounding box of what this describes: bus",
        "[0.500,0.125,1.000,0.875]",
        "Give the bounding box of what this describes: all of it",
        "[0.000,0.125,1.000,0.875]",
    ]
    # the square of the tall image has a side of 500 and the image begins 100 from its left
    assert texts(tall) == ["Give the bounding box of what this describes: tall one", "[0.300,0.200,0.500,0.500]"]
    assert [record.key for record in (wide, tall, plus, g)] == ["refcoco-1", "refcoco-2", "refcoco+-2", "refcocog-2"]
    folder = tmp_path / "images" / "mscoco" / "images" / "train2014"
    assert isinstance(wide, Record) and wide.images == (folder / "COCO_train2014_000000000001.jpg",)


def test_refcoco_leaves_out_boxes_outside_and_empty_phrases(tmp_path: Path) -> None:
    refs = [ref(1, 14, "train", "nowhere"), ref(1, 11, "train", " ", "man"), ref(2, 21, "train", "")]
    put_refcoco(tmp_path, refcoco=refs)
    outside, kept, empty, *_ = refcoco.records(tmp_path)
    assert outside == Skipped("refcoco-1-object-14", "box outside the image")
    # the second object of its image: its first phrase that has words is the answer
    assert texts(kept)[1:] == ["man"] and texts(kept)[0].endswith(": [0.100,0.200,0.300,0.350]")
    assert empty == Skipped("refcoco-2", "no phrase with a box")


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    put_refcoco(tmp_path)
    mark = tmp_path / "it ran"
    attacks = {
        "os.system": b"cos\nsystem\n(S'touch \"%b\"'\ntR." % str(mark).encode(),
        "__builtin__.eval": b'c__builtin__\neval\n(S\'open("%b", "w")\'\ntR.' % str(mark).encode(),
        "pathlib.Path": b"(ipathlib\nPath\n.",
        "copy_reg._reconstructor": b"(lccopy_reg\n_reconstructor\na.",
        "collections.OrderedDict": pickle.dumps([OrderedDict()], protocol=5),
    }
    for named, attack in attacks.items():
        (tmp_path / REFS["refcoco+"]).write_bytes(attack)
        with pytest.raises(BadRaw, match=rf"refs\(unc\)\.p: not a pickle of lists.* it asks for {named}$"):
            list(refcoco.records(tmp_path))
        assert not mark.exists()
    pickle.loads(attacks["__builtin__.eval"])
    assert mark.exists()  # so it would have run


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a pickle"), (b"\x80\x7f", "not a pickle"), (b"<html>", "not a pickle"), (b"I1\n.", "a int, not the l")],
)
def test_a_damaged_pickle_names_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    put_refcoco(tmp_path)
    (tmp_path / REFS["refcocog"]).write_bytes(content)
    with pytest.raises(BadRaw, match=rf"refcocog/refs\(umd\).p: {message}"):
        list(refcoco.records(tmp_path))


def test_refcoco_objects_must_be_in_the_instances(tmp_path: Path) -> None:
    put_refcoco(tmp_path, refcocoplus=[ref(1, 99, "train", "ghost")])
    with pytest.raises(BadRaw, match=r"refcoco\+/instances.json: image 1 or an object in it is missing"):
        list(refcoco.records(tmp_path))


def test_refcoco_is_not_begun_while_a_part_is_missing(tmp_path: Path) -> None:
    put_refcoco(tmp_path)
    (tmp_path / "refcocog" / "instances.json").unlink()
    with pytest.raises(BadRaw, match=r"has no refcocog/instances.json"):
        next(refcoco.records(tmp_path))


# Visual Genome


def put_genome(raw: Path, qas: dict[int, list[tuple[str, str]]], regions: dict[int, list[tuple[Any, ...]]]) -> None:
    """A wide image 1, in VG_100K_2, and a tall image 3, in VG_100K."""
    site = "https://cs.stanford.edu/people/rak248"
    more = {"coco_id": None, "flickr_id": None}
    put(
        raw / "image_data.json",
        [
            {"width": 800, "url": f"{site}/VG_100K_2/1.jpg", "height": 600, "image_id": 1} | more,
            {"width": 300, "url": f"{site}/VG_100K/2370463.jpg", "height": 500, "image_id": 3} | more,
        ],
    )
    put(
        raw / "question_answers.json",
        [
            {
                "id": image,
                "qas": [
                    {"a_objects": [], "question": q, "image_id": image, "qa_id": i, "answer": a, "q_objects": []}
                    for i, (q, a) in enumerate(pairs)
                ],
            }
            for image, pairs in qas.items()
        ],
    )
    put(
        raw / "region_descriptions.json",
        [
            {
                "regions": [
                    {"region_id": 1382 + i, "image_id": image, "phrase": p, "x": x, "y": y, "width": w, "height": h}
                    for i, (p, x, y, w, h) in enumerate(given)
                ],
                "id": image,
            }
            for image, given in regions.items()
        ],
    )


def test_visual_genome_gives_questions_and_regions_of_each_image(tmp_path: Path) -> None:
    put_genome(
        tmp_path,
        # the orders of the two files differ
        {1: [("What color is the clock?", "Green."), ("How many people?", "")], 3: []},
        {
            3: [("white bowl", -10, 100, 110, 150), ("a cloud", 179, -904, 55, 25)],
            1: [
                ("the clock is green in colour", 400, 0, 80, 200),
                ("shade is along the street ", 200, 300, 200, 100),
                ("", 0, 0, 10, 10),
                ("the sky", 0, 0, 800, 40),
            ],
        },
    )
    questions, none, outside, tall, wide = visual_genome.records(tmp_path)
    assert texts(questions) == [f"What color is the clock?\n{SHORT}", "Green."]
    assert isinstance(questions, Record) and questions.key == "1-questions"
    assert questions.images == (tmp_path / "VG_100K_2" / "1.jpg",)
    assert none == Skipped("3-questions", "no questions")
    assert outside == Skipped("3-region-1383", "box outside the image")
    # side 500, begins 100 from the left; what is left of the image is cut off
    assert texts(tall) == ["Describe this region: [0.200,0.200,0.400,0.500]", "white bowl"]
    assert isinstance(tall, Record) and tall.images == (tmp_path / "VG_100K" / "2370463.jpg",)
    # side 800, begins 100 from the top
    assert texts(wide) == [
        "Describe this region: [0.500,0.125,0.600,0.375]",
        "the clock is green in colour",
        "Give the bounding box of: shade is along the street",
        "[0.250,0.500,0.500,0.625]",
        "Describe this region: [0.000,0.125,1.000,0.175]",
        "the sky",
    ]
    assert isinstance(wide, Record) and wide.key == "1-regions"


def test_visual_genome_picks_ten_regions_evenly(tmp_path: Path) -> None:
    many = [(f"thing {number}", number, 0, 10, 10) for number in range(25)]
    put_genome(tmp_path, {1: [(f"Q{n}?", "yes") for n in range(11)]}, {1: many, 3: []})
    first, second, regions, none = visual_genome.records(tmp_path)
    assert [record.key for record in (first, second, regions)] == ["1-questions", "1-questions-1", "1-regions"]
    things = [text.removeprefix("Give the bounding box of: ") for text in texts(regions) if "thing" in text]
    assert things == [f"thing {number}" for number in (0, 2, 5, 7, 10, 12, 15, 17, 20, 22)]
    assert none == Skipped("3-regions", "no phrase with a box")


def test_visual_genome_names_what_does_not_fit(tmp_path: Path) -> None:
    put_genome(tmp_path, {77: [("What?", "This.")]}, {1: []})
    with pytest.raises(BadRaw, match=r"question_answers.json: image 77 is not in image_data.json"):
        list(visual_genome.records(tmp_path))
    image = {"width": 8, "url": "https://elsewhere.org/1.jpg", "height": 6, "image_id": 1}
    put(tmp_path / "image_data.json", [image])
    with pytest.raises(BadRaw, match=r"image_data.json: an image's url should end in .*elsewhere.org/1.jpg"):
        list(visual_genome.records(tmp_path))
    put(tmp_path / "image_data.json", [{key: value for key, value in image.items() if key != "url"}])
    with pytest.raises(BadRaw, match=r"image_data.json: 'url' should be str"):
        list(visual_genome.records(tmp_path))
