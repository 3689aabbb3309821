"""A model put together from its parts: CLIP weights in open_clip's form, a language model folder, a new projector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from conftest import TINY
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stages.stage import Stage
from stages.train import starting_model, train
from yivl.assembly import ModelSource, assemble
from yivl.settings import SettingsError, parse, read
from yivl.tokenizer import load_tokenizer, save_tokenizer

LLAMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 2400, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip.pt` of a small open_clip model `tiny-clip`, and `chat`, a language model folder as on the hub."""
    folder = tmp_path_factory.mktemp("parts")
    vision = {"image_size": 56, "layers": 4, "width": 48, "head_width": 12, "patch_size": 14}
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny-clip.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(1)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), folder / "clip.pt")
    LlamaForCausalLM(LlamaConfig(**LLAMA)).to(torch.bfloat16).save_pretrained(folder / "chat")
    save_tokenizer(load_tokenizer(TINY), folder / "chat")
    return folder


def source(parts: Path, **language: Any) -> ModelSource:
    content = {
        "name": "small",
        "vision": {"open_clip": "tiny-clip", "weights": str(parts / "clip.pt")},
        "language": {"weights": str(parts / "chat"), "config": LLAMA | language},
    }
    return parse(ModelSource, content, "here")


def test_parts_keep_their_weights_bit_for_bit(parts: Path) -> None:
    model = assemble(source(parts), seed=0).model
    clip = open_clip.create_model("tiny-clip", pretrained=str(parts / "clip.pt")).visual.state_dict()
    ours = model.vision.clip.state_dict()
    assert set(clip) - set(ours) == {"proj"}
    assert all(torch.equal(tensor, clip[name]) for name, tensor in ours.items())
    chat = AutoModelForCausalLM.from_pretrained(parts / "chat", dtype=torch.bfloat16)
    assert all(torch.equal(tensor, chat.state_dict()[name]) for name, tensor in model.language.state_dict().items())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model.language(ids).logits, chat(ids).logits)


def test_image_tokens_begin_at_the_scale_of_words(parts: Path) -> None:
    model = assemble(source(parts), seed=0).model.float()
    words = model.get_input_embeddings().weight.detach()
    with torch.no_grad():
        images = model.image_tokens(torch.randint(0, 255, (2, 3, 56, 56), dtype=torch.uint8))
    assert float(images.std()) == pytest.approx(float(words.std()), rel=0.05)


def test_the_new_projector_depends_on_the_seed_alone(parts: Path) -> None:
    first, again, other = (assemble(source(parts), seed=seed).model.projector.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["0.weight"], other["0.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_assembled_model_trains(
    parts: Path, stage_file: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    content = {
        "name": "small",
        "vision": {"open_clip": "tiny-clip", "weights": str(parts / "clip.pt")},
        "language": {"weights": str(parts / "chat"), "config": LLAMA},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    stage = read(Stage, stage_file(model="small.yaml", start_from="", precision=precision))
    assert starting_model(stage).model.config.text_config.num_hidden_layers == 2
    assert (train(stage) / "config.json").is_file()
    log = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1] < log[0]


def test_shapes_other_than_the_files_are_listed(parts: Path) -> None:
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is \[2400, 64\], but config.* makes it \[2400, 128\]"):
        assemble(source(parts, hidden_size=128), seed=0)
    with pytest.raises(ValueError, match="the tokenizer has 2400 pieces, the model only 1000"):
        assemble(source(parts, vocab_size=1000), seed=0)


def test_clip_weights_for_another_resolution_say_how_to_resize(parts: Path) -> None:
    content = open_clip.create_model("tiny-clip").state_dict()
    content["visual.positional_embedding"] = torch.zeros(65, 48)
    torch.save(content, parts / "larger.pt")
    other = replace(source(parts), vision=replace(source(parts).vision, weights=str(parts / "larger.pt")))
    with pytest.raises(ValueError, match=r"(?s)for images of 112 pixels.*model\.resize\(56\)"):
        assemble(other, seed=0)


def test_missing_parts_are_named(parts: Path) -> None:
    none = replace(source(parts), vision=replace(source(parts).vision, weights="none.pt"))
    with pytest.raises(FileNotFoundError, match=r"vision weights 'none\.pt': no such file"):
        assemble(none, seed=0)
    nowhere = replace(source(parts).language, weights="runs/no/where")
    with pytest.raises(FileNotFoundError, match="no tokenizer folder runs/no/where"):
        assemble(replace(source(parts), language=nowhere), seed=0)


def test_mistyped_language_settings_are_refused(parts: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown key 'language\.config\.hiden_size'; did you mean 'hidden_size'"):
        source(parts, hiden_size=64).config()
    with pytest.raises(ValueError, match="hidden_size"):
        source(parts, hidden_size="64").config()


def test_impossible_model_files_are_refused() -> None:
    with pytest.raises(SettingsError, match="key 'vision': give either 'open_clip'"):
        parse(ModelSource, {"name": "x", "vision": {}, "language": {"config": {}, "tokenizer": "t"}}, "here")
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-Z'"):
        parse(
            ModelSource,
            {"name": "x", "vision": {"open_clip": "ViT-Z"}, "language": {"config": {}, "tokenizer": "t"}},
            "here",
        ).config()
