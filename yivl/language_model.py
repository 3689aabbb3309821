"""The language model in a folder: a causal one of transformers', or the language part of one of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from yivl.configuration import YiVLConfig
from yivl.folder import check_folder
from yivl.inference import YiVL, float_dtype
from yivl.released import is_released
from yivl.tokenizer import load_tokenizer

SPREAD = "auto"
"""The device for all GPUs together, each with some of the layers."""


class LanguageModel(NamedTuple):
    """Ready to read: in evaluation mode, on its device."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def is_ours(folder: Path) -> bool:
    """True for a folder of a vision-language model, in our layout or in the released one."""
    return _settings(folder).get("model_type") == YiVLConfig.model_type or is_released(folder)


def load(folder: Path, device: str | None = None, dtype: str | None = None) -> LanguageModel:
    """The model of a folder.

    Args:
        folder: a model folder of ours, or one that transformers' AutoModelForCausalLM reads.
        device: such as "cuda:1", or `SPREAD` (needs the package accelerate); by default the first GPU, or else the CPU.
        dtype: such as "float32"; by default that of the weights.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: it holds another kind of model, a vision-language model is to be spread, or the dtype is none.
    """
    check_folder(folder)
    if is_ours(folder):
        whole = YiVL.load(folder, dtype, device)
        language: PreTrainedModel = whole.model.language
        language.generation_config = whole.model.generation_config
        return LanguageModel(language, whole.tokenizer)
    spread = device == SPREAD
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=float_dtype(dtype) if dtype else "auto", device_map=SPREAD if spread else None
    )
    if not spread:
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return LanguageModel(model.eval(), load_tokenizer(folder))


def position_limit(folder: Path) -> int | None:
    """Most tokens that the model reads, its configuration's `max_position_embeddings`; None where it has none."""
    if is_released(folder):  # transformers takes its configuration for that of another model of the same name
        limit: int | None = _settings(folder)["max_position_embeddings"]
    else:
        limit = AutoConfig.from_pretrained(folder).get_text_config().to_dict().get("max_position_embeddings")
    return limit


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return settings
