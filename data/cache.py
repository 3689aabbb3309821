"""A bounded folder of fetched shards, shared by all processes of a machine.

A shard is fetched once, by whoever needs it first; the others wait for it. Room is reserved before a fetch begins, and
made by removing the shards that were unused longest. A removed shard that a process has open stays readable to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.remote import Patience, fetch, local_name

_LOCK = "cache.lock"
_FETCHES = 4
"""Shards that are fetched ahead at a time."""


class Wanted(NamedTuple):
    """A shard that lies elsewhere."""

    address: str
    size: int
    """Its bytes, as its index says."""


class Cache:
    """Args:
    folder: where the shards are kept; several processes may share it.
    limit: most bytes of all of them.
    patience: how long a fetch goes on trying.
    """

    def __init__(self, folder: Path, limit: int, patience: Patience | None = None) -> None:
        self.folder = folder
        self.limit = limit
        self.patience = patience or Patience()

    def open(self, wanted: Wanted) -> BinaryIO:
        """The shard, fetched if it is not there.

        Raises:
            RemoteError, FileNotFoundError: from `data.remote.fetch`.
            ValueError: it is larger than the whole cache.
        """
        path = self._path(wanted)
        while True:
            with contextlib.suppress(FileNotFoundError):  # removed in between: fetched again
                opened = path.open("rb")
                self._touch(path)
                return opened
            self._fetch(wanted)

    def ahead(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Of the shards that will be needed, in the order of need: those to fetch now. As many as fit together; those
        of them that are there already are kept."""
        missing, total = [], 0
        for one in wanted:
            total += one.size
            if total > self.limit:
                break
            if not self._touch(self._path(one)):
                missing.append(one)
        return missing

    def _path(self, wanted: Wanted) -> Path:
        digest = hashlib.blake2b(wanted.address.encode(), digest_size=8).hexdigest()
        return self.folder / f"{digest}-{wanted.size}-{local_name(wanted.address)}"

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _fetch(self, wanted: Wanted) -> None:
        path = self._path(wanted)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f"{path.name}.lock")):
            if not path.exists():
                part = path.with_name(f"{path.name}.part")
                self._make_room(wanted, part)
                fetch(wanted.address, part, wanted.size, self.patience)
                with _locked(self.folder / _LOCK):  # who counts the files must not miss it between two names
                    part.replace(path)

    def _make_room(self, wanted: Wanted, part: Path) -> None:
        """Removes shards until this one fits, and reserves its room by its unfinished file."""
        if wanted.size > self.limit:
            raise ValueError(
                f"{wanted.address} has {wanted.size:,} bytes, more than the whole cache of {self.limit:,} in "
                f"{self.folder}; raise cache_gib"
            )
        while not self._reserve(part, wanted.size):
            time.sleep(0.1)  # all the room is taken by fetches of others, which will end

    def _reserve(self, part: Path, size: int) -> bool:
        with _locked(self.folder / _LOCK):
            others = [file for file in self.folder.iterdir() if file != part and _size(file)]
            excess = sum(map(_size, others)) + size - self.limit
            for file in sorted(others, key=_age) if excess > 0 else ():
                if excess > 0 and self._remove(file):
                    excess -= _size(file)
            if excess <= 0:
                part.touch()
        return excess <= 0

    def _remove(self, file: Path) -> bool:
        if file.suffix != ".part":
            file.unlink(missing_ok=True)
            return True
        try:  # left by a process that was killed, unless someone holds its lock
            with _locked(file.with_suffix(".lock"), wait=False):
                file.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True


class Prefetcher:
    """Fetches shards before they are needed, a few at a time, in threads of its own."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._running: dict[Wanted, threading.Thread] = {}

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Begins to fetch the first of `wanted`, in the order of need, that are missing; returns at once.

        To be called again and again. A fetch that fails is not reported: whoever needs the shard tries again, and
        reports."""
        self._running = {one: thread for one, thread in self._running.items() if thread.is_alive()}
        for one in self.cache.ahead(wanted):
            if len(self._running) == _FETCHES:
                break
            if one not in self._running:
                self._running[one] = threading.Thread(target=self._fetch, args=(one,), daemon=True)
                self._running[one].start()

    def finish(self) -> None:
        """Waits for what is being fetched: to be called before a process is forked."""
        for thread in self._running.values():
            thread.join()

    def _fetch(self, wanted: Wanted) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.cache.open(wanted).close()


@contextlib.contextmanager
def _locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock file; without `wait`, `BlockingIOError` when another holds it."""
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            fcntl.flock(opened, fcntl.LOCK_UN)  # closing is not enough where a process was forked meanwhile


def _size(file: Path) -> int:
    """Bytes of a shard once it is complete, from its name; 0 for a lock."""
    parts = file.name.split("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() and file.suffix != ".lock" else 0


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
