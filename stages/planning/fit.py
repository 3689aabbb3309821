"""Whether a run fits into memory, and what to change where it does not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import torch

from stages.planning.activations import BLOCKS
from stages.planning.memory import Estimate, Memory, device_bytes
from stages.planning.sources import Lengths
from stages.stage import Stage
from yivl.configuration import YiVLConfig

_ROWS = sorted(base << shift for base in (1024, 1536) for shift in range(7))
"""Values of `tokens_per_micro_batch` that are tried: powers of two, and half-way between them."""
_LABELS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "exchange": "exchange between processes",
    "activations": "activations",
    "working": "head, or a block's backward pass",
    "allocator": "allocator's surplus",
    "batch": "batch",
    "libraries": "libraries",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The memory of one process."""

    memory: Memory
    room: int
    """Bytes of its device."""
    offloaded: int
    """Bytes on the machine."""
    every: dict[str, int]
    """Of each part every k-th block is recomputed."""
    tokens: int
    """Of a full micro-batch."""
    images: int
    most_tokens: int
    """The largest of the usual micro-batches that fits with as little recomputation; 0: none."""
    remedies: tuple[str, ...]
    """Changes to the stage, each of which would make it fit where it does not."""

    def __str__(self) -> str:
        lines = [f"{'memory of a process':42} {'GiB':>8}"]
        lines += [f"{_LABELS[field.name]:42} {_gib(getattr(self.memory, field.name)):>8}" for field in fields(Memory)]
        lines.append(f"{'together':42} {_gib(self.memory.total):>8}  of {_gib(self.room)}: {self.verdict}")
        if self.offloaded:
            lines.append(f"{'on the machine, by offload':42} {_gib(self.offloaded):>8}  for each process")
        lines.append(f"{'tokens of a full micro-batch':42} {self.tokens:>8,}  with {self.images:,} images")
        if self.most_tokens:
            lines.append(f"{'tokens_per_micro_batch that would fit':42} {self.most_tokens:>8,}")
        lines += [f"{f'recomputed blocks, {part}':42} {_share(every):>8}" for part, every in self.every.items()]
        return "\n".join(lines)

    @property
    def fits(self) -> bool:
        """Whether it may be started."""
        return self.memory.fits(self.room)

    @property
    def verdict(self) -> str:
        """In words, with the way out."""
        if self.fits:
            return "fits"
        if not self.remedies:
            return (
                "does not fit, nor with zero: 3, offload: true, all blocks recomputed and the shortest rows; it needs "
                "more processes or larger ones"
            )
        return f"does not fit. Any of these would: {'; '.join(self.remedies)}"


def fit(stage: Stage, config: YiVLConfig, ranks: int, device: torch.device, lengths: Lengths) -> Fit:
    """The memory of one process of a run.

    Args:
        stage: the stage.
        config: shapes, at the stage's resolution.
        ranks: processes of the run.
        device: where they compute; its kind counts, and its memory where the stage does not state it.
        lengths: of the samples.
    """
    room = device_bytes(stage, device)

    def estimate(changed: Stage) -> Estimate:
        return Estimate(changed, config, ranks, device.type, lengths)

    def remedied(changed: Stage) -> bool:
        return estimate(changed).fits(dict.fromkeys(BLOCKS, 1), room)

    now = estimate(stage)
    every = now.checkpointing(room)
    memory = now.memory(every)
    as_it_is = memory.fits(room)
    return Fit(
        memory=memory,
        room=room,
        offloaded=now.offloaded,
        every=every,
        tokens=now.row.tokens,
        images=now.row.images,
        most_tokens=_most_tokens(stage, estimate, every, room) if as_it_is else 0,
        remedies=() if as_it_is else tuple(_first(_changes(stage), remedied) or _first(_all_at_once(stage), remedied)),
    )


def _most_tokens(stage: Stage, estimate: Callable[[Stage], Estimate], every: dict[str, int], room: int) -> int:
    """The largest of the usual micro-batches that fits, as far as a step has samples for it; or the stage's own."""
    most, row = stage.tokens_per_micro_batch, estimate(stage).row
    for tokens in (size for size in _ROWS if size > most):
        longer = estimate(replace(stage, tokens_per_micro_batch=tokens))
        if longer.row == row or not longer.fits(every, room):
            break
        most, row = tokens, longer.row
    return most


def _changes(stage: Stage) -> Iterator[list[tuple[str, Stage]]]:
    """Ways out, each as a list from the mildest change to the strongest; everything is recomputed with any of them."""
    free = replace(stage, checkpointing={})
    if stage.checkpointing:
        yield [("checkpointing left out", free)]
    higher = [replace(free, zero=zero) for zero in (1, 2, 3) if zero > stage.zero]
    yield [(f"zero: {one.zero}", one) for one in higher]
    yield [(f"tokens_per_micro_batch: {one.tokens_per_micro_batch}", one) for one in _shorter(free)]
    kept = [] if stage.offload or not stage.zero else [free]
    yield [(f"zero: {one.zero} with offload: true", replace(one, offload=True)) for one in [*kept, *higher]]


def _all_at_once(stage: Stage) -> Iterator[list[tuple[str, Stage]]]:
    """For a stage that no single change helps: these together, first without `offload`."""
    for offload in (False, True):
        shared = replace(stage, checkpointing={}, zero=3, offload=offload)
        told = "zero: 3 with offload: true" if offload else "zero: 3"
        yield [(f"{told} and tokens_per_micro_batch: {one.tokens_per_micro_batch}", one) for one in _shorter(shared)]


def _shorter(stage: Stage) -> list[Stage]:
    """With shorter and shorter rows."""
    least = stage.max_length if stage.batch_tokens else 0  # a row is not divided
    sizes = [size for size in reversed(_ROWS) if least <= size < stage.tokens_per_micro_batch]
    return [replace(stage, tokens_per_micro_batch=size) for size in sizes]


def _first(ways: Iterable[list[tuple[str, Stage]]], good: Callable[[Stage], bool]) -> list[str]:
    """Of each way the mildest change that is good, where stronger ones are good as well."""
    found = []
    for way in ways:
        place = bisect_left(way, True, key=lambda change: good(change[1]))
        if place < len(way):
            found.append(way[place][0])
    return found


def _share(every: int) -> str:
    return {0: "none", 1: "all"}.get(every, f"1 in {every}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
