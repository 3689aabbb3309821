"""Small language models whose layers change what they read, and folders of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import TINY
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from yivl.language_model import LanguageModel
from yivl.tokenizer import load_tokenizer

TOKENIZER = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def llama(layers: int = 6, seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    """With weights so large that cosines spread."""
    torch.manual_seed(seed)
    config = LlamaConfig(**{
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 2400, "pad_token_id": 0, "initializer_range": 0.12,
        "max_position_embeddings": 256,
    } | settings)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def language(model: PreTrainedModel) -> LanguageModel:
    return LanguageModel(model, load_tokenizer(TINY))


def written(model: PreTrainedModel, folder: Path, **saving: Any) -> Path:
    model.save_pretrained(folder, **saving)
    for name in TOKENIZER:
        shutil.copyfile(TINY / name, folder / name)
    return folder


def read(folder: Path) -> PreTrainedModel:
    """As transformers reads it, in the weights' dtype."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval()


def logits(model: PreTrainedModel, ids: torch.Tensor | None = None) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(1, 40)[None] if ids is None else ids).logits
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Names, dtypes and every bit."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in expected
    )


def status(key: str) -> int:
    """Bytes of this process: now (`VmRSS`), or at most (`VmHWM`)."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def in_a_fork(run: Callable[[], object]) -> int:
    """The exit status of a process that does it, below zero for a signal; a number that it returns is its status."""
    child = os.fork()
    if not child:
        code = 70
        try:
            found = run()
            code = found if isinstance(found, int) else 0
            sys.stderr.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
