"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from data.loader import Broken, BrokenSource, Loader, Step
from data.packing import empty
from stages.engine import Engine, NonFinite
from stages.ranks import Ranks
from stages.recorder import Record, Recorder, Silent
from stages.run_folder import RunFolder
from stages.schedule import rate_factor
from stages.stage import Stage

_GRACE = 100
"""Samples seen before the share of broken ones is judged."""


class Interrupted(RuntimeError):
    """The run was asked to end (SIGTERM or Ctrl-C) and has saved its state."""


class TooManyBroken(RuntimeError):
    """More samples are unreadable than the stage allows."""


class Trainer:
    """Takes the step's micro-batches, counts, forward and backward each, clips, steps, records, saves when due."""

    def __init__(
        self, stage: Stage, ranks: Ranks, engine: Engine, loader: Loader, folder: RunFolder, recorder: Recorder | Silent
    ) -> None:
        self.stage = stage
        self.ranks = ranks
        self.engine = engine
        self.loader = loader
        self.folder = folder
        self.recorder = recorder
        self.sources: Counter[str] = Counter()  # broken samples by source, since this process began
        self._asked_to_end = False

    def run(self, start: int, broken: int) -> None:
        """All steps from `start` on; `broken` samples were replaced before. Every process of the run raises alike.

        Raises:
            Interrupted: asked to end; a checkpoint of the last step is saved.
            TooManyBroken: the share of unreadable samples exceeds the stage's limit.
            NonFinite: a loss or gradient is not a number; nothing of that step was applied.
            BrokenSource: of a source, many samples in a row are unreadable.
        """
        restore = self._listen()
        steps = self.loader.steps(start)
        try:
            clock = time.perf_counter()
            for number in range(start, self.loader.total_steps):
                step = self._next(steps)
                waited = time.perf_counter() - clock
                shares, norm = self._train(step)
                record = self._record(number, shares, norm, waited, time.perf_counter() - clock)
                clock = time.perf_counter()
                lost = sorted((one for share in shares for one in share.broken), key=lambda one: one.position)
                broken += len(lost)
                self.recorder.record(record, lost)
                asked = any(share.asked for share in shares)
                if asked or record.step == self.loader.total_steps or record.step % self.stage.save_every == 0:
                    self._save(record.step, broken)
                self._judge(record.step, lost, broken)
                if asked:
                    raise Interrupted(f"stopped after step {record.step}; the same command continues from there")
        except BrokenSource as error:
            self.recorder.quarantine(self.loader.total_steps, error.broken)
            raise
        finally:
            steps.close()  # ends the workers, whatever happened
            restore()

    def _next(self, steps: Iterator[Step]) -> Step:
        """The next step; raises on every process what loading it raised on one."""
        step, broken = None, None
        try:
            step = next(steps)
        except BrokenSource as error:
            broken = error.broken
        if found := [one for one in self.ranks.gather(broken) if one]:
            raise BrokenSource(found[0])
        assert step is not None
        return step

    def _train(self, step: Step) -> tuple[list[_Share], float]:
        """Forward, backward and optimiser; what each process had of the step, and the gradient's norm."""
        sizes = self.ranks.gather((sum(batch.supervised for batch in step.batches), len(step.batches)))
        supervised, rows = sum(size for size, _ in sizes), max(count for _, count in sizes)
        padding = [empty(self.stage.resolution)] * (rows - len(step.batches))  # all make the same collective calls
        loss, problem = 0.0, ""
        try:
            loss = self.engine.backward([*step.batches, *padding], supervised)
        except NonFinite as error:
            problem = str(error)
        shares = self.ranks.gather(_share(step, loss, problem, self._asked_to_end))
        if problems := [share.problem for share in shares if share.problem]:
            raise NonFinite("; ".join(problems))
        return shares, self.engine.step(rate_factor(self.stage, step.number, self.loader.total_steps))

    def _record(self, number: int, shares: Sequence[_Share], norm: float, waited: float, seconds: float) -> Record:
        factor = rate_factor(self.stage, number, self.loader.total_steps)
        return Record(
            step=number + 1,
            loss=math.fsum(share.loss for share in shares),
            grad_norm=norm,
            rates={part: rate * factor for part, rate in self.stage.learning_rate.items()},
            samples=sum(share.samples for share in shares),
            tokens=sum(share.tokens for share in shares),
            supervised=sum(share.supervised for share in shares),
            images=sum(share.images for share in shares),
            micro_batches=max(share.micro_batches for share in shares),
            dropped_turns=sum(share.dropped_turns for share in shares),
            data_seconds=waited,
            seconds=seconds,
        )

    def _save(self, step: int, broken: int) -> None:
        self.ranks.by_first(lambda: self.folder.save(step, broken, self.engine.state()))

    def _judge(self, step: int, lost: Sequence[Broken], broken: int) -> None:
        self.sources.update(sample.source for sample in lost)
        seen = step * self.stage.global_batch
        if lost and seen >= _GRACE and broken > self.stage.broken_limit * seen:
            worst, count = self.sources.most_common(1)[0]
            raise TooManyBroken(
                f"{broken} of {seen} samples could not be used, more than broken_limit "
                f"{self.stage.broken_limit:g} allows; {count} are from {worst!r}, the last: {lost[-1].reason}. "
                f"{self.folder.quarantine} lists them all"
            )

    def _listen(self) -> Callable[[], None]:
        """Ends the run after the step in hand when asked to; returns what puts the former handlers back."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._asked_to_end = True

        former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, handler in former.items():
                signal.signal(number, handler)

        return restore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one process had of a step."""

    loss: float
    """Its part of the step's mean."""
    samples: int
    tokens: int
    supervised: int
    images: int
    micro_batches: int
    dropped_turns: int
    broken: tuple[Broken, ...]
    problem: str
    """Why the step must not be taken; empty if nothing."""
    asked: bool
    """It was asked to end."""


def _share(step: Step, loss: float, problem: str, asked: bool) -> _Share:
    return _Share(
        loss=loss,
        samples=sum(len(batch.keys) for batch in step.batches),
        tokens=sum(batch.tokens for batch in step.batches),
        supervised=sum(batch.supervised for batch in step.batches),
        images=sum(len(batch.pixels) for batch in step.batches),
        micro_batches=len(step.batches),
        dropped_turns=step.dropped_turns,
        broken=step.broken,
        problem=problem,
        asked=asked,
    )
