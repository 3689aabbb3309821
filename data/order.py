"""The order of samples: a pure function of (manifest, seed, position), with no state and no list of all samples.

Positions run through all epochs: position p belongs to epoch p // N, N samples each. Within an epoch

- the sources alternate in the mixture's proportions at every scale: place i of the epoch is point (i * g + a) mod N of
  a line on which each source owns as many points as it gives samples (g is near N / golden ratio and coprime to N, so
  every point is met once). How many of a source's points came before place i has a closed form (`floor_sum`).
- each source's shards are shuffled and read in blocks of a few; where they come several times over, each pass is
  shuffled by itself, so that a sample does not soon come again. A block's shards are cut into runs of neighbouring
  samples, the runs are shuffled, and the samples are shuffled within windows of a few runs. So reads stay near each
  other, and memory is the order of a few blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from data.mixture import Manifest

Array = np.ndarray[Any, Any]
BLOCK_SHARDS = 8
"""Shards of a source that are open at a time."""
RUN = 256
"""Neighbouring samples of a shard that are read close in time: some 10 MB of web images."""
WINDOW_RUNS = 16
"""Runs whose samples are shuffled together: 4,096 samples, as many as a batch of the paper's."""


_FEW = 100
"""Samples of a block among which no replacement is sought."""


class Place(NamedTuple):
    """Where a sample lies: the source and shard by their number in the manifest, and which of the shard's taken
    samples."""

    source: int
    shard: int
    sample: int


class _Layout(NamedTuple):
    """A source's shards as shuffled for an epoch."""

    blocks: list[Array]  # int64, numbers in the manifest
    starts: Array  # int64 [blocks + 1], the samples before each block, and all


class _Block(NamedTuple):
    """The samples of a block in their order."""

    shard: Array  # int64 [n], numbers in the manifest
    sample: Array  # int64 [n], among the shard's taken ones


class Order:
    """The order of a manifest's samples under a seed."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        if not manifest.taken:
            raise ValueError("the mixture has no samples")
        self.manifest = manifest
        self.seed = seed
        self._layouts: dict[tuple[int, int], _Layout] = {}  # by epoch and source

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

    def replacement(self, position: int, attempt: int, place: Place) -> Place:
        """What takes the place of a sample that can't be read, drawn from the position and the number of failures there
        alone: another of the same block, whose shards are open anyway, or of the whole source if the block has few."""
        blocks, starts = self._layout(position // self.epoch_samples, place.source)
        number = next(number for number, block in enumerate(blocks) if place.shard in block)
        few = starts[number + 1] - starts[number] < _FEW
        shards = np.concatenate(blocks) if few else blocks[number]
        ends = np.cumsum([self._taken(place.source, shard) for shard in shards.tolist()])
        draw = int(_generator(self.seed, "replacement", position, attempt).integers(ends[-1]))
        which = int(np.searchsorted(ends, draw, side="right"))
        return Place(place.source, int(shards[which]), draw - int(ends[which - 1] if which else 0))

    def shards_from(self, position: int) -> list[tuple[int, int]]:
        """Sources and shards that are read at a position and after it: of each source the block in hand and the
        next of the same epoch, in the order of need."""
        epoch, first = divmod(position, self.epoch_samples)
        ahead: list[list[tuple[int, int]]] = [[], []]
        for source, number in enumerate(self._before(epoch, first)):
            blocks, starts = self._layout(epoch, source)
            first_block = int(np.searchsorted(starts, number, side="right")) - 1
            for block, shards in zip(blocks[first_block : first_block + 2], ahead, strict=False):
                shards += [(source, shard) for shard in block.tolist() if self._taken(source, shard)]
        return ahead[0] + ahead[1]

    @cached_property
    def _bounds(self) -> list[int]:
        """Where each source's points begin, and N."""
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

    def _offset(self, epoch: int) -> int:
        return int(_generator(self.seed, "offset", epoch).integers(self.epoch_samples))

    def _before(self, epoch: int, first: int) -> list[int]:
        """How many samples of each source come before place `first` of an epoch."""
        total, stride, offset = self.epoch_samples, self._stride, self._offset(epoch)
        below = [_points_below(bound, first, stride, offset, total) for bound in self._bounds]
        return [upper - lower for lower, upper in pairwise(below)]

    def _epoch_places(self, epoch: int, first: int, count: int) -> list[Place]:
        offset = (first * self._stride + self._offset(epoch)) % self.epoch_samples
        points = (np.arange(count) * self._stride + offset) % self.epoch_samples
        sources = np.searchsorted(self._bounds, points, side="right") - 1
        shards, samples = np.empty_like(points), np.empty_like(points)
        for source, before in enumerate(self._before(epoch, first)):
            here = np.flatnonzero(sources == source)
            shards[here], samples[here] = self._source_places(epoch, source, before, len(here))
        return [Place(*place) for place in zip(sources.tolist(), shards.tolist(), samples.tolist(), strict=True)]

    def _source_places(self, epoch: int, source: int, first: int, count: int) -> tuple[Array, Array]:
        """Shards and samples of `count` samples of a source in an epoch, from its `first` on."""
        shards, samples = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        blocks, starts = self._layout(epoch, source)
        while count > 0:
            number = int(np.searchsorted(starts, first, side="right")) - 1
            chosen = blocks[number].tolist()
            taken = tuple(self._taken(source, shard) for shard in chosen)
            block = _block(self.seed, epoch, self.manifest.sources[source].name, tuple(chosen), taken)
            at = first - int(starts[number])
            shards.append(block.shard[at : at + count])
            samples.append(block.sample[at : at + count])
            first, count = first + len(shards[-1]), count - len(shards[-1])
        return np.concatenate(shards), np.concatenate(samples)

    def _layout(self, epoch: int, source: int) -> _Layout:
        if (epoch, source) not in self._layouts:
            chosen = self.manifest.sources[source]
            taken = np.array([shard.taken for shard in chosen.shards])
            different = len({shard.path for shard in chosen.shards})
            random = _generator(self.seed, "shards", epoch, chosen.name)
            blocks: list[Array] = []
            for first in range(0, len(taken), different):  # each pass over the shards
                shuffled = first + random.permutation(min(different, len(taken) - first))
                blocks += [shuffled[at : at + BLOCK_SHARDS] for at in range(0, len(shuffled), BLOCK_SHARDS)]
            starts = np.cumsum([0, *(int(taken[block].sum()) for block in blocks)])
            self._layouts[epoch, source] = _Layout(blocks, starts)
        return self._layouts[epoch, source]

    def _taken(self, source: int, shard: int) -> int:
        return self.manifest.sources[source].shards[shard].taken


def _generator(seed: int, *what: str | int) -> np.random.Generator:
    words = [int.from_bytes(w.encode(), "little") if isinstance(w, str) else w for w in what]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))


@lru_cache(maxsize=64)
def _block(seed: int, epoch: int, source: str, shards: Sequence[int], taken: Sequence[int]) -> _Block:
    """The order within a block of shards, of which so many samples each are taken."""
    random = _generator(seed, "block", epoch, source, *shards)
    shard = np.repeat(shards, taken)
    sample = np.concatenate([np.arange(count) for count in taken])
    starts = np.flatnonzero(sample % RUN == 0)
    run = np.cumsum(sample % RUN == 0) - 1
    window = random.permutation(len(starts))[run] // WINDOW_RUNS
    shuffled = np.lexsort((random.random(len(sample)), window))
    return _Block(shard[shuffled], sample[shuffled])


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
