"""A bare language model, taken from a vision-language model's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import LlamaForCausalLM

from yivl.folder import read_model


def as_llama(vision_language: Path, folder: Path, chat_template: str | None = None) -> Path:
    """Writes the language part as transformers' own Llama, with the tokenizer's files; the folder."""
    language = read_model(vision_language).language
    bare = LlamaForCausalLM(language.config)
    bare.load_state_dict(language.state_dict())
    bare.save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(vision_language / name, folder / name)
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder
