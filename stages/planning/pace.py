"""How long a run takes."""

from __future__ import annotations

import json
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from stages.planning.flops import Work, model_flops
from stages.planning.sources import Lengths
from stages.run_folder import RunFolder
from stages.stage import Stage
from yivl.configuration import YiVLConfig

MFU = 0.4
"""Assumed where nothing is stated or measured: Megatron-LM reports 0.41 to 0.48 and torchtitan 0.33 to 0.39, both for
language models on H100."""
_RECENT = 100
"""Steps whose speed counts, of a run that has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What is computed, and how fast."""

    sample: float
    """FLOPs of a sample, forward and backward; what is recomputed does not count."""
    step: float
    total: float
    ranks: int
    tflops: float | None
    """Of one device; None where nothing tells it."""
    basis: str
    """What tells it."""

    @property
    def days(self) -> float | None:
        """The whole stage."""
        return self.total / (self.tflops * 1e12 * self.ranks) / 86400 if self.tflops else None

    def __str__(self) -> str:
        lines = [
            f"{'TFLOP per sample':32} {self.sample / 1e12:>12.4g}",
            f"{'TFLOP per step':32} {self.step / 1e12:>12,.0f}",
            f"{'FLOP in all':32} {self.total:>12.3g}",
        ]
        if self.days is None:
            return "\n".join([*lines, f"{'time':32} {'unknown':>12}  ({self.basis})"])
        time = f"{self.days:,.2f} days" if self.days >= 1 else f"{24 * self.days:,.2f} hours"
        devices = "one device" if self.ranks == 1 else f"{self.ranks} devices"
        lines.append(f"{'time':32} {time:>12}  on {devices} at {self.tflops:,.4g} TFLOP/s each: {self.basis}")
        return "\n".join(lines)


def pace(
    stage: Stage,
    config: YiVLConfig,
    lengths: Lengths,
    *,
    steps: int,
    ranks: int,
    peak: float | None,
    mfu: float | None,
) -> Pace:
    """A stage's FLOPs and time.

    Args:
        stage: the stage; where its run has begun, its speed so far counts unless `mfu` is given.
        config: shapes, at the stage's resolution.
        lengths: of the samples.
        steps: of the stage.
        ranks: processes.
        peak: TFLOP/s of one device, if that is known.
        mfu: share of it that is used.
    """
    samples, each = stage.batch, lengths.tokens(config.patches)
    work = Work(
        tokens=round(samples * each),
        images=round(samples * lengths.images),
        supervised=round(samples * lengths.supervised),
        squares=round(samples * each**2),
    )
    step = model_flops(config, stage.learning_rate, work, adapted=stage.adapter is not None)
    measured = None if mfu else _measured(RunFolder(Path(stage.run)).log)
    if measured:
        tflops, basis = measured, "as measured in this run so far"
    elif peak:
        tflops, basis = peak * (mfu or MFU), f"an MFU of {mfu or MFU:.0%}, {'as given' if mfu else 'assumed'}"
    else:
        tflops, basis = None, "the device's peak_tflops is not known"
    return Pace(sample=step / samples, step=step, total=step * steps, ranks=ranks, tflops=tflops, basis=basis)


def _measured(log: Path) -> float | None:
    """TFLOP/s of one device in the last steps of a run."""
    if not log.is_file():
        return None
    with log.open(encoding="utf-8") as lines:
        found = [json.loads(line)["tflops"] for line in deque(lines, _RECENT)]
    return statistics.median(found) if found else None
