"""A model folder: what training writes, and what the next stage, inference and evaluation read.

Ours is transformers' (`config.json`, safetensors, tokenizer and processor files); a folder in the released layout is
told apart by its `model_type`. A language model alone is a Llama's folder as transformers has it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerBase

from yivl.configuration import NO_VISION, YiVLConfig
from yivl.model import YiVLForConditionalGeneration
from yivl.processor import YiVLProcessor
from yivl.released import is_released, read_released
from yivl.tokenizer import save_tokenizer
from yivl.weights import LANGUAGE, build, read_weights, stored_weights, write_weights


def check_folder(folder: str | Path) -> Path:
    """`folder` as a path.

    Raises:
        FileNotFoundError: it does not exist or holds no configuration.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no model folder {path}")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is not a model folder: it has no config.json")
    return path


def read_model(folder: str | Path, dtype: torch.dtype | None = None) -> YiVLForConditionalGeneration:
    """The model in a folder of either layout, or of a Llama as a model without vision; every tensor accounted for.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: another architecture, or weights that don't fit the configuration.
    """
    path = check_folder(folder)
    if is_released(path):
        model = read_released(path, dtype)
    else:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind == LlamaConfig.model_type:
            config = YiVLConfig(vision_config=NO_VISION, text_config=LlamaConfig.from_pretrained(path))
            model = build(config, {LANGUAGE + n: w for n, w in read_weights(path).items()}, dtype, where=path)
        elif kind == YiVLConfig.model_type:
            model = build(YiVLConfig.from_pretrained(path), read_weights(path), dtype, where=path)
        else:
            raise ValueError(
                f"{path}: its model_type is {kind!r}; 'yivl', Yi-VL's own 'llava', or 'llama' was expected"
            )
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def write_model(model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes a model folder in our layout, or a Llama's: the configuration last, so that a folder without it is
    unfinished."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_weights(stored_weights(model), path)
    save_tokenizer(tokenizer, path)
    model.generation_config.save_pretrained(path)
    model.config.dtype = model.config.text_config.dtype = next(model.language.parameters()).dtype
    if model.config.has_vision:
        YiVLProcessor.of(model.config, tokenizer).save_pretrained(path)
    whole, config = (model, model.config) if model.config.has_vision else (model.language, model.config.text_config)
    config.architectures = [type(whole).__name__]
    config.save_pretrained(path)
