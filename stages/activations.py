"""What a micro-batch keeps in memory between forward and backward, and what it needs on top at its peak.

A model of one or two blocks in each part runs forward and backward on fake tensors, which have shapes and no data, and
a ledger tells how much is alive when. Every further block adds the same, so this tells of any number of them, within a
second or two and whatever the model's size.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from stages.ledger import Ledger
from stages.parts import cast, freeze_all_but
from stages.stage import Stage
from yivl.adapters import add_adapter
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


class _Levels(NamedTuple):
    """Bytes, beside weights and their gradients, at four moments."""

    kept: float
    """Before the head."""
    forward: float
    """At most, in forward and head."""
    language: float
    """At most, in backward through the language part."""
    vision: float
    """At most, in backward through the projector and the vision part."""


class MicroBatch:
    """Forward and backward of one micro-batch, in bytes.

    Args:
        stage: what is trained, in which precision, by which engine.
        config: shapes, at the stage's resolution.
        row: the micro-batch.
    """

    def __init__(self, stage: Stage, config: YiVLConfig, row: Row) -> None:
        self.stage = stage
        self.config = config
        self.row = row
        self._known: dict[tuple[tuple[str, int], ...], _Levels] = {}

    def activations(self, every: Mapping[str, int]) -> Activations:
        """With every k-th block recomputed, by part as in `Stage.checkpointing`."""
        number = depth(self.config)
        # where backward begins, nothing is freed yet: what the last block needs there comes on top of all that is kept
        last = {part: bool(every[part]) and (number[part] - 1) % every[part] == 0 for part in BLOCKS}
        total = list(self._levels(last, dict.fromkeys(BLOCKS, 1)))
        for part in BLOCKS:
            again = recomputed(number[part], every[part])
            for inner, count in ((True, again), (False, number[part] - again)):
                further = count - (inner == last[part])  # beside the one that is in `total`
                if further:
                    for moment, more in enumerate(self._per_block(part, last | {part: inner})):
                        total[moment] += further * more
        kept, *peaks = total
        return Activations(round(kept), round(max(peaks) - kept))

    def _per_block(self, part: str, again: dict[str, bool]) -> list[float]:
        one = self._levels(again, dict.fromkeys(BLOCKS, 1))
        two = self._levels(again, dict.fromkeys(BLOCKS, 1) | {part: 2})
        return [after - before for before, after in zip(one, two, strict=True)]

    def _levels(self, again: Mapping[str, bool], number: Mapping[str, int]) -> _Levels:
        """Of a model of so many blocks, all or none of a part's recomputed."""
        key = (*again.items(), *number.items())
        if key not in self._known:
            self._known[key] = _run(self.stage, _with_depth(self.config, number), self.row, again)
        return self._known[key]


def depth(config: YiVLConfig) -> dict[str, int]:
    """The number of blocks that run, by part."""
    return {"vision": int(config.vision_config["layers"]) - 1, "language": int(config.text_config.num_hidden_layers)}


def recomputed(number: int, every: int) -> int:
    """How many of a number of blocks run again when every k-th does."""
    return -(-number // every) if every else 0


def on_meta(stage: Stage, config: YiVLConfig) -> YiVLForConditionalGeneration:
    """The stage's model without data; what it trains is trainable."""
    with torch.device("meta"):
        model = YiVLForConditionalGeneration(config)
    if stage.adapter:
        add_adapter(model, stage.adapter, stage.seed)
    freeze_all_but(model, stage.learning_rate)
    return model


def _with_depth(config: YiVLConfig, number: Mapping[str, int]) -> YiVLConfig:
    reduced = copy.deepcopy(config)
    reduced.vision_config["layers"] = number["vision"] + 1
    reduced.text_config.num_hidden_layers = number["language"]
    return reduced


def _run(stage: Stage, config: YiVLConfig, row: Row, again: Mapping[str, bool]) -> _Levels:
    precision = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    if stage.adapter:  # packed weights are frozen and keep nothing; in bf16 their layers keep as much
        stage = dataclasses.replace(stage, adapter=dataclasses.replace(stage.adapter, four_bit=False))
    model = on_meta(stage, config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        cast(model, precision, trained=precision if stage.zero else torch.float32)
        for part in BLOCKS:
            recompute(blocks(model, part), int(again[part]))
        weights = list(model.parameters())
        for weight in weights:
            weight.grad = torch.empty_like(weight) if weight.requires_grad else None
        ledger = Ledger([*weights, *(weight.grad for weight in weights if weight.grad is not None)])
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=stage.precision == "bf16" and not stage.zero)
        with ledger:
            loss, kept = _forward(model, row, ledger, autocast)
            ledger.phase = "language"
            loss.backward()
    return _Levels(kept, ledger.peaks["forward"], ledger.peaks["language"], ledger.peaks["vision"])


def _forward(
    model: YiVLForConditionalGeneration, row: Row, ledger: Ledger, autocast: contextlib.AbstractContextManager[object]
) -> tuple[Tensor, int]:
    """As the model's `forward` does it, which needs to see ids and labels to know shapes; and what is kept."""
    side = model.config.image_side
    nothing = torch.zeros(1, row.tokens, dtype=torch.int64)
    ledger.phase = "forward"
    with autocast:
        images = model.image_tokens(torch.zeros(row.images, 3, side, side, dtype=torch.uint8))
        if images.requires_grad:
            images.register_hook(lambda gradient: setattr(ledger, "phase", "vision"))
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
