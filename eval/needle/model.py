"""The model in a folder as a `Reader`: any causal language model of transformers', or one of ours.

A vision-language model reads with its language part, since no needle is a picture, but in the prompt that it was
trained with: other words around the question would measure how well it takes to them. A prompt is read in one pass,
and transformers' `generate` keeps the logits of its last position alone: those of 200,000 positions would take 26 GB
at Yi's vocabulary in 16 bits.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from eval.completion import greedy
from yivl.conversation import question
from yivl.folder import check_folder
from yivl.language_model import LanguageModel, is_ours, load, position_limit
from yivl.prompt import text as dialogue
from yivl.tokenizer import load_tokenizer

FORMS = ("chat", "completion")


class FolderReader:
    """The model in a folder; its weights are loaded with the first prompt.

    Args:
        folder: see `yivl.language_model.load`.
        form: one of `FORMS`; by default "chat" where the model has a prompt for it, "completion" where it has none.
        device: see `yivl.language_model.load`.

    Raises:
        FileNotFoundError: there is no such folder, or no configuration or tokenizer in it.
        ValueError: "chat" of a model that has no prompt for it.
    """

    def __init__(self, folder: Path, *, form: str | None = None, device: str | None = None) -> None:
        self._folder, self._device = check_folder(folder), device
        self._ours = is_ours(folder)
        self._tokenizer = load_tokenizer(folder)
        chats = self._ours or self._tokenizer.chat_template is not None
        if form == "chat" and not chats:
            raise ValueError(f"{folder} has no chat template; ask it in the form 'completion'")
        self.form = form or ("chat" if chats else "completion")
        self.limit = position_limit(folder)

    @cached_property
    def _loaded(self) -> LanguageModel:
        return load(self._folder, self._device)

    def frame(self, text: str, start: str) -> str:
        """The prompt in this reader's form."""
        if self.form == "completion":
            return text + start
        if self._ours:
            return f"{dialogue(question(None, text))} {start}"
        turns = [{"role": "user", "content": text}]
        return f"{self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)}{start}"

    def length(self, prompt: str) -> int:
        """Tokens of a framed prompt."""
        return len(self._ids(prompt))

    def complete(self, prompt: str, max_new_tokens: int) -> str:
        """What the model greedily writes."""
        model = self._loaded.model
        ids = torch.tensor([self._ids(prompt)], device=model.device)  # int64 [1, T]
        written = greedy(model, ids, torch.ones_like(ids), max_new_tokens)[0]
        return str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()

    def _ids(self, prompt: str) -> list[int]:
        """A chat prompt names its special tokens itself."""
        special = self.form == "completion"
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"]
        return ids
