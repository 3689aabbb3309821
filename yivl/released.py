"""The layout in which Yi-VL was released: reading and writing it, bit for bit.

One folder: `config.json` (`LlavaLlamaForCausalLM`, `mm_*` keys), the Llama weights with `model.mm_projector.*` in the
main shards, and the trained ViT as a transformers CLIP vision model in the folder that `mm_vision_tower` names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from yivl import images
from yivl.configuration import YiVLConfig
from yivl.model import YiVLForConditionalGeneration
from yivl.tokenizer import PIECES, load_tokenizer, save_tokenizer
from yivl.weights import build, read_weights, stored_weights, write_weights

MODEL_TYPE = "llava"
_LLAMA_KEYS = (
    "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act", "hidden_size",
    "initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size",
)  # fmt: skip
_EXPECTED = {
    "mm_projector_type": "mlp2x_gelu_Norm",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "rope_scaling": None,
}
"""What Yi-VL's configuration says and this model is; another value is another architecture."""

_TOWER = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def is_released(folder: Path) -> bool:
    """True for a folder in the released layout."""
    config = _json(folder / "config.json")
    return config.get("model_type") == MODEL_TYPE and "mm_vision_tower" in config


def read_released(folder: Path, dtype: torch.dtype | None = None) -> YiVLForConditionalGeneration:
    """The model in a folder of the released layout, in `dtype` (by default that of its weights).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: another architecture, or tensors that are missing, unexpected or of another shape.
    """
    released = _json(folder / "config.json")
    for key, expected in _EXPECTED.items():
        if released.get(key, expected) != expected:
            raise ValueError(f"{folder}/config.json: {key} is {released[key]!r}; only {expected!r} is supported")
    tower_folder = folder / released["mm_vision_tower"]
    tower = _json(tower_folder / "config.json")
    text = {key: released[key] for key in _LLAMA_KEYS if key in released}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": released["rope_theta"]}
    config = YiVLConfig(
        vision_config={
            "image_size": tower["image_size"],
            "patch_size": tower["patch_size"],
            "width": tower["hidden_size"],
            "layers": tower["num_hidden_layers"],
            "heads": tower["num_attention_heads"],
            "mlp_ratio": tower["intermediate_size"] / tower["hidden_size"],
            "activation": tower["hidden_act"],
        },
        text_config={"model_type": "llama", **text},
    )
    weights = _main_from_released(read_weights(folder))
    weights |= _tower_from_released(read_weights(tower_folder))
    return build(config, weights, dtype, where=folder)


def write_released(model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `model` so that every tool that runs Yi-VL runs it; the main configuration last.

    Raises:
        ValueError: the layout has no words for this language model, its tokenizer has no SentencePiece model, or the
            model has no vision part.
    """
    if not model.config.has_vision:
        raise ValueError("a language model alone has no released layout: its folder is a Llama's already")
    text, vision = model.config.text_config, model.config.vision_config
    _check_expressible(text)
    side = vision["image_size"]
    tower_name = f"./vit/clip-vit-{vision['width']}x{vision['layers']}-{side}"
    dtype = str(model.dtype).removeprefix("torch.")
    released = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        **{key: getattr(text, key) for key in _LLAMA_KEYS},
        "rope_theta": text.rope_parameters["rope_theta"],
        "mm_hidden_size": vision["width"],
        "mm_vision_tower": tower_name,
        "use_mm_proj": True,
        "torch_dtype": dtype,
        "use_cache": True,
        **_EXPECTED,
    }
    tower = {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": vision["width"],
        "image_size": side,
        "patch_size": vision["patch_size"],
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["heads"],
        "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
        "hidden_act": vision["activation"],
        "layer_norm_eps": 1e-5,
        "num_channels": 3,
        "torch_dtype": dtype,
    }
    main_weights, tower_weights = _to_released(stored_weights(model))
    tower_folder = folder / tower_name
    write_weights(tower_weights, tower_folder)
    _write_json(tower_folder / "config.json", tower)
    _write_json(tower_folder / "preprocessor_config.json", _preprocessor(side))
    write_weights(main_weights, folder)
    generation = {key: released[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", generation)
    _write_tokenizer(tokenizer, folder)
    _write_json(folder / "config.json", released)


def _check_expressible(text: PreTrainedConfig) -> None:
    """The released code reads neither another rope nor biases; a file that says nothing of them would be wrong."""
    if text.model_type != "llama":
        raise ValueError(f"the released layout holds Llama models; this is a {text.model_type!r}")
    plain_heads = text.head_dim == text.hidden_size // text.num_attention_heads
    if text.rope_parameters["rope_type"] != "default" or text.mlp_bias or not plain_heads:
        raise ValueError("the released layout has no words for scaled rope, MLP biases or another head_dim")


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The files that old versions of transformers read."""
    save_tokenizer(tokenizer, folder)
    if not (folder / PIECES).is_file():
        raise ValueError(f"the released layout needs {PIECES}, and {tokenizer.name_or_path} has none")
    names = {f"{n}_token": token for n in ("bos", "eos", "unk", "pad") if (token := getattr(tokenizer, f"{n}_token"))}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(number): {"content": str(token), **flags, "special": token.special}
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    _write_json(folder / "special_tokens_map.json", {k: {"content": v, **flags} for k, v in names.items()})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": True,
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": tokenizer.model_max_length,
            "sp_model_kwargs": {},
            "added_tokens_decoder": added,
            **names,
        },
    )
    (folder / "tokenizer.json").unlink()
    load_tokenizer(folder)  # raises unless the ids are those of the SentencePiece model


def _preprocessor(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.MEAN),
        "image_std": list(images.STD),
    }


def _main_from_released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        projector = name.removeprefix("model.mm_projector.")
        renamed[f"projector.{projector}" if projector != name else f"language.{name}"] = tensor
    return renamed


def _tower_from_released(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for full_name, tensor in weights.items():
        name = full_name.removeprefix("vision_model.")
        if name in _TOWER:
            renamed[f"vision.clip.{_TOWER[name]}"] = tensor
        elif name.startswith("encoder.layers."):
            index, rest = name.removeprefix("encoder.layers.").split(".", 1)
            module, kind = rest.rsplit(".", 1)
            block = f"vision.clip.transformer.resblocks.{index}"
            if module in _BLOCK:
                renamed[f"{block}.{_BLOCK[module]}.{kind}"] = tensor
            elif module == "self_attn.q_proj":  # open_clip holds query, key and value in one matrix
                parts = [weights[full_name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
                renamed[full_name] = tensor  # unknown: reported with the other unexpected names
        else:
            renamed[full_name] = tensor
    return renamed


def _to_released(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    main: dict[str, Tensor] = {}
    tower: dict[str, Tensor] = {}
    tower_names = {ours: theirs for theirs, ours in _TOWER.items()}
    block_names = {ours: theirs for theirs, ours in _BLOCK.items()}
    for name, tensor in weights.items():
        part, rest = name.split(".", 1)
        if part == "language":
            main[rest] = tensor
        elif part == "projector":
            main[f"model.mm_projector.{rest}"] = tensor
        elif (inner := rest.removeprefix("clip.")) in tower_names:
            tower[f"vision_model.{tower_names[inner]}"] = tensor
        else:
            index, rest = inner.removeprefix("transformer.resblocks.").split(".", 1)
            block = f"vision_model.encoder.layers.{index}"
            module, kind = rest.rsplit(".", 1)
            if module == "attn":
                for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                    tower[f"{block}.self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = rows.clone()
            else:
                tower[f"{block}.{block_names[module]}.{kind}"] = tensor
    return main, tower


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; is this a model folder?")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
