"""What a stage will do, from its files alone: sources, caps, parts, steps, memory, time. Trains nothing and needs no
weights and no data; docs/plan.md tells how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.mixture import Mixture
from data.store import Store
from stages.parts import Part, check_vision, describe, freeze_all_but
from stages.planning.activations import on_meta
from stages.planning.devices import DEVICES
from stages.planning.fit import Fit, fit
from stages.planning.flops import peak_tflops
from stages.planning.pace import Pace, pace
from stages.planning.sources import PlannedSource, mean_lengths, planned_sources
from stages.schedule import warmup_steps
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.ranks import Ranks
from yivl.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Plan:
    """A stage in numbers."""

    stage: Stage
    sources: tuple[PlannedSource, ...]
    parts: tuple[Part, ...]
    patches: int
    where: str
    """The processes and devices that it is planned for."""
    fit: Fit
    pace: Pace

    @property
    def samples(self) -> int:
        """Samples in one epoch."""
        return _samples(self.sources)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return _steps(self.stage, self.sources)

    def __str__(self) -> str:
        stage = self.stage
        images = f"images of {stage.resolution} pixels, {self.patches} tokens each" if self.patches else "text alone"
        lines = [f"{stage.name}: {images}", ""]
        lines.append(f"{'source':24} {'available':>14} {'':9} {'cap':>12} {'taken':>12} {'tokens each':>12}")
        for one in self.sources:
            origin, cap = "on disk" if one.on_disk else "published", "-" if one.cap is None else f"{one.cap:,}"
            available = f"{one.available:,}" if one.available else "unknown"
            tokens = f"{one.lengths.tokens(self.patches):,.0f}"
            lines.append(f"{one.name:24} {available:>14} {origin:9} {cap:>12} {one.taken:>12,} {tokens:>12}")
        tokens = f"{mean_lengths(self.sources).tokens(self.patches):,.0f}"
        lines.append(f"{'together':24} {'':>14} {'':9} {'':>12} {self.samples:>12,} {tokens:>12}")
        lines += ["", describe(list(self.parts)), ""]
        rest = self.samples * stage.epochs - self.steps * stage.batch
        lines += [
            f"{'samples in an optimiser step':32} {stage.batch:>12,}{_batch(stage)}",
            f"{'steps per epoch':32} {self.samples / stage.batch:>12,.1f}",
            f"{'epochs':32} {stage.epochs:>12}",
            f"{'optimiser steps':32} {self.steps:>12,}  ({rest:,} samples of the last epoch fill no step)",
            f"{'of these warm-up':32} {warmup_steps(stage, self.steps):>12,}",
        ]
        return "\n".join([*lines, "", f"planned for {self.where}", str(self.fit), "", str(self.pace)])


def plan(
    stage: Stage,
    source: ModelSource,
    mixture: Mixture,
    *,
    ranks: int = 1,
    device: str = "",
    mfu: float | None = None,
) -> Plan:
    """Counts shards where they are on disk, and goes by the published sizes where not.

    Args:
        stage: the stage.
        source: its model file.
        mixture: its mixture.
        ranks: processes that would train it, each on a device of its own.
        device: one of `devices.DEVICES`, or the memory of a GPU in GiB; by default what this machine has.
        mfu: share of the devices' peak that is used; by default as measured in the run so far, or a guess.

    Raises:
        BadIndex: a shard on disk has no index, or one that does not fit.
        SettingsError: there is no such device, number of processes or MFU, or as `stages.parts.check_vision`.
    """
    if ranks < 1 or not (mfu is None or 0 < mfu <= 1):
        raise SettingsError(f"{ranks} processes at an MFU of {mfu}: at least 1, and above 0 to 1")
    stage, where, peak = _on(stage, device)
    config = source.config()
    check_vision(stage, config)
    if config.has_vision:
        config.vision_config = config.vision_config | {"image_size": stage.resolution}
    sources = planned_sources(mixture, Store(Path(stage.data)))
    lengths = mean_lengths(sources)
    steps = _steps(stage, sources)
    return Plan(
        stage=stage,
        sources=sources,
        parts=tuple(freeze_all_but(on_meta(config, stage.learning_rate, stage.adapter), stage.learning_rate)),
        patches=config.patches,
        where=_where(stage, ranks, device),
        fit=fit(stage, config, ranks, where, lengths),
        pace=pace(stage, config, lengths, steps=steps, ranks=ranks, peak=peak, mfu=mfu),
    )


def _batch(stage: Stage) -> str:
    """What is to be said of a batch counted in tokens."""
    if not stage.batch_tokens:
        return ""
    told = f"  (rows of {stage.max_length:,}: {stage.batch_tokens:,} tokens"
    if stage.growth:
        told += f", growing up to {stage.growth.ceiling:,} while steps become fewer"
    return f"{told})"


def _where(stage: Stage, ranks: int, device: str) -> str:
    processes = "1 process" if ranks == 1 else f"{ranks:,} processes"
    here = "this machine's GPU" if Ranks().device.type == "cuda" else "this machine's CPU and RAM"
    there = f"{device.upper()}s" if device.lower() in DEVICES else f"GPUs of {device} GiB"
    on = there if device else f"{here}; --ranks and --device plan for others"
    return f"{processes}, zero: {stage.zero}{', offload' if stage.offload else ''}, on {on}"


def _on(stage: Stage, device: str) -> tuple[Stage, torch.device, float | None]:
    """The stage with the memory of the devices it is planned for, their kind, and their peak if that is known."""
    if not device:
        here = Ranks().device
        return stage, here, peak_tflops(stage, here)
    if known := DEVICES.get(device.lower()):
        peak: float | None = stage.peak_tflops or known.peak(stage.precision)
        return replace(stage, device_gib=known.gib), torch.device("cuda"), peak
    try:
        return replace(stage, device_gib=float(device)), torch.device("cuda"), stage.peak_tflops or None
    except ValueError as error:
        raise SettingsError(
            f"device {device!r}: not one of {', '.join(DEVICES)}, nor the memory of a GPU in GiB"
        ) from error


def _samples(sources: tuple[PlannedSource, ...]) -> int:
    return sum(source.taken for source in sources)


def _steps(stage: Stage, sources: tuple[PlannedSource, ...]) -> int:
    return _samples(sources) * stage.epochs // stage.batch
