"""What repeating a block does to a model before anything is trained, for several blocks, without writing a model.

Each expansion is the model itself with some layers called twice, so all of them take the memory of one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from yivl.depth.cosine import Cosines, Profile, Text, decoder, token_texts, watched, window_length, windows
from yivl.depth.expansion import Expansion, changed_settings
from yivl.language_model import LanguageModel

ORIGINAL: Final = "original"
"""The name of the model itself among its expansions."""
_CHUNK: Final = 256
"""Positions whose logits exist at a time: 128 MiB of float32 at a vocabulary of 128,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an expansion, or the model itself, does with a text."""

    name: str
    expansion: Expansion | None
    """None for the model itself."""
    profile: Profile
    block: float | None
    """The mean cosine of the layers that it repeats, in the model itself."""
    perplexity: float
    """exp of the mean loss of all tokens but each window's first."""
    agreement: float
    """Share of positions where it takes the same next token for the likeliest as the model itself."""

    @property
    def layers(self) -> Sequence[int]:
        """For each of its layers, which one of the model itself it is."""
        return self.expansion.layers if self.expansion else range(len(self.profile.layers))

    @property
    def added(self) -> range:
        """Its added layers; none of the model itself."""
        return self.expansion.new if self.expansion else range(0)

    @property
    def copied(self) -> float | None:
        """The mean cosine of the added layers."""
        return self.profile.mean(self.expansion.new) if self.expansion else None


@contextmanager
def deepened(model: PreTrainedModel, expansion: Expansion) -> Iterator[None]:
    """The deeper model while the block runs, its layers those of `model` itself; it must read without a cache."""
    inner = decoder(model)
    layers, config = inner.layers, inner.config
    inner.layers = nn.ModuleList(layers[layer] for layer in expansion.layers)
    inner.config = copy.deepcopy(config)
    for key, value in changed_settings(config.to_dict(), expansion).items():
        setattr(inner.config, key, value)
    try:
        yield
    finally:
        inner.layers, inner.config = layers, config


def compare(
    language: LanguageModel,
    text: Text,
    expansions: Mapping[str, Expansion],
    window: int | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """The model itself and its expansions on one text, one after the other.

    Args:
        language: the model.
        text: cut into windows, in each of which the first token is given.
        expansions: by name.
        window: most tokens in a window; by default the model's context.
        told: called with the name of each before it reads.

    Raises:
        ValueError: see `yivl.depth.cosine.measure`.
    """
    pieces = windows(language.tokenizer, text, window_length(language, window))
    tokens = token_texts(language.tokenizer, pieces[0])

    def outcome(name: str, expansion: Expansion | None, reading: _Reading) -> Outcome:
        return Outcome(
            name=name,
            expansion=expansion,
            profile=reading.cosines.profile(tokens),
            block=profile.mean(expansion.block) if expansion else None,
            perplexity=math.exp(reading.loss),
            agreement=float((reading.choices == own.choices).double().mean()),
        )

    told(ORIGINAL)
    own = _read(language.model, pieces)
    profile = own.cosines.profile(tokens)
    outcomes = [outcome(ORIGINAL, None, own)]
    for name, expansion in expansions.items():
        told(name)
        with deepened(language.model, expansion):
            outcomes.append(outcome(name, expansion, _read(language.model, pieces)))
    return outcomes


class _Reading(NamedTuple):
    cosines: Cosines
    loss: float
    """Mean of the predicted tokens, in nats."""
    choices: Tensor
    """int64 [predicted tokens], what was the likeliest in its place."""


@torch.inference_mode()
def _read(model: PreTrainedModel, pieces: Sequence[Sequence[int]]) -> _Reading:
    inner, head = decoder(model), model.get_output_embeddings()
    total, predicted, choices = 0.0, 0, []
    with watched(inner.layers) as cosines:
        for piece in pieces:
            ids = torch.tensor(piece, device=model.device)  # [T]
            hidden = inner(input_ids=ids[None], use_cache=False).last_hidden_state[0]  # [T, H]
            for rows, targets in zip(hidden[:-1].split(_CHUNK), ids[1:].split(_CHUNK), strict=True):
                logits = head(rows).float()  # [at most _CHUNK, vocabulary]
                choices.append(logits.argmax(dim=-1).cpu())
                total += float(F.cross_entropy(logits, targets.to(logits.device), reduction="sum"))
                predicted += len(targets)
    return _Reading(cosines, total / predicted, torch.cat(choices))
