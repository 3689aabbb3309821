"""What a language model writes after a text, greedily: for benchmarks without a dialogue around their questions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from yivl.inference import StopText
from yivl.language_model import LanguageModel

_ANCHOR = "x"
"""Decoded in front of new tokens, since a tokenizer may drop the space that a text begins with."""


def greedy(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, max_new_tokens: int, stop: StopText | None = None
) -> Tensor:
    """The new tokens. What the model's folder says of sampling and penalties is set aside.

    Args:
        model: a causal one.
        ids: int64 [B, T], prompts, padded on the left.
        mask: int64 [B, T], 0 at padding.
        max_new_tokens: longest reply.
        stop: ends a row early.

    Returns:
        int64 [B, N], 0 behind the end of a row.
    """
    written: Tensor = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([stop] if stop else []),
    )
    return written[:, ids.shape[1] :]


def complete(
    language: LanguageModel, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str]
) -> list[str]:
    """What the model writes after each of these texts, as one batch.

    A row may end early, behind the first stop in it: its reader cuts there. The prompt is tokenised as the tokenizer
    does by itself, with the special tokens that the model was trained to begin with.

    Raises:
        ValueError: a prompt leaves no room for the longest reply.
    """
    model, tokenizer = language
    encoded: list[list[int]] = [tokenizer(prompt, verbose=False)["input_ids"] for prompt in prompts]
    length = max(map(len, encoded))
    limit = model.config.to_dict().get("max_position_embeddings")
    if limit is not None and length + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {length} tokens and a reply of up to {max_new_tokens}: the model reads {limit} in all (its "
            "max_position_embeddings)"
        )
    ids = torch.zeros(len(encoded), length, dtype=torch.long)  # int64 [B, T]
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(encoded):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    stop = StopText(tokenizer, length, stops)
    written = greedy(model, ids.to(model.device), mask.to(model.device), max_new_tokens, stop)
    ends = _ends(model)
    return [_text(tokenizer, _ended(row, ends)) for row in written.tolist()]


def _ends(model: PreTrainedModel) -> set[int]:
    assert model.generation_config is not None
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _ended(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((at for at, one in enumerate(ids) if one in ends), len(ids))]


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    anchor: list[int] = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"]
    before, whole = (
        str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for part in (anchor, anchor + ids)
    )
    return whole[len(before) :]
