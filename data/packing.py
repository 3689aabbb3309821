"""Samples into micro-batches: spread over ranks by their estimated length, packed into rows by their true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from yivl.encoder import IGNORE, Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples packed into one row of T tokens. A sample is one segment or, being a row of documents, several; tokens
    attend to those of their segment alone."""

    input_ids: Tensor  # int64 [T]
    labels: Tensor  # int64 [T]; the first of every segment is IGNORE
    position_ids: Tensor  # int64 [T], from 0 in every segment
    bounds: tuple[int, ...]
    """Where each segment begins, and T at the end."""
    sample_bounds: tuple[int, ...]
    """Where each sample begins, and T at the end: some of `bounds`, or all."""
    pixels: Tensor  # uint8 [N, 3, S, S], the images of all samples in reading order
    keys: tuple[str, ...]
    """`source/key` of each sample."""
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        total = self.bounds[-1]
        for name in ("input_ids", "labels", "position_ids"):
            shape = tuple(getattr(self, name).shape)
            if shape != (total,):
                raise ValueError(f"{name} has the shape {shape}, the bounds say [{total}]")
        if self.sample_bounds[-1] != total or not {*self.sample_bounds} <= {*self.bounds}:
            raise ValueError(f"samples are bounded at {self.sample_bounds}, segments at {self.bounds}")

    @property
    def supervised(self) -> int:
        """Supervised tokens."""
        return int((self.labels != IGNORE).sum())

    @property
    def supervised_each(self) -> list[int]:
        """Supervised tokens of each sample."""
        supervised = self.labels != IGNORE
        return [int(supervised[start:end].sum()) for start, end in pairwise(self.sample_bounds)]

    @property
    def tokens(self) -> int:
        """T."""
        return self.bounds[-1]


def pack(examples: Sequence[Example]) -> Batch:
    """One row of these samples, in this order."""
    samples = [0, *np.cumsum([len(example.input_ids) for example in examples]).tolist()]
    starts = [before + start for before, example in zip(samples, examples, strict=False) for start in example.starts]
    labels = np.concatenate([example.labels for example in examples])
    labels[starts] = IGNORE  # or the segment before would have to predict it
    bounds = (*starts, samples[-1])
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([example.input_ids for example in examples])),
        labels=torch.from_numpy(labels),
        position_ids=torch.from_numpy(np.concatenate([np.arange(end - start) for start, end in pairwise(bounds)])),
        bounds=bounds,
        sample_bounds=tuple(samples),
        pixels=torch.from_numpy(np.concatenate([example.pixels for example in examples])),
        keys=tuple(f"{example.source}/{example.key}" for example in examples),
        sources=tuple(example.source for example in examples),
    )


def empty(side: int) -> Batch:
    """A batch that teaches nothing, for a rank whose micro-batches have run out before the others'."""
    return Batch(
        input_ids=torch.zeros(1, dtype=torch.int64),
        labels=torch.full((1,), IGNORE),
        position_ids=torch.zeros(1, dtype=torch.int64),
        bounds=(0, 1),
        sample_bounds=(0, 1),
        pixels=torch.zeros(0, 3, side, side, dtype=torch.uint8),
        keys=(),
        sources=(),
    )


def micro_batches(examples: Sequence[Example], tokens: int) -> list[Batch]:
    """The samples in few rows of at most `tokens` tokens each (first fit, longest first).

    Raises:
        ValueError: a sample is longer than that.
    """
    bins: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda example: -len(example.input_ids)):  # stable: ties keep their order
        length = len(example.input_ids)
        if length > tokens:
            raise ValueError(f"{example.source}/{example.key}: {length} tokens don't fit a micro-batch of {tokens}")
        fitting = next((i for i, free in enumerate(room) if free >= length), len(bins))
        if fitting == len(bins):
            bins.append([])
            room.append(tokens)
        bins[fitting].append(example)
        room[fitting] -= length
    return [pack(row) for row in bins]


def spread(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Which samples each rank takes: longest first, to the rank with the least so far. Each list is in order."""
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        rank = loads.index(min(loads))
        shares[rank].append(sample)
        loads[rank] += lengths[sample]
    return [sorted(share) for share in shares]
