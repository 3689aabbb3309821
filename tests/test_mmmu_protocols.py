"""What a model is asked in each of MMMU's protocols: the prompt, the pictures, and how long it may answer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmmu_case import Recorder, asked, judge, png, row, write
from PIL import Image

from eval.benchmark import BadData, Picture
from eval.mmmu import MMMU
from eval.mmmu.strip import joined
from eval.mmmu.subjects import SUBJECTS
from yivl.images import ZERO, open_image

CHOICE = {"question": "<image 1> Look at <image 2>. Which?", "options": "['a {0}', 'see <image 3>']"}
OPEN = {"question": "How much? <image 1>", "options": "[]", "question_type": "open"}


def image(colour: int, size: tuple[int, int] = (5, 3)) -> dict[str, Any]:
    return {"bytes": png(colour, size), "path": None}


def one(folder: Path, protocol: str, split: str = "validation", **fields: Any) -> MMMU:
    write(folder, "Art", [row(f"{split}_Art_1", **fields)], split=split)
    return asked(folder, protocol=protocol, split=split)


def prompt(folder: Path, protocol: str, **fields: Any) -> str:
    return one(folder, protocol, **fields).questions[0].prompt


def pictures(folder: Path, protocol: str, **fields: Any) -> tuple[Picture, ...]:
    benchmark = one(folder, protocol, **fields)
    return benchmark.pictures(benchmark.questions)[0]


# ------------------------------------------------------------------ prompts


def test_prompts_of_yi(tmp_path: Path) -> None:
    assert prompt(tmp_path, "yi", **CHOICE) == (
        " Look at . Which?\nA. a {0}\nB. see <image 3>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt(tmp_path, "yi", **OPEN) == "How much? \nAnswer the question using a single word or phrase."


def test_prompts_of_the_official_script(tmp_path: Path) -> None:
    assert prompt(tmp_path, "official", **CHOICE) == (
        "<image 1> Look at <image 2>. Which?\n(A) a {0}\n(B) see <image 3>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt(tmp_path, "official", **OPEN) == (
        "How much? <image 1>\nAnswer the question using a single word or phrase."
    )


def test_prompts_of_lmms_eval(tmp_path: Path) -> None:
    assert prompt(tmp_path, "lmms-eval", **CHOICE) == (
        "<image 1> Look at <image 2>. Which?\nA. a {0}\nB. see <image 3>\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt(tmp_path, "lmms-eval", **OPEN) == (
        "How much? <image 1>\n\nAnswer the question using a single word or phrase."
    )


def test_prompts_of_vlmevalkit_break_where_pictures_stood(tmp_path: Path) -> None:
    assert prompt(tmp_path, "vlmevalkit", **CHOICE) == (
        "Question: \n Look at \n. Which?\nOptions:\nA. a {0}\nB. see \n\n"
        "Please select the correct answer from the options above. \n"
    )
    assert prompt(tmp_path, "vlmevalkit", **OPEN) == "Question: How much? \n\n"


@pytest.mark.parametrize(
    ("protocol", "split", "tokens"),
    [
        ("yi", "validation", 64),
        ("yi", "test", 64),
        ("official", "validation", 128),
        ("lmms-eval", "validation", 128),
        ("lmms-eval", "test", 512),
        ("vlmevalkit", "validation", 1024),
    ],
)
def test_longest_reply(tmp_path: Path, protocol: str, split: str, tokens: int) -> None:
    write(tmp_path / "data", "Art", [row(f"{split}_Art_1")], split=split)
    model = Recorder()
    judge(tmp_path / "data", tmp_path / "out", model, protocol=protocol, split=split)
    assert model.max_new_tokens == tokens


def test_protocols_are_found_by_exact_name(data: Path) -> None:
    assert asked(data).protocol == "yi"
    with pytest.raises(ValueError, match="unknown protocol 'Yi'; there are yi, official, lmms-eval, vlmevalkit"):
        asked(data, protocol="Yi")


# ------------------------------------------------------------------ pictures

SEVERAL = {
    "question": "<image 2> and <image 1>?",
    "options": "['<image 3>', 'no']",
    "image_1": image(1),
    "image_2": image(2),
    "image_3": image(3),
}


@pytest.mark.parametrize(("protocol", "colour"), [("yi", 1), ("official", 1), ("vlmevalkit", 2)])
def test_of_several_pictures_one_is_shown(tmp_path: Path, protocol: str, colour: int) -> None:
    """The first, or with VLMEvalKit the first one mentioned."""
    assert pictures(tmp_path, protocol, **SEVERAL) == (png(colour),)


def test_lmms_eval_joins_all_that_are_mentioned_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (strip,) = pictures(tmp_path, "lmms-eval", **SEVERAL, image_4=image(4))
    assert isinstance(strip, Image.Image)
    # 5 x 3 is 1680 x 1008 beside each other, 1008 x 604 below: three below each other are the less elongated.
    assert strip.size == (1008, 3 * 604)
    assert [np.asarray(strip)[604 * n + 400, 500, 0] for n in range(3)] == [1, 2, 3]


def test_tall_pictures_are_joined_side_by_side() -> None:
    strip = joined([Image.new("RGB", (3, 5), (colour, 0, 0)) for colour in (7, 8)])
    assert strip.size == (2 * 604, 1008)
    assert [np.asarray(strip)[700, 604 * n + 300, 0] for n in range(2)] == [7, 8]


def test_joined_pictures_are_numbered() -> None:
    """A white square of the font's 40 pixels and a margin of 10, with something black in it, unlike from one to two."""
    pixels = np.asarray(joined([Image.new("RGB", (3, 5), "red")] * 2))
    squares = [pixels[:61, 604 * n : 604 * n + 61] for n in range(2)]
    for square in squares:
        assert (square[0] == 255).all() and (square[:, 0] == 255).all() and (square == 0).all(-1).any()
    assert not np.array_equal(*squares)
    assert (pixels[62:, 100] == (255, 0, 0)).all()


def test_a_single_picture_is_shown_as_it_is(tmp_path: Path) -> None:
    fields = {"question": "See <image 2>, once more <image 2>", "image_1": image(1), "image_2": image(2)}
    for protocol, colour in (("yi", 1), ("official", 1), ("lmms-eval", 2), ("vlmevalkit", 2)):
        assert pictures(tmp_path, protocol, **fields) == (png(colour),)


def test_a_question_that_mentions_none(tmp_path: Path) -> None:
    fields = {"question": "Which?", "image_1": image(1)}
    for protocol in ("yi", "official", "vlmevalkit"):
        assert pictures(tmp_path, protocol, **fields) == (png(1),)
    assert pictures(tmp_path, "lmms-eval", **fields) == ()


def test_where_there_is_no_first_picture(tmp_path: Path) -> None:
    """Yi's script shows zeros, LLaVA's nothing; the harnesses stumble over a mentioned one that is not there."""
    assert pictures(tmp_path, "yi", image_1=None) == (None,)
    assert pictures(tmp_path, "official", image_1=None) == ()
    for protocol in ("lmms-eval", "vlmevalkit"):
        with pytest.raises(BadData, match=r"row 0 \(validation_Art_1\): <image 1> is mentioned, and image_1 is empty"):
            pictures(tmp_path, protocol, image_1=None)


@pytest.mark.parametrize(
    ("question", "options", "sees"),
    [
        ("<image 1> Which?", "['a', 'b']", True),
        ("Which?", "['a', 'b']", True),
        ("Which?", "[]", True),
        ("<image 1> Which?", "['<image 2>', 'b']", True),
        ("<image 1> <image 2> Which?", "['a', 'b']", True),
        ("<image 1> Which?", "['<image 2>', '<image 3>']", False),
        ("<image 1> Which?", "['<image 2> or <image 3>', 'b']", False),
        # Without a tag in the question the options' tags count twice.
        ("Which?", "['<image 1>', 'b']", False),
        ("Which?", "['<image 1>', '<image 2>']", False),
    ],
)
def test_yi_shows_zeros_where_the_options_have_several(tmp_path: Path, question: str, options: str, sees: bool) -> None:
    kind = "open" if options == "[]" else "multiple-choice"
    seen = pictures(tmp_path, "yi", question=question, options=options, question_type=kind)
    assert seen == ((png(),) if sees else (None,))


def test_a_picture_that_can_not_be_joined_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    half = {"bytes": whole.getvalue()[: len(whole.getvalue()) // 2], "path": None}
    with pytest.raises(BadData, match=r"row 0 \(validation_Art_1\): image_2 can't be decoded"):
        pictures(tmp_path, "lmms-eval", **SEVERAL | {"image_2": half})


def test_pictures_go_to_the_model_as_their_bytes_and_zeros_where_there_is_none(tmp_path: Path) -> None:
    rows = [
        row("validation_Art_1", image_1=image(7), image_2=image(9)),
        row("validation_Art_2", options="['<image 1>', '<image 2>']"),
        row("validation_Art_3", image_1=None),
        row("validation_Art_4", image_1=image(8), question_type="open", options="[]"),
    ]
    write(tmp_path / "data", "Art", rows)
    model = Recorder()
    judge(tmp_path / "data", tmp_path / "out", model)
    images = {key: conversation.images for key, conversation in model.asked.items()}
    assert images["validation_Art_1"] == (png(7),)
    assert images["validation_Art_2"][0] is ZERO
    assert images["validation_Art_3"][0] is ZERO
    assert images["validation_Art_4"] == (png(8),)
    turn = model.asked["validation_Art_1"].turns[0]
    assert (turn.role, turn.images, turn.text[:14]) == ("human", 1, " What is it?\nA")


def test_a_whole_split_in_several_windows(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        rows = [row(f"dev_{subject}_{n}", image_1=image(n)) for n in range(1, 6)]
        write(tmp_path / "data", subject, rows, split="dev")
    model = Recorder()
    result = judge(tmp_path / "data", tmp_path / "out", model, split="dev", batch_size=60)
    assert [len(batch) for batch in model.batches] == [60, 60, 30]
    for key, conversation in model.asked.items():
        assert key.endswith(f"_{np.asarray(open_image(conversation.images[0]))[0, 0, 0]}")
    assert result.overall is not None and result.overall.value == 1.0
    assert not any("comparable" in note for note in result.notes)
