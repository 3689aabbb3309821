"""The training loop."""

from __future__ import annotations

import gc
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from data.loader import Broken, BrokenSource, Loader, Step
from data.packing import empty
from stages.checkpoint import Checkpoints
from stages.engines.engine import Engine
from stages.examiner import Examiner
from stages.growth import Plateau
from stages.guard import Guard
from stages.held_out import HeldOut
from stages.record import Silent
from stages.recorder import Recorder
from stages.schedule import rate_factor, warmup_steps
from stages.share import Share, record, share_of
from stages.stage import Stage
from stages.watchdog import Watchdog
from yivl.ranks import OtherProcessFailed, Ranks

T = TypeVar("T")
_GRACE = 100
"""Samples seen before the share of broken ones is judged."""
_COLLECT_EVERY = 100
"""Steps between garbage collections, which all processes do at the same step: one that stops on its own would make the
others wait."""


class Interrupted(RuntimeError):
    """The run was asked to end (SIGTERM or Ctrl-C) and has saved its state."""


class TooManyBroken(RuntimeError):
    """More samples are unreadable than the stage allows."""


class _Trained(NamedTuple):
    """What came of a step."""

    asked: bool
    """A process was asked to end."""
    late: bool
    """Too long no checkpoint was saved."""
    lost: list[Broken]
    """Samples that were replaced."""
    loss: float | None
    """None: it was left out."""


class Trainer:
    """Takes the step's micro-batches, counts, forward and backward each, judges, moves the weights and records; saves,
    looks at held-out samples and puts benchmarks when due. Every process of the run does the same and raises alike."""

    def __init__(
        self,
        stage: Stage,
        ranks: Ranks,
        *,
        engine: Engine,
        loader: Loader,
        guard: Guard,
        checkpoints: Checkpoints,
        recorder: Recorder | Silent,
        watchdog: Watchdog,
        held_out: HeldOut | None,
        examiner: Examiner | None,
        plateau: Plateau | None,
    ) -> None:
        self.stage = stage
        self.ranks = ranks
        self.engine = engine
        self.loader = loader
        self.guard = guard
        self.checkpoints = checkpoints
        self.recorder = recorder
        self.watchdog = watchdog
        self.held_out = held_out
        self.examiner = examiner
        self.plateau = plateau
        self.sources: Counter[str] = Counter()  # broken samples by source, since this process began
        self._asked_to_end = False
        self._saved = time.monotonic()
        engine.on_phase = watchdog.phase

    def run(self, start: int, broken: int) -> None:
        """All steps from `start` on; `broken` samples were replaced before.

        Raises:
            Interrupted: asked to end; a checkpoint of the last step is saved.
            TooManyBroken: the share of unreadable samples exceeds the stage's limit.
            BadStep: too many steps in a row had to be left out; the weights are as before them.
            BrokenSource: of a source, many samples in a row are unreadable.
        """
        restore = self._listen()
        gc.collect()
        gc.disable()
        steps = self.loader.steps(start)
        try:
            if start == 0 or self._due(start, self.stage.held_out_every):
                self._look(start)
            if start > 0 and self._due(start, self.stage.benchmarks_every):
                self._examine(start)
            number = start
            while number < self.loader.total_steps:
                clock = time.perf_counter()
                step = self._next(steps, number)
                waited = time.perf_counter() - clock
                trained = self._train(step, waited, clock)
                number += 1
                broken += len(trained.lost)
                if self._grow(number, trained.loss):
                    steps.close()
                    steps = self.loader.steps(number)
                if trained.asked or trained.late or self._due(number, self.stage.save_every):
                    self._save(number, broken)
                self._judge(number, trained.lost, broken)
                if trained.asked:
                    raise Interrupted(f"stopped after step {number}; the same command continues from there")
                if self._due(number, self.stage.held_out_every):
                    self._look(number)
                if self._due(number, self.stage.benchmarks_every):
                    self._examine(number)
                if number % _COLLECT_EVERY == 1:
                    gc.collect()
        except BrokenSource as error:
            unusable = error.broken
            self.ranks.by_first(lambda: self.recorder.quarantine(self.loader.total_steps, unusable))
            raise
        finally:
            steps.close()  # ends the workers, whatever happened
            gc.enable()
            restore()

    def _next(self, steps: Iterator[Step], number: int) -> Step:
        """The next step; raises on every process what loading it raised on one."""
        self.watchdog.in_hand = partial(self.loader.describe, number)
        self.watchdog.phase("loading")
        step, error = None, None
        try:
            step = next(steps)
        except Exception as raised:
            error = raised
        told = self._gather((error.broken if isinstance(error, BrokenSource) else None, str(error) if error else None))
        if found := [broken for broken, _ in told if broken]:
            raise BrokenSource(found[0])
        if error:
            raise error
        if failed := [text for _, text in told if text is not None]:
            raise OtherProcessFailed(failed[0])
        assert step is not None
        return step

    def _gather(self, value: T) -> list[T]:
        """As `Ranks.gather`, in a phase of its own: when one process hangs, a report must tell it from those that wait
        for it."""
        self.watchdog.phase("waiting for the others")
        return self.ranks.gather(value)

    def _train(self, step: Step, waited: float, begun: float) -> _Trained:
        """Forward, backward and optimiser."""
        self.watchdog.in_hand = [key for batch in step.batches for key in batch.keys]
        draw = np.random.SeedSequence((self.stage.seed, step.number, self.ranks.rank)).generate_state(1)[0]
        torch.manual_seed(int(draw))  # of an adapter's dropout: a resume draws what the step would have drawn
        sizes = self.ranks.gather((sum(batch.supervised for batch in step.batches), len(step.batches)))
        supervised, rows = sum(size for size, _ in sizes), max(count for _, count in sizes)
        padding = [empty(self.stage.resolution)] * (rows - len(step.batches))  # all make the same collective calls
        passed = self.engine.backward([*step.batches, *padding], supervised)
        late = time.monotonic() - self._saved > 60 * self.stage.save_minutes
        shares = self._gather(share_of(step, passed, waited, len(padding), self._asked_to_end, late))
        loss = sum(share.loss for share in shares) / supervised
        factor = rate_factor(self.stage, step.number, self.loader.total_steps)
        update = self.engine.step(factor, lambda norm: not self.guard.objection(loss, norm))
        lost = sorted((one for share in shares for one in share.broken), key=lambda one: one.position)
        self.watchdog.in_hand = ()
        seconds = time.perf_counter() - begun
        objection = self.guard.objection(loss, update.norm)
        keys = _to_blame(shares)

        def tell() -> None:
            self.recorder.quarantine(step.number + 1, lost)
            self.recorder.record(record(self.stage, self.engine, step.number, factor, shares, update, seconds))
            if objection:
                self.recorder.skipped(step.number + 1, objection, keys)

        self.ranks.by_first(tell)
        if objection:
            self.guard.left_out(objection, keys)
        else:
            self.guard.took(loss, update.norm)
        asked, late = any(share.asked for share in shares), any(share.late for share in shares)
        return _Trained(asked, late, lost, None if objection else loss)

    def _grow(self, number: int, loss: float | None) -> bool:
        """Tells the loss of step number - 1 to the rule; True where it makes the batch grow from step `number` on."""
        loader = self.loader
        if self.plateau is None or loss is None or number <= warmup_steps(self.stage, loader.total_steps):
            return False
        reason = self.plateau.took(loss)
        batch = self.plateau.grown(loader.global_batch, self.stage.max_length)
        if not reason or batch == loader.global_batch or batch > loader.left(number):
            return False
        loader.regroup(number, batch)
        tokens = batch * self.stage.max_length
        self.ranks.by_first(lambda: self.recorder.grown(number, tokens, reason, loader.total_steps))
        return True

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.loader.total_steps

    def _save(self, step: int, broken: int) -> None:
        self.watchdog.phase("saving")
        facts = {"broken": broken, "guard": self.guard.state(), "loader": self.loader.state()}
        if self.plateau:
            facts["plateau"] = self.plateau.state()
        self.checkpoints.save(step, facts, self._heard(self.engine.state()))
        self._saved = time.monotonic()

    def _heard(self, state: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Each tensor is a phase of its own: a large checkpoint takes longer than a hang may."""
        for name, tensor in state:
            self.watchdog.phase("saving", [name])
            yield name, tensor

    def _look(self, step: int) -> None:
        if self.held_out:
            self.watchdog.phase("held-out samples")
            look = self.held_out.look(self.engine)

            def tell() -> None:
                self.recorder.held_out(step, look.losses, look.tokens)
                self.recorder.answers(step, look.answers)

            self.ranks.by_first(tell)

    def _examine(self, step: int) -> None:
        if self.examiner:
            scored = self.examiner.examine(self.engine, step)
            self.ranks.by_first(lambda: [self.recorder.benchmark(step, *one) for one in scored])

    def _judge(self, step: int, lost: Sequence[Broken], broken: int) -> None:
        self.sources.update(sample.source for sample in lost)
        seen = self.loader.first(step)
        if lost and seen >= _GRACE and broken > self.stage.broken_limit * seen:
            worst, count = self.sources.most_common(1)[0]
            raise TooManyBroken(
                f"{broken} of {seen} samples could not be used, more than broken_limit "
                f"{self.stage.broken_limit:g} allows; {count} are from {worst!r}, the last: {lost[-1].reason}. "
                f"quarantine.jsonl in {self.stage.run} lists them all"
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


def _to_blame(shares: Sequence[Share]) -> list[str]:
    """The samples whose loss is not a number, or all of the step."""
    return [key for share in shares for key in share.not_numbers] or [key for share in shares for key in share.keys]
