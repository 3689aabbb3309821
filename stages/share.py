"""What each process had of an optimiser step, and all of it together as a record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.loader import Broken, Step
from stages.engines.engine import Engine, Passed, Update
from stages.planning.flops import Work, model_flops, peak_tflops, work_of
from stages.record import Record
from stages.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process had of a step."""

    source_losses: Mapping[str, float]
    """Sum of the token losses of each source."""
    source_tokens: Mapping[str, int]
    """Supervised tokens of each source."""
    keys: tuple[str, ...]
    """`source/key` of its samples."""
    not_numbers: tuple[str, ...]
    """Those in micro-batches whose loss is not a number."""
    work: Work
    micro_batches: int
    padding: int
    """Tokens that belong to no sample."""
    dropped_turns: int
    broken: tuple[Broken, ...]
    seconds: Mapping[str, float]
    """Of `data`, `copy`, `forward` and `backward`."""
    asked: bool
    """It was asked to end."""
    late: bool
    """By its clock a checkpoint is due."""

    @property
    def loss(self) -> float:
        """Sum of the token losses."""
        return math.fsum(self.source_losses.values())


def share_of(step: Step, passed: Passed, waited: float, padding: int, asked: bool, late: bool) -> Share:
    """A process's share.

    Args:
        step: what it was given.
        passed: what came of it.
        waited: seconds for data.
        padding: micro-batches of one token that it ran so that all run equally many.
        asked: it was asked to end.
        late: by its clock a checkpoint is due.
    """
    losses: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    not_numbers: list[str] = []
    for batch, token_losses in zip(step.batches, passed.token_losses, strict=False):
        for source, loss in zip(batch.sources, token_losses.split(batch.supervised_each), strict=True):
            losses[source] += loss.double().sum().item()
            tokens[source] += len(loss)
        if not token_losses.isfinite().all():
            not_numbers += batch.keys
    return Share(
        source_losses=losses,
        source_tokens=tokens,
        keys=tuple(key for batch in step.batches for key in batch.keys),
        not_numbers=tuple(not_numbers),
        work=work_of(step.batches),
        micro_batches=len(step.batches),
        padding=padding,
        dropped_turns=step.dropped_turns,
        broken=step.broken,
        seconds={"data": waited, **passed.seconds},
        asked=asked,
        late=late,
    )


def record(
    stage: Stage, engine: Engine, number: int, factor: float, shares: Sequence[Share], update: Update, seconds: float
) -> Record:
    """A step as it is logged: all processes' shares together.

    Args:
        stage: rates.
        engine: its shapes and device.
        number: of the step, from 0.
        factor: of the rates.
        shares: of all processes.
        update: what the optimiser did.
        seconds: the whole step.
    """
    losses: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for share in shares:
        losses.update(share.source_losses)
        tokens.update(share.source_tokens)
    computed = [share.work.tokens + share.padding for share in shares]
    together = Work(
        tokens=sum(share.work.tokens for share in shares),
        images=sum(share.work.images for share in shares),
        supervised=sum(share.work.supervised for share in shares),
        squares=sum(share.work.squares for share in shares),
    )
    flops = model_flops(engine.model.config, stage.learning_rate, together, adapted=stage.adapter is not None)
    tflops = flops / seconds / len(shares) / 1e12
    peak = peak_tflops(stage, engine.device)
    slowest = {name: max(share.seconds.get(name, 0.0) for share in shares)
               for name in ("data", "copy", "forward", "backward")}  # fmt: skip
    return Record(
        step=number + 1,
        loss=math.fsum(losses.values()) / together.supervised,
        grad_norm=update.norm,
        rates={part: rate * factor for part, rate in stage.learning_rate.items()},
        samples=sum(len(share.keys) for share in shares),
        tokens=together.tokens,
        supervised=together.supervised,
        images=together.images,
        micro_batches=max(share.micro_batches for share in shares),
        dropped_turns=sum(share.dropped_turns for share in shares),
        padding=sum(share.padding for share in shares) / sum(computed),
        idle=1 - sum(computed) / (max(computed) * len(shares)),
        source_losses={source: losses[source] / tokens[source] for source in sorted(losses)},
        data_seconds=slowest["data"],
        copy_seconds=slowest["copy"],
        forward_seconds=slowest["forward"],
        backward_seconds=slowest["backward"],
        optimizer_seconds=update.seconds,
        seconds=seconds,
        tflops=tflops,
        mfu=tflops / peak if peak else None,
    )
