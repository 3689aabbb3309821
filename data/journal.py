"""What `data.prepare` has done: `prepare.jsonl` in the folder of the shards, a line for each."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import index

JOURNAL = "prepare.jsonl"


class NotPrepared(RuntimeError):
    """What keeps a data set from being prepared; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a shard."""

    shard: int
    stamp: str
    """Tells whether the raw files are still the same."""
    read: int
    written: int
    skipped: tuple[tuple[str, str, str], ...]
    """Key, reason and particulars of each record left out. Of documents, some of them."""
    unlisted: Mapping[str, int] = field(default_factory=dict)
    """How many more were left out, by reason."""
    tokens: int = 0
    """In its rows, where it has such."""
    rest: int = 0
    """Tokens left out at its end, where they fill no row."""


def shard_path(out: Path, number: int) -> Path:
    """Where a shard lies."""
    return out / f"{number:05d}.tar"


class Journal:
    """The journal of a folder, held by one process at a time. A line that a kill cut off does not count.

    Args:
        out: the folder.
        head: the first line: what is prepared and how.

    Raises:
        NotPrepared: another process is at work here, or something else was prepared here.
    """

    def __init__(self, out: Path, head: Mapping[str, Any]) -> None:
        self.out = out
        self.reports: dict[int, Report] = {}
        self.complete = False
        self._lock = (out / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotPrepared(f"another process prepares {out}; wait for it, or stop it") from error
        self._file = (out / JOURNAL).open("a+b")
        self._read(head)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *what: object) -> None:
        self._file.close()
        self._lock.close()

    def add(self, report: Report | None) -> None:
        """Writes down a shard, or with None that all are done, for good."""
        self._write({"complete": True} if report is None else _plain(report))
        self._take(report)

    def has(self, number: int, stamp: str) -> bool:
        """Whether a shard is done and still whole.

        Raises:
            NotPrepared: it was made from other records.
        """
        report = self.reports.get(number)
        if report is None:
            return False
        if report.stamp != stamp:
            raise NotPrepared(
                f"the raw files changed since {self.out} was begun: shard {number} had {report.stamp}, and would now "
                f"have {stamp}; delete {self.out} to begin anew"
            )
        try:
            return not report.written or index.check(shard_path(self.out, number)).samples == report.written
        except (OSError, index.BadIndex):
            return False

    def _read(self, head: Mapping[str, Any]) -> None:
        way_out = f"use another folder, or delete {self.out} to begin anew"
        self._file.seek(0)
        lines = self._file.readlines()
        if lines and not lines[-1].endswith(b"\n"):
            self._file.truncate(sum(map(len, lines[:-1])))
            del lines[-1]
        if not lines:
            if any(self.out.glob("*.tar")):
                raise NotPrepared(f"{self.out} holds shards that were not written by data.prepare; {way_out}")
            self._write(head)
            return
        before, *entries = map(json.loads, lines)
        changed = [
            f"{key} {before.get(key)!r}, not {value!r}" for key, value in head.items() if before.get(key) != value
        ]
        if changed:
            raise NotPrepared(f"{self.out} was begun with {'; '.join(changed)}; {way_out}")
        for entry in entries:
            self._take(None if "complete" in entry else _report(entry))

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _take(self, report: Report | None) -> None:
        if report is None:
            self.complete = True
        else:
            self.reports[report.shard] = report


def _plain(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in Report.__slots__}


def _report(entry: Mapping[str, Any]) -> Report:
    return Report(**{**entry, "skipped": tuple(tuple(one) for one in entry["skipped"])})


def describe(reports: Sequence[Report]) -> str:
    """Read, written, and skipped by reason, as a table."""
    reasons = Counter(reason for report in reports for _, reason, _ in report.skipped)
    for report in reports:
        reasons.update(report.unlisted)
    tokens, rest = sum(report.tokens for report in reports), sum(report.rest for report in reports)
    rows = [("read", sum(report.read for report in reports)), ("written", sum(report.written for report in reports))]
    if tokens or rest:
        rows = [("documents read", rows[0][1]), ("rows written", rows[1][1])]
        rows += [("tokens in rows", tokens), ("tokens that fill no row", rest)]
    rows += [(f"skipped: {reason}", count) for reason, count in reasons.most_common()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}} {count:>12,}" for name, count in rows)
