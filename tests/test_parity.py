"""The model computes what the released Yi-VL code computes on the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors import safe_open

from yivl import Conversation, Turn, YiVL, prompt
from yivl.encoder import IMAGE_ID
from yivl.folder import read_model, write_model
from yivl.images import normalise, to_pixels
from yivl.released import write_released
from yivl.tokenizer import load_tokenizer

CASES = json.loads((TINY / "cases.json").read_text(encoding="utf-8"))
EXPECTED = dict(np.load(TINY / "expected.npz"))


def conversation(case: dict[str, Any]) -> Conversation:
    turns: list[Turn] = []
    for number, (asked, answered) in enumerate(case["turns"]):
        turns.append(Turn("human", asked, images=1 if number == 0 else 0))
        if answered is not None:
            turns.append(Turn("assistant", answered))
    return Conversation(turns=tuple(turns), images=(TINY / case["image"],))


def collapsed(ids: list[int], patches: int) -> list[int]:
    """Ids with each image as a single placeholder, as the released code has them."""
    first = ids.index(IMAGE_ID)
    return [*ids[:first], IMAGE_ID, *ids[first + patches :]]


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    reference = torch.from_numpy(expected)
    return float((found - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("number", [0, 1])
def test_pixels_features_and_image_tokens(tiny: YiVL, number: int) -> None:
    pixels = torch.from_numpy(to_pixels(TINY / f"image_{number}.png", 56))[None]
    assert float((normalise(pixels)[0] - torch.from_numpy(EXPECTED[f"pixels_{number}"])).abs().max()) < 1e-5
    with torch.no_grad():
        assert relative(tiny.model.vision(pixels)[0], EXPECTED[f"patch_features_{number}"]) < 1e-4
        assert relative(tiny.model.image_tokens(pixels)[0], EXPECTED[f"image_tokens_{number}"]) < 1e-4


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_prompt_ids_logits_and_greedy_tokens(tiny: YiVL, case: dict[str, Any]) -> None:
    key, chat = case["key"], conversation(case)
    assert prompt.text(chat) == case["prompt"]
    inputs = tiny.processor.encode([chat])
    ids = inputs["input_ids"]
    assert ids.shape[1] == case["length"]
    assert collapsed(ids[0].tolist(), 16) == EXPECTED[f"{key}_input_ids"].tolist()
    with torch.no_grad():
        logits = tiny.model(**inputs).logits[0]
    assert relative(logits[-4:], EXPECTED[f"{key}_logits_last4"]) < 1e-4
    assert logits.argmax(-1).tolist() == EXPECTED[f"{key}_argmax"].tolist()
    new = tiny.model.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
    assert new.tolist() == EXPECTED[f"{key}_greedy"].tolist()


def test_loss(tiny: YiVL) -> None:
    inputs = tiny.processor.encode([conversation(CASES[0])])
    labels = EXPECTED["labels_0"].tolist()
    at = EXPECTED["case_0_0_input_ids"].tolist().index(IMAGE_ID)
    labels = labels[:at] + [-100] * 16 + labels[at + 1 :]
    loss = tiny.model(**inputs, labels=torch.tensor([labels])).loss
    assert abs(loss.item() - float(EXPECTED["loss_0"])) < 1e-5


def test_released_layout_round_trip_is_bit_exact(tiny: YiVL, tmp_path: Path) -> None:
    write_released(tiny.model, tiny.tokenizer, tmp_path)
    again = YiVL.load(tmp_path)
    assert_equal_weights(tiny.model, again.model)
    tower = json.loads((tmp_path / "config.json").read_text())["mm_vision_tower"]
    assert names(tmp_path / "model.safetensors") == names(TINY / "model.safetensors")
    assert names(tmp_path / tower / "model.safetensors") == names(next((TINY / "vit").iterdir()) / "model.safetensors")
    text = "猫 and dog\n### Human: <unk> 1"
    assert again.tokenizer(text).input_ids == tiny.tokenizer(text).input_ids
    assert not (tmp_path / "tokenizer.json").exists()  # the released tools would not read this version of it


def test_own_layout_round_trip_is_bit_exact(tiny: YiVL, tmp_path: Path) -> None:
    write_model(tiny.model, tiny.tokenizer, tmp_path)
    assert_equal_weights(tiny.model, read_model(tmp_path))
    text = "猫 and dog\n### Human: <unk> 1"
    assert load_tokenizer(tmp_path)(text).input_ids == tiny.tokenizer(text).input_ids


def names(file: Path) -> set[str]:
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


def assert_equal_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
