"""What a stage will do, from its files alone: sources, caps, parts, steps. Trains nothing and needs no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from data.index import BadIndex
from data.mixture import Mixture, Source, catalogued
from data.remote import is_remote
from data.store import Store
from stages.parts import Part, describe, freeze_all_but
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.model import YiVLForConditionalGeneration


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """What a source gives."""

    name: str
    available: int
    on_disk: bool
    """Counted from shards; otherwise as published."""
    cap: int | None

    @property
    def taken(self) -> int:
        """Samples in one epoch."""
        return self.available if self.cap is None else min(self.available, self.cap)


@dataclass(frozen=True, slots=True)
class Plan:
    """A stage in numbers."""

    stage: Stage
    sources: tuple[PlannedSource, ...]
    parts: tuple[Part, ...]
    patches: int

    @property
    def samples(self) -> int:
        """Samples in one epoch."""
        return sum(source.taken for source in self.sources)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.samples * self.stage.epochs // self.stage.global_batch

    def __str__(self) -> str:
        stage = self.stage
        lines = [f"{stage.name}: images of {stage.resolution} pixels, {self.patches} tokens each", ""]
        lines.append(f"{'source':24} {'available':>14} {'':9} {'cap':>12} {'taken':>12}")
        for one in self.sources:
            origin, cap = "on disk" if one.on_disk else "published", "-" if one.cap is None else f"{one.cap:,}"
            available = f"{one.available:,}" if one.available else "unknown"
            lines.append(f"{one.name:24} {available:>14} {origin:9} {cap:>12} {one.taken:>12,}")
        lines.append(f"{'together':24} {'':>14} {'':9} {'':>12} {self.samples:>12,}")
        lines += ["", describe(list(self.parts)), ""]
        rest = self.samples * stage.epochs - self.steps * stage.global_batch
        lines += [
            f"{'samples in an optimiser step':32} {stage.global_batch:>12,}",
            f"{'steps per epoch':32} {self.samples / stage.global_batch:>12,.1f}",
            f"{'epochs':32} {stage.epochs:>12}",
            f"{'optimiser steps':32} {self.steps:>12,}  ({rest:,} samples of the last epoch fill no step)",
            f"{'of these warm-up':32} {math.ceil(stage.warmup * self.steps):>12,}",
        ]
        return "\n".join(lines)


def plan(stage: Stage, source: ModelSource, mixture: Mixture) -> Plan:
    """Counts shards where they are on disk, and goes by the published sizes where not.

    Raises:
        BadIndex: a shard on disk has no index, or one that does not fit.
    """
    config = source.config()
    config.vision_config = config.vision_config | {"image_size": stage.resolution}
    with torch.device("meta"):
        model = YiVLForConditionalGeneration(config)
    sources = []
    store = Store(Path(stage.data))
    for name, entry in catalogued(mixture).items():
        counted = _counted(store, name, entry)
        available = entry.pairs if counted is None else counted
        sources.append(PlannedSource(name, available, counted is not None, mixture.cap_of(name)))
    parts = freeze_all_but(model, stage.learning_rate)
    return Plan(stage, tuple(sources), tuple(parts), config.patches)


def _counted(store: Store, name: str, source: Source) -> int | None:
    """The samples of a source, or None when its shards, or the indexes of shards that lie elsewhere, are not here."""
    try:
        return sum(header.samples for header in store.headers(name, store.shards(source.shards)))
    except FileNotFoundError:
        return None
    except BadIndex:
        if is_remote(source.shards):
            return None
        raise
