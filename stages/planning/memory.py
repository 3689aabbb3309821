"""How much memory a process of a run will need, and how much of the forward pass it must recompute for want of it.

Weights, gradients and the optimiser's state follow from the number of parameters, the precision and the ZeRO stage;
what a micro-batch takes, from `stages.planning.activations`. docs/plan.md compares with what was measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from data.mixture import Mixture
from data.store import Store
from stages.planning.activations import BLOCKS, MicroBatch, Row, depth, on_meta, recomputed
from stages.planning.flops import forward_flops
from stages.planning.sources import Lengths, mean_lengths, planned_sources
from stages.stage import Stage
from yivl.configuration import YiVLConfig
from yivl.settings import read

USABLE = 0.9
"""Share of a device's memory that a run is planned to fill, since the estimate may be wrong by a tenth and more."""
_CONSTANT = {"cpu": 850 * 2**20, "cuda": 1536 * 2**20}
"""Bytes of libraries: on the CPU measured, after imports and a first step; on a GPU a guess (context, cuBLAS, NCCL)."""
_WASTE = {"cpu": 0.45, "cuda": 0.1}
"""What the allocator holds beyond the activations, as a share of them. On the CPU measured: glibc's does not find the
holes that aligned tensors of a few MB leave. On a GPU a guess."""
_BUCKET = 500_000_000
"""Elements that DeepSpeed exchanges at a time, by its default (`reduce_bucket_size`)."""
_GATHERED = 1_000_000_000
"""Most weights that DeepSpeed's ZeRO-3 holds gathered, by its default (`stage3_max_live_parameters`)."""
_PLAIN_BUCKET = 2**26
"""Elements that `yivl.ranks` sums at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one process, on its device; on the CPU what is offloaded lies there as well."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's moments and, with ZeRO, the fp32 weights that it moves."""
    exchange: int
    """Weights that ZeRO-3 has gathered, and buffers for the exchange between processes."""
    activations: int
    """Kept between forward and backward."""
    working: int
    """On top at the peak: the head's logits, or the gradients and the recomputed inside of a block."""
    allocator: int
    """Held by the allocator beyond these two."""
    batch: int
    libraries: int

    @property
    def total(self) -> int:
        """All of them: the peak."""
        return sum(getattr(self, field.name) for field in fields(self))

    def fits(self, room: int) -> bool:
        """Whether a run may be started on a device of so many bytes."""
        return self.total <= USABLE * room


class Estimate:
    """The memory of one process of a run.

    Args:
        stage: what is trained, in which precision, by which engine.
        config: shapes, at the stage's resolution.
        ranks: processes of the run.
        device: `cpu` or `cuda`.
        lengths: of the samples.
    """

    def __init__(self, stage: Stage, config: YiVLConfig, ranks: int, device: str, lengths: Lengths) -> None:
        self.stage = stage
        self.config = config
        self.row = full_row(stage, config, ranks, lengths)
        self._micro_batch = MicroBatch(stage, config, self.row)
        self._waste = _WASTE[device]
        model = on_meta(config, stage.learning_rate, stage.adapter)
        self._resident = _resident(stage, model, ranks, device)
        trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
        self.offloaded = 16 * trained // ranks if stage.offload and device != "cpu" else 0
        """Bytes on the machine: fp32 weights, gradients and moments."""
        self._resident |= {"batch": _batch(stage, self.row, ranks, device, lengths), "libraries": _CONSTANT[device]}

    def memory(self, every: Mapping[str, int]) -> Memory:
        """With every k-th block recomputed, by part as in `Stage.checkpointing`."""
        found = self._micro_batch.activations(every)
        return Memory(
            activations=found.kept,
            working=found.working,
            allocator=round((found.kept + found.working) * self._waste),
            **self._resident,
        )

    def fits(self, every: Mapping[str, int], room: int) -> bool:
        """Whether a run may be started on a device of so many bytes."""
        return sum(self._resident.values()) <= USABLE * room and self.memory(every).fits(room)

    def checkpointing(self, room: int) -> dict[str, int]:
        """The least recomputation with which a run fits into so many bytes; all of it where even that does not help.

        Parts that the stage names stay as it says.
        """
        number = depth(self.config)
        cost = forward_flops(self.config, self.row.tokens, self.row.images)
        choices = [
            [self.stage.checkpointing[part]] if part in self.stage.checkpointing else range(number[part] + 1)
            for part in BLOCKS
        ]

        def price(every: Mapping[str, int]) -> float:
            return sum(cost[part] * recomputed(n, every[part]) / n for part, n in number.items() if n)

        ways = sorted((dict(zip(BLOCKS, chosen, strict=True)) for chosen in product(*choices)), key=price)
        if not self.fits(ways[0], room) and not self.fits(ways[-1], room):
            return ways[-1]
        return next(every for every in ways if self.fits(every, room))


class Chosen(NamedTuple):
    """What a run recomputes, and whether that will do."""

    every: dict[str, int]
    """By part, as in `Stage.checkpointing`."""
    warning: str = ""
    """That it will hardly fit into memory."""


def chosen_checkpointing(stage: Stage, config: YiVLConfig, ranks: int, device: torch.device) -> Chosen:
    """For the vision and the language part, which of their blocks a run should recompute: see `Estimate.checkpointing`.

    Args:
        stage: the stage, whose mixture and, where they are there, shards tell how long samples are.
        config: shapes, at the stage's resolution.
        ranks: processes of the run.
        device: of this process.
    """
    if set(stage.checkpointing) == set(BLOCKS):
        return Chosen(dict(stage.checkpointing))
    lengths = mean_lengths(planned_sources(read(Mixture, stage.mixture), Store(Path(stage.data))))
    estimate, room = Estimate(stage, config, ranks, device.type, lengths), device_bytes(stage, device)
    every = estimate.checkpointing(room)
    if (needed := estimate.memory(every)).fits(room):
        return Chosen(every)
    return Chosen(
        every,
        f"this will hardly fit: a process needs {needed.total / 2**30:.1f} GiB by the estimate, and has "
        f"{room / 2**30:.1f}, of which {USABLE:.0%} should be filled. --plan tells what to change",
    )


def device_bytes(stage: Stage, device: torch.device) -> int:
    """Memory that one process has: what the stage says, else the GPU's, else its share of the machine's."""
    if stage.device_gib:
        return int(stage.device_gib * 2**30)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def full_row(stage: Stage, config: YiVLConfig, ranks: int, lengths: Lengths) -> Row:
    """The largest micro-batch: what the stage allows, or what a process has in a step and a long sample."""
    each = lengths.tokens(config.patches)
    share = math.ceil(stage.batch / ranks * each) + stage.max_length
    tokens = min(stage.tokens_per_micro_batch, share)
    samples = tokens / each
    return Row(
        tokens=tokens,
        images=max(1, int(samples * lengths.images)) if config.has_vision else 0,  # without any it gets a blank one
        supervised=min(tokens, math.ceil(samples * lengths.supervised)),
    )


def _resident(stage: Stage, model: nn.Module, ranks: int, device: str) -> dict[str, int]:
    """What is there all the time, by field of `Memory`."""
    size = 2 if stage.precision == "bf16" else 4
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(_stored(parameter, size) for parameter in model.parameters() if not parameter.requires_grad)
    if stage.zero:
        return _under_zero(stage, size, trained, frozen, ranks, device)
    exchange = 4 * min(trained, _PLAIN_BUCKET) if ranks > 1 else 0
    return {"weights": 4 * trained + frozen, "gradients": 4 * trained, "optimizer": 8 * trained, "exchange": exchange}


def _under_zero(stage: Stage, size: int, trained: int, frozen: int, ranks: int, device: str) -> dict[str, int]:
    """As DeepSpeed 0.19.8 has it, by its code and by a count of its live tensors (docs/plan.md).

    Args:
        stage: the ZeRO stage, and whether the optimiser's state is offloaded.
        size: bytes of a weight.
        trained: their number.
        frozen: bytes of the frozen ones.
        ranks: processes of the run.
        device: `cpu` or `cuda`.
    """
    share = 4 * trained // ranks
    on_host = stage.offload and device != "cpu"
    gradients = 0 if on_host else share
    optimizer = 0 if on_host else 4 * share if stage.offload else 3 * share  # the offloaded have another gradient
    bucket = min(trained, _BUCKET) if device == "cpu" else _BUCKET  # the CPU has no memory for what is never written
    weights, sent = size * trained + frozen, min(trained, _BUCKET)
    if stage.zero == 1 and size == 2 and not stage.offload:  # bf16 gradients stay beside their fp32 sums
        return {"weights": weights, "gradients": 6 * trained, "optimizer": optimizer, "exchange": 4 * sent}
    if stage.zero == 1:
        return {"weights": weights, "gradients": 4 * trained, "optimizer": optimizer, "exchange": 4 * bucket}
    if stage.zero == 2:
        exchange = 2 * size * bucket + (6 * sent if size == 2 else 0)  # two buckets, and what is sent in fp32
        return {"weights": weights, "gradients": gradients, "optimizer": optimizer, "exchange": exchange}
    exchange = 4 * bucket + min(weights, size * _GATHERED)
    return {"weights": weights // ranks, "gradients": gradients, "optimizer": optimizer, "exchange": exchange}


def _stored(parameter: nn.Parameter, size: int) -> int:
    """Bytes of a frozen weight. Packed in 4 bits (bitsandbytes' NF4) it has a scale in 8 bits for every 64 numbers."""
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() // 2 + parameter.numel() // 64
    return parameter.numel() * size


def _batch(stage: Stage, row: Row, ranks: int, device: str, lengths: Lengths) -> int:
    """Of pixels, ids, labels and positions: on a GPU the row in hand and the next one, on the CPU the whole step's."""
    image = 3 * stage.resolution**2
    if device == "cpu":
        return round(stage.batch / ranks * (lengths.images * image + 24 * lengths.text))
    return 2 * (row.images * image + 24 * row.tokens)
