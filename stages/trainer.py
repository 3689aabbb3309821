"""The training loop."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

from data.loader import BrokenSource, Loader, Step
from stages.engine import Engine
from stages.recorder import Record, Recorder
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

    def __init__(self, stage: Stage, engine: Engine, loader: Loader, folder: RunFolder, recorder: Recorder) -> None:
        self.stage = stage
        self.engine = engine
        self.loader = loader
        self.folder = folder
        self.recorder = recorder
        self.sources: Counter[str] = Counter()  # broken samples by source, since this process began
        self._asked_to_end = False

    def run(self, start: int, broken: int) -> None:
        """All steps from `start` on; `broken` samples were replaced before.

        Raises:
            Interrupted: asked to end; a checkpoint of the last step is saved.
            TooManyBroken: the share of unreadable samples exceeds the stage's limit.
            NonFinite: a loss or gradient is not a number; nothing of that step was applied.
            BrokenSource: of a source, many samples in a row are unreadable.
        """
        restore = self._listen()
        try:
            clock = time.perf_counter()
            for step in self.loader.steps(start):
                waited = time.perf_counter() - clock
                record = self._train(step, waited, clock)
                clock = time.perf_counter()
                broken += len(step.broken)
                self.recorder.record(record, step.broken)
                last = record.step == self.loader.total_steps
                if self._asked_to_end or last or record.step % self.stage.save_every == 0:
                    self.folder.save(record.step, broken, self.engine.state())
                self._judge(step, broken)
                if self._asked_to_end:
                    raise Interrupted(f"stopped after step {record.step}; the same command continues from there")
        except BrokenSource as error:
            self.recorder.quarantine(self.loader.total_steps, error.broken)
            raise
        finally:
            restore()

    def _train(self, step: Step, waited: float, clock: float) -> Record:
        supervised = sum(batch.supervised for batch in step.batches)
        loss = self.engine.backward(step.batches, supervised)
        factor = rate_factor(self.stage, step.number, self.loader.total_steps)
        norm = self.engine.step(factor)
        return Record(
            step=step.number + 1,
            loss=loss,
            grad_norm=norm,
            rates={part: rate * factor for part, rate in self.stage.learning_rate.items()},
            samples=sum(len(batch.keys) for batch in step.batches),
            tokens=sum(batch.tokens for batch in step.batches),
            supervised=supervised,
            images=sum(len(batch.pixels) for batch in step.batches),
            micro_batches=len(step.batches),
            dropped_turns=step.dropped_turns,
            data_seconds=waited,
            seconds=time.perf_counter() - clock,
        )

    def _judge(self, step: Step, broken: int) -> None:
        self.sources.update(sample.source for sample in step.broken)
        seen = (step.number + 1) * self.stage.global_batch
        if step.broken and seen >= _GRACE and broken > self.stage.broken_limit * seen:
            worst, count = self.sources.most_common(1)[0]
            raise TooManyBroken(
                f"{broken} of {seen} samples could not be used, more than broken_limit "
                f"{self.stage.broken_limit:g} allows; {count} are from {worst!r}, the last: {step.broken[-1].reason}. "
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
