"""The model computes what the released Yi-VL code computes on the same checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors import safe_open
from safetensors.torch import load_file

from yivl import Conversation, Turn, YiVL, YiVLForConditionalGeneration, prompt
from yivl.encoder import IMAGE_ID
from yivl.folder import read_model, write_model
from yivl.images import normalise, to_pixels
from yivl.released import write_released
from yivl.tokenizer import load_tokenizer
from yivl.weights import write_weights

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


def test_sharded_bin_and_half_precision_checkpoints_are_read(tiny: YiVL, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    tower = next((tmp_path / "vit").iterdir())
    torch.save(load_file(tower / "model.safetensors"), tower / "pytorch_model.bin")
    (tower / "model.safetensors").unlink()
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    (tmp_path / "model.safetensors").unlink()
    write_weights(halved, tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model = YiVL.load(tmp_path)  # a float32 tower and a bfloat16 language model
    assert {p.dtype for p in model.model.vision.parameters()} == {torch.float32}
    assert {p.dtype for p in model.model.language.parameters()} == {torch.bfloat16}
    assert model.ask(TINY / "image_0.png", "图中有几只猫？", max_new_tokens=4)
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"incomplete: model-00001-of-\d+\.safetensors is missing"):
        YiVL.load(tmp_path)


def test_rotary_frequencies_stay_exact_in_half_precision(tiny: YiVL) -> None:
    half = YiVL.load(TINY, dtype="bfloat16")
    assert torch.equal(half.model.language.model.rotary_emb.inv_freq, tiny.model.language.model.rotary_emb.inv_freq)


def test_tied_embeddings_survive_both_layouts(tiny: YiVL, tmp_path: Path) -> None:
    config = copy.deepcopy(tiny.model.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    tied = YiVLForConditionalGeneration(config)
    write_model(tied, tiny.tokenizer, tmp_path / "ours")
    write_released(tied, tiny.tokenizer, tmp_path / "released")
    for folder in ("ours", "released"):
        again = read_model(tmp_path / folder)
        assert_equal_weights(tied, again)
        assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_what_the_released_layout_cannot_say_is_refused(fresh_tiny: YiVL, tmp_path: Path) -> None:
    fresh_tiny.model.config.text_config.rope_parameters = {"rope_type": "linear", "rope_theta": 5e6, "factor": 2.0}
    with pytest.raises(ValueError, match="no words for scaled rope"):
        write_released(fresh_tiny.model, fresh_tiny.tokenizer, tmp_path)


def test_damaged_weights_and_other_models_are_refused(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut off"):
        YiVL.load(tmp_path / "cut")
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    with pytest.raises(ValueError, match="its model_type is 'mistral'; 'yivl', Yi-VL's own 'llava'"):
        YiVL.load(tmp_path)


def names(file: Path) -> set[str]:
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


def assert_equal_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
