"""What a micro-batch keeps in memory between forward and backward, and what it needs on top at its peak.

A model of one or two blocks in each part runs forward and backward on fake tensors, which have shapes and no data, and
a ledger tells how much is alive when. Every further block adds the same, so this tells of any number of them, within a
second or two and whatever the model's size.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from stages.parts import cast, freeze_all_but
from stages.planning.ledger import Ledger
from stages.stage import Stage
from yivl.adapters import Adapter, add_adapter
from yivl.checkpointing import blocks, recompute
from yivl.configuration import YiVLConfig
from yivl.model import YiVLForConditionalGeneration

BLOCKS = ("vision", "language")
"""The parts that consist of blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A full micro-batch."""

    tokens: int
    images: int
    supervised: int


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes, beside weights and their gradients."""

    kept: int
    """Between forward and backward."""
    working: int
    """On top, at the peak: the head's logits, or the gradients and the recomputed inside of a block."""


class MicroBatch:
    """Forward and backward of one micro-batch, in bytes.

    Args:
        stage: what is trained, in which precision, by which engine.
        config: shapes, at the stage's resolution.
        row: the micro-batch.
    """

    def __init__(self, stage: Stage, config: YiVLConfig, row: Row) -> None:
        self._number = depth(config)
        self._setting = _Setting(
            config=json.dumps(config.to_dict()),
            trained=frozenset(stage.learning_rate),
            # packed weights are frozen and keep nothing, so in bf16 their layers keep as much
            adapter=stage.adapter and replace(stage.adapter, four_bit=False),
            precision=torch.bfloat16 if stage.precision == "bf16" else torch.float32,
            sharded=stage.zero > 0,
            row=row,
        )

    def activations(self, every: Mapping[str, int]) -> Activations:
        """With every k-th block recomputed, by part as in `Stage.checkpointing`."""
        vision, language = (self._part(part, every[part]) for part in BLOCKS)
        kept = vision.kept + language.kept
        peak = max(vision.kept + language.forward, vision.left + language.backward, vision.backward)
        return Activations(kept, peak - kept)

    def _part(self, part: str, every: int) -> _Levels:
        number = self._number[part]
        if not number:
            return _Levels(0, 0, 0, 0)
        again = recomputed(number, every)
        # where backward begins, nothing is freed yet: what the last block needs there comes on top of all that is kept
        last = bool(every) and (number - 1) % every == 0
        levels = _run(self._setting, part, 1, last)
        for inner, count in ((True, again), (False, number - again)):
            further = count - (inner == last)  # beside the one that is in `levels`
            if further:
                one, two = _run(self._setting, part, 1, inner), _run(self._setting, part, 2, inner)
                levels = _Levels(*(a + further * (c - b) for a, b, c in zip(levels, one, two, strict=True)))
        return levels


def depth(config: YiVLConfig) -> dict[str, int]:
    """The number of blocks that run, by part."""
    vision = int(config.vision_config["layers"]) - 1 if config.has_vision else 0
    return {"vision": vision, "language": int(config.text_config.num_hidden_layers)}


def recomputed(number: int, every: int) -> int:
    """How many of a number of blocks run again when every k-th does."""
    return -(-number // every) if every else 0


def on_meta(config: YiVLConfig, trained: Collection[str], adapter: Adapter | None) -> YiVLForConditionalGeneration:
    """A model without data, of which these parts are trainable; of an adapted language part the adapter alone."""
    with torch.device("meta"):
        model = YiVLForConditionalGeneration(config)
    if adapter:
        add_adapter(model, adapter, seed=0)
    freeze_all_but(model, dict.fromkeys(trained, 1.0))
    return model


class _Levels(NamedTuple):
    """Bytes of one part, beside weights and their gradients."""

    kept: int
    """After its forward pass; of the language part before the head."""
    left: int
    """After that and the end of autocast, which holds bf16 copies of the weights that were used."""
    forward: int
    """At most, in forward; of the language part with the head."""
    backward: int
    """At most, in backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """All that the levels depend on, beside the number of blocks."""

    config: str
    trained: frozenset[str]
    adapter: Adapter | None
    precision: torch.dtype
    sharded: bool
    """By DeepSpeed, which keeps trained weights in the precision too and needs no autocast."""
    row: Row


@lru_cache(maxsize=256)
def _run(setting: _Setting, part: str, number: int, again: bool) -> _Levels:
    """Forward and backward of one part (the vision part with the projector), with so many blocks, all or none of them
    recomputed."""
    config = YiVLConfig.from_dict(json.loads(setting.config))
    if config.has_vision:
        config.vision_config["layers"] = 1 + (number if part == "vision" else 1)
    config.text_config.num_hidden_layers = number if part == "language" else 1
    model = on_meta(config, setting.trained, setting.adapter)
    row, side = setting.row, config.image_side
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        cast(model, setting.precision, trained=setting.precision if setting.sharded else torch.float32)
        recompute(blocks(model, part), int(again))
        weights = list(model.parameters())
        for weight in weights:
            weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        pixels = torch.empty(row.images, 3, side, side, dtype=torch.uint8)
        images = torch.empty(row.images, config.patches, config.text_config.hidden_size, dtype=setting.precision)
        images.requires_grad_(bool(setting.trained & {"vision", "projector"}))
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        mixed = setting.precision == torch.bfloat16 and not setting.sharded
        with Ledger([*weights, *gradients, pixels, images]) as ledger:
            ledger.phase = "forward"
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                if part == "vision":
                    result = model.image_tokens(pixels)
                    kept = ledger.live
                else:
                    result, kept = _loss(model, row, images, ledger)
            left = ledger.live
            ledger.phase = "backward"
            if result.requires_grad:
                result.backward(torch.ones_like(result))
    return _Levels(kept, left, ledger.peaks["forward"], ledger.peaks["backward"])


def _loss(model: YiVLForConditionalGeneration, row: Row, images: Tensor, ledger: Ledger) -> tuple[Tensor, int]:
    """The loss of a micro-batch, as the model's `forward` computes it (which looks at ids and labels, and these are
    fake), and the bytes that are kept before the head."""
    nothing = torch.zeros(1, row.tokens, dtype=torch.int64)
    embedded = model.get_input_embeddings()(nothing)
    embedded = embedded.masked_scatter(nothing.bool()[..., None], images.to(embedded.dtype))
    hidden = model.language.model(
        inputs_embeds=embedded,
        attention_mask=embedded.new_empty(1, 1, 0, 0),
        position_ids=nothing,
        use_cache=False,
        bounds=(0, row.tokens),
    ).last_hidden_state
    kept = ledger.live
    targets = nothing.new_zeros(row.supervised)
    return model.get_output_embeddings()(hidden[0, : row.supervised], targets).total, kept
