"""What each layer does to a text: the cosine between its input and its output, hidden states of each token.

Near 1, a layer changes the direction of what it reads little (the Yi-9B blog, "Model Structure"). A layer's value is
the mean over all tokens but the first; the model's is the mean over layers without the first and the last two. That is
one way to read "excluding the first and last 2 layers"; the other leaves out two at either end (`Profile.value`).

Cosines are taken while the model reads, in fp32, and reduced at once: memory stays that of one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from yivl.language_model import LanguageModel

QUIZ: Final = "Write a quiz about bits"
"""The documents' text."""
SHOWN: Final = 64
"""Tokens at the start of a text whose own cosines are kept; of all others only the sums."""
LAST: Final = 2
"""Layers at the end that the model's value leaves out."""


class Text(NamedTuple):
    """What a model reads."""

    name: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The cosines of a model's layers on a text."""

    layers: tuple[float, ...]
    """Each layer's value."""
    tokens: tuple[str, ...]
    """The first `SHOWN` of the text."""
    by_token: tuple[tuple[float, ...], ...]
    """For each of these tokens its cosine in each layer."""
    count: int
    """Tokens in the means."""

    def value(self, first: int = 1) -> float | None:
        """The model's, without the `first` layers and the last two; None where no layer is left."""
        inner = self.layers[first : len(self.layers) - LAST]
        return fmean(inner) if inner else None

    def mean(self, layers: range) -> float:
        """Of the values of some layers, at least one."""
        return fmean(self.layers[layer] for layer in layers)


class Cosines:
    """Collects what layers do, which are called one behind the other, again for each window."""

    def __init__(self, layers: int) -> None:
        self.sums = [0.0] * layers
        self.count = 0
        """Tokens in each sum: all but the first of every window."""
        self.by_token: list[list[float]] = []
        """For each layer those of the first window's first `SHOWN` tokens."""
        self._place = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """The next layer's input and output, [1, T, H] each."""
        cosines = F.cosine_similarity(before[0].to(after.device).float(), after[0].float(), dim=-1)  # [T]
        if len(self.by_token) < len(self.sums):
            self.by_token.append(cosines[:SHOWN].tolist())
        self.sums[self._place] += float(cosines[1:].double().sum())
        self._place = (self._place + 1) % len(self.sums)
        self.count += len(cosines) - 1 if self._place == 0 else 0

    def profile(self, tokens: Sequence[str]) -> Profile:
        """What was collected, of a text that begins with these tokens."""
        return Profile(
            layers=tuple(total / self.count for total in self.sums),
            tokens=tuple(tokens[:SHOWN]),
            by_token=tuple(zip(*self.by_token, strict=True)),
            count=self.count,
        )


@contextmanager
def watched(layers: Sequence[nn.Module]) -> Iterator[Cosines]:
    """Collects cosines of layers while the block runs; one layer may be there several times."""
    cosines = Cosines(len(layers))

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        cosines.add(inputs[0], output if isinstance(output, Tensor) else output[0])

    handles = [layer.register_forward_hook(hook) for layer in dict.fromkeys(layers)]
    try:
        yield cosines
    finally:
        for handle in handles:
            handle.remove()


def decoder(model: nn.Module) -> Any:
    """The part of a causal language model that has `layers`.

    Raises:
        ValueError: it is laid out otherwise than Llama.
    """
    inner = getattr(model, "model", None)
    if not isinstance(getattr(inner, "layers", None), nn.ModuleList):
        raise ValueError(f"{type(model).__name__} is no Llama-architecture model: it has no model.layers")
    return inner


def windows(tokenizer: PreTrainedTokenizerBase, text: Text, length: int) -> list[list[int]]:
    """A text's ids in pieces of at most `length`, each of which begins as the tokenizer begins a text.

    Raises:
        ValueError: the text has fewer than two tokens, or `length` is below two.
    """
    if length < 2:
        raise ValueError(f"a window of {length} tokens; at least 2 are needed, since the first one does not count")
    ids: list[int] = tokenizer(text.content, verbose=False).input_ids
    begin = ids[:1] if ids[:1] == [tokenizer.bos_token_id] else []
    rest, step = ids[len(begin) :], length - len(begin)
    pieces = [begin + rest[start : start + step] for start in range(0, len(rest), step)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise ValueError(
            f"text {text.name!r} has {len(ids)} tokens; at least 2 are needed, since the first does not count"
        )
    return pieces


def window_length(language: LanguageModel, length: int | None) -> int:
    """`length`, or by default the model's context.

    Raises:
        ValueError: it is more than the model reads.
    """
    limit: int | None = language.model.config.to_dict().get("max_position_embeddings")
    if length is None:
        return limit or 4096
    if limit is not None and length > limit:
        raise ValueError(f"a window of {length} tokens; the model reads {limit} at most (max_position_embeddings)")
    return length


@torch.inference_mode()
def measure(language: LanguageModel, text: Text, window: int | None = None) -> Profile:
    """The cosines of a model's layers on a text.

    Args:
        language: the model.
        text: cut into windows, in each of which the first token does not count.
        window: most tokens in a window; by default the model's context.

    Raises:
        ValueError: the text is too short, the window too long, or the model is laid out otherwise than Llama.
    """
    inner = decoder(language.model)
    pieces = windows(language.tokenizer, text, window_length(language, window))
    with watched(inner.layers) as cosines:
        for piece in pieces:
            inner(input_ids=torch.tensor([piece], device=language.model.device), use_cache=False)
    return cosines.profile(token_texts(language.tokenizer, pieces[0]))


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each of the first `SHOWN` tokens as a person reads it."""
    return [str(tokenizer.decode([number])) for number in ids[:SHOWN]]
