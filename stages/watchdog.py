"""Ends a run that hangs, and says where each process stood.

A thread in every process tells the others once a second in which phase of which step it is. When its own process stays
in one phase for too long, as all do when one of them hangs, it writes what it knows of all and ends the process: the
launcher then ends the others, or starts them anew.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # the stubs do not know it

from yivl.ranks import Ranks

STATUS = 75
"""Exit status of a process that hung: a temporary failure (sysexits.h)."""
_REPORTING = 5.0
"""Seconds that processes wait for the one that reports, or for its answer."""
_JOINING = timedelta(minutes=2)
"""In which hundreds of processes find the first one's store."""


class Watchdog:
    """Args:
    ranks: the processes; all build one together.
    limit: seconds that a phase may take.
    report: file that the report goes to as well.
    """

    def __init__(self, ranks: Ranks, limit: float, report: Path) -> None:
        self._ranks = ranks
        self._limit = limit
        self._report = report
        self._store = _store(ranks)
        self.in_hand: Callable[[], str] | Sequence[str] = ()
        """Samples of the step in hand, for phases that name none."""
        self._now = _Phase("starting", ())

    def phase(self, name: str, samples: Callable[[], str] | Sequence[str] = ()) -> None:
        """What begins: forward, backward, saving, ...

        Args:
            name: tells it.
            samples: keys of those in hand, or what describes them when it is needed.
        """
        self._now = _Phase(name, samples or self.in_hand)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches as long as the block lasts."""
        self.phase("starting")
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), daemon=True, name="watchdog")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_REPORTING)

    def _watch(self, ended: threading.Event) -> None:
        while True:
            now = self._now
            with contextlib.suppress(RuntimeError):  # the first process is gone, and its store with it
                if self._store:
                    heard = {"said": now.describe(), "at": time.time()}
                    self._store.set(f"phase/{self._ranks.rank}", json.dumps(heard))
            if now.seconds > self._limit and now is self._now:
                self._end(now)
            if ended.wait(min(1.0, self._limit / 4)):
                return

    def _end(self, now: _Phase) -> None:
        if self._claimed():
            lines = [f"process {self._ranks.rank} stayed in one phase for more than {self._limit:g} seconds; so stood"]
            lines += [
                f"  process {rank}: {now.describe() if rank == self._ranks.rank else self._heard(rank)}"
                for rank in range(self._ranks.count)
            ]
            text = "\n".join(lines)
            print(f"error: {text}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                self._report.write_text(text + "\n", encoding="utf-8")
            faulthandler.dump_traceback(all_threads=True)
        else:
            time.sleep(_REPORTING)
        os._exit(STATUS)

    def _claimed(self) -> bool:
        try:
            return self._store is None or self._store.add("reporters", 1) == 1
        except RuntimeError:
            return True

    def _heard(self, rank: int) -> str:
        assert self._store
        try:
            if not self._store.check([f"phase/{rank}"]):
                return "has told nothing"
            heard = json.loads(self._store.get(f"phase/{rank}"))
        except RuntimeError as error:
            return f"is not known: process 0 does not answer ({str(error).splitlines()[0]})"
        silent = time.time() - heard["at"]
        said: str = heard["said"]
        return f"silent for {silent:.0f} seconds, before that: {said}" if silent > _REPORTING else said


class _Phase:
    """What a process does, since when, and with which samples."""

    def __init__(self, name: str, samples: Callable[[], str] | Sequence[str]) -> None:
        self._name = name
        self._samples = samples
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """It has lasted so long."""
        return time.monotonic() - self._begun

    def describe(self) -> str:
        """In words."""
        if callable(self._samples):
            try:
                self._samples = [self._samples()]
            except Exception as error:  # the report must come
                self._samples = [str(error)]
        return f"{self._name}, for {self.seconds:.0f} seconds; {', '.join(self._samples) or 'no samples'}"


def _store(ranks: Ranks) -> TCPStore | None:
    """What the processes tell each other through; the first keeps it."""
    if ranks.count == 1:
        return None
    host = os.environ["MASTER_ADDR"]
    made: list[TCPStore] = []
    ranks.by_first(lambda: made.append(TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_JOINING)))
    port = ranks.gather(made[0].port if made else 0)[0]
    store = made[0] if made else TCPStore(host, port, is_master=False, timeout=_JOINING)
    store.set_timeout(timedelta(seconds=_REPORTING))
    return store
