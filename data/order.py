"""The order of samples: a pure function of (manifest, seed, position), with no state and no list of all samples.

Positions run through all epochs: position p belongs to epoch p // N, N samples each. Within an epoch

- the sources alternate in the mixture's proportions at every scale: place i of the epoch is point (i * g + a) mod N of
  a line on which each source owns as many points as it gives samples (g is near N / golden ratio and coprime to N, so
  every point is met once). How many of a source's points came before place i has a closed form (`floor_sum`).
- each source's shards are shuffled and read in blocks of a few; within a block the samples are shuffled. So reads
  stay near each other, and memory is one permutation of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from data.mixture import Manifest

Array = np.ndarray[Any, Any]
BLOCK_SHARDS = 8
"""Shards of a source that are read, shuffled, at a time."""


class Place(NamedTuple):
    """Where a sample lies: the source and shard by their number in the manifest, and which of the shard's taken
    samples."""

    source: int
    shard: int
    sample: int


class _Block(NamedTuple):
    shards: Array  # int64 [k], numbers of the shards
    starts: Array  # int64 [k + 1], where each begins among the block's samples
    permutation: Array  # int64 [starts[-1]]


class Order:
    """The order of a manifest's samples under a seed."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        if not manifest.taken:
            raise ValueError("the mixture has no samples")
        self.manifest = manifest
        self.seed = seed
        self._starts: dict[tuple[int, int], Array] = {}  # where blocks begin, by epoch and source

    @property
    def epoch_samples(self) -> int:
        """N, the samples of one epoch."""
        return self.manifest.taken

    def places(self, start: int, count: int) -> list[Place]:
        """Where the samples at positions start, start + 1, … lie."""
        found: list[Place] = []
        while count > 0:
            epoch, first = divmod(start, self.epoch_samples)
            here = min(count, self.epoch_samples - first)
            found += self._epoch_places(epoch, first, here)
            start, count = start + here, count - here
        return found

    def replacement(self, position: int, attempt: int, source: int) -> Place:
        """What takes the place of a sample that can't be read: one of the same source, drawn from the position
        and the number of failures there alone."""
        chosen = self.manifest.sources[source]
        draw = _generator(self.seed, "replacement", position, attempt).integers(chosen.taken)
        return self._source_place(position // self.epoch_samples, source, int(draw))

    @cached_property
    def _bounds(self) -> list[int]:
        bounds = [0]
        for source in self.manifest.sources:
            bounds.append(bounds[-1] + source.taken)
        return bounds

    @cached_property
    def _stride(self) -> int:
        total = self.epoch_samples
        stride = max(1, round(total / ((1 + math.sqrt(5)) / 2)))
        while math.gcd(stride, total) > 1:
            stride += 1
        return stride

    def _epoch_places(self, epoch: int, first: int, count: int) -> list[Place]:
        total, stride = self.epoch_samples, self._stride
        offset = int(_generator(self.seed, "offset", epoch).integers(total))
        points = [(i * stride + offset) % total for i in range(first, first + count)]
        sources = np.searchsorted(self._bounds, points, side="right") - 1
        before = [
            _points_below(upper, first, stride, offset, total) - _points_below(lower, first, stride, offset, total)
            for lower, upper in zip(self._bounds[:-1], self._bounds[1:], strict=True)
        ]
        found = []
        for source in sources.tolist():
            found.append(self._source_place(epoch, source, before[source]))
            before[source] += 1
        return found

    def _source_place(self, epoch: int, source: int, number: int) -> Place:
        """Where the `number`-th sample of a source in an epoch lies."""
        starts = self._block_starts(epoch, source)
        block_number = int(np.searchsorted(starts, number, side="right")) - 1
        block = self._block(epoch, source, block_number)
        inside = int(block.permutation[number - starts[block_number]])
        shard = int(np.searchsorted(block.starts, inside, side="right")) - 1
        return Place(source, int(block.shards[shard]), inside - int(block.starts[shard]))

    def _block_starts(self, epoch: int, source: int) -> Array:
        if (epoch, source) not in self._starts:
            shards = self.manifest.sources[source].shards
            taken = [shards[shard].taken for shard in self._shuffled_shards(epoch, source)]
            blocks = [sum(taken[i : i + BLOCK_SHARDS]) for i in range(0, len(taken), BLOCK_SHARDS)]
            self._starts[epoch, source] = np.concatenate([[0], np.cumsum(blocks)])
        return self._starts[epoch, source]

    def _shuffled_shards(self, epoch: int, source: int) -> tuple[int, ...]:
        chosen = self.manifest.sources[source]
        return _shuffled(self.seed, epoch, chosen.name, len(chosen.shards))

    def _block(self, epoch: int, source: int, number: int) -> _Block:
        chosen = self.manifest.sources[source]
        shards = self._shuffled_shards(epoch, source)[number * BLOCK_SHARDS : (number + 1) * BLOCK_SHARDS]
        return _block(self.seed, epoch, chosen.name, number, shards, tuple(chosen.shards[s].taken for s in shards))


def _generator(seed: int, *what: str | int) -> np.random.Generator:
    words = [int.from_bytes(w.encode(), "little") if isinstance(w, str) else w for w in what]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))


@lru_cache(maxsize=256)
def _shuffled(seed: int, epoch: int, source: str, shards: int) -> tuple[int, ...]:
    return tuple(_generator(seed, "shards", epoch, source).permutation(shards).tolist())


@lru_cache(maxsize=64)
def _block(seed: int, epoch: int, source: str, number: int, shards: Sequence[int], taken: Sequence[int]) -> _Block:
    starts = np.concatenate([[0], np.cumsum(taken)])
    permutation = _generator(seed, "block", epoch, source, number).permutation(int(starts[-1]))
    return _Block(np.array(shards), starts, permutation)


def _points_below(bound: int, places: int, stride: int, offset: int, total: int) -> int:
    """How many of the points (i * stride + offset) mod total, 0 <= i < places, lie below `bound`."""
    return floor_sum(places, total, stride, offset) - floor_sum(places, total, stride, offset - bound)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum over i from 0 to n - 1 of floor((a * i + b) / m), in O(log m) steps."""
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, b = divmod(top, m)
        a, m = m, a
        if not n:
            break
    return total
