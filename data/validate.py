"""Reads every sample of local shards, to find what would fail in training before anything trains.

    python -m data.validate SHARD_OR_FOLDER … --format conversation [--workers N] [--json FILE]
    python -m data.validate --mixture MIXTURE --data shards

Of a shard: the checksum of each header, the end-of-archive marker and that nothing follows it, and its index, which
must be there, fresh, and equal to one made anew. Of a sample: its key, its format, its text, and its images, each
decoded; of a row of tokens, that it has the length that its source says, or else that of its shard's first, and the
same tokenizer as that. A mixture names its sources' formats itself. `--json` lists all that is broken, a JSON object
a line; the exit status is 1 when anything is, or could not be read at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from data import index, tar
from data.formats import FORMATS, BadSample, format_named, unpack
from data.index import BadIndex, Index
from data.mixture import Mixture, catalogued
from data.remote import is_remote
from data.rows import Row
from data.store import Store
from data.tar import BadTar
from yivl.conversation import Conversation
from yivl.images import BadImage, check_square, open_image
from yivl.settings import read

KINDS = ("tar", "index", "key", "format", "text", "image")
"""What can be broken."""
_SHOWN = 20
"""Broken samples of a shard that the terminal tells of."""


class Job(NamedTuple):
    """A shard to read."""

    source: str
    shard: Path
    format: str
    row: int = 0
    """Tokens that a row must have; 0 if that is not known."""


class Fault(NamedTuple):
    """What is wrong with a sample, or, without a key, with its shard."""

    key: str
    kind: str
    """One of `KINDS`."""
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A fault and where it is."""

    source: str
    shard: str
    key: str
    kind: str
    reason: str

    def __str__(self) -> str:
        told = f"{self.shard}: {f'{self.key}: ' if self.key else ''}{self.kind}: {self.reason}"
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in told)


@dataclass(slots=True)
class Report:
    """What was found in a shard."""

    job: Job
    samples: int = 0
    good: int = 0
    broken: list[Broken] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Notes what is wrong."""
        self.broken.append(Broken(self.job.source, str(self.job.shard), *fault))


def validate(job: Job) -> Report:
    """Reads a shard, one sample at a time."""
    report = Report(job)
    try:
        with job.shard.open("rb") as file:
            seen = _Seen()
            for found in _walk(file, job.shard.name):
                if isinstance(found, Fault):
                    report.samples += bool(found.key)
                    report.add(found)
                    continue
                report.samples += 1
                if fault := _fault(file, found, job, seen):
                    report.add(fault)
                else:
                    report.good += 1
        if reason := _index_fault(job.shard, report.samples):
            report.add(Fault("", "index", reason))
    except OSError as error:
        report.add(Fault("", "tar", f"it can't be read: {error}"))
    return report


# A shard


class _Located(NamedTuple):
    """Where a sample lies in its shard."""

    key: str
    start: int
    end: int


def _walk(file: BinaryIO, name: str) -> Iterator[_Located | Fault]:
    """The samples of a shard, and last what ended the reading before its time."""
    held: _Located | None = None
    try:
        for member in tar.members(file, name):
            key, _ = index.split_name(member.name)
            if held and held.key != key:
                yield held
                held = None
            held = _Located(key, held.start if held else member.start, member.end)
    except BadTar as error:
        whether = ", and this sample, the last that was begun, may lack members" if held else ""
        yield Fault(held.key if held else "", "tar", f"{error}. What follows was not read{whether}")
        return
    if held:
        yield held


def _index_fault(shard: Path, samples: int) -> str:
    """What is wrong with the index of a shard, in which so many samples were found; empty if nothing."""
    file = index.index_path(shard)
    try:
        index.check(shard)
        found = index.load(file)
        made = index.build(shard)
    except BadIndex as error:
        return str(error)
    except BadTar:  # told of already; all there is to add is how much is lost
        return f"it tells of {len(found)} samples; {samples} were read" if len(found) != samples else ""
    differing = [
        one.name for one in fields(Index) if not np.array_equal(getattr(found, one.name), getattr(made, one.name))
    ]
    if not differing:
        return ""
    return (
        f"{file} differs from one made anew in {', '.join(differing)} ({len(found)} samples there, {len(made)} in the "
        f"shard); delete it and run: python -m data.index {shard}"
    )


# A sample


@dataclass(slots=True)
class _Seen:
    """What the samples of a shard had so far."""

    keys: set[str] = field(default_factory=set)
    first: Row | None = None
    """A row."""


def _fault(file: BinaryIO, located: _Located, job: Job, seen: _Seen) -> Fault | None:
    key, start, end = located
    if key in seen.keys:
        return Fault(key, "key", "the key comes twice, not in one run")
    seen.keys.add(key)
    try:
        sample = unpack(tar.read(file, start, end - start), key)
        content = format_named(job.format)(sample, job.source, key)
    except BadTar as error:
        return Fault(key, "key", str(error))
    except BadSample as error:
        return Fault(key, "text" if isinstance(error.__cause__, UnicodeError) else "format", str(error))
    except Exception as error:  # whatever a format lets through would end a training
        return Fault(key, "format", f"{type(error).__name__}: {error}")
    if isinstance(content, Row):
        return _row_fault(content, job, seen)
    if all(turn.role == "human" for turn in content.turns):
        return Fault(key, "format", "it has no answer, so nothing would be learned")
    return _image_fault(content)


def _row_fault(row: Row, job: Job, seen: _Seen) -> Fault | None:
    first = seen.first = seen.first or row
    if len(row.ids) != (length := job.row or len(first.ids)):
        return Fault(row.key, "format", f"it has {len(row.ids)} tokens, not {length}")
    if row.tokenizer != first.tokenizer:
        told = f"its tokenizer has the fingerprint {row.tokenizer}, that of {first.key} has {first.tokenizer}"
        return Fault(row.key, "format", told)
    return None


def _image_fault(conversation: Conversation) -> Fault | None:
    for number, image in enumerate(conversation.images, 1):
        try:
            check_square(*open_image(image).size)
        except BadImage as error:
            return Fault(conversation.key, "image", f"image {number} of {len(conversation.images)}: {error}")
    return None


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Validates the shards named, tells of what is broken, and prints a table."""
    options = _options(arguments)
    try:
        jobs, unread = _of_mixture(options.mixture, options.data) if options.mixture else _of_paths(options)
        reports = _run(jobs, options.workers, options.json)
    except (OSError, ValueError, BrokenProcessPool) as error:
        print(error, file=sys.stderr)
        return 1
    if reports:
        print(_table(reports))
    for reason in unread:
        print(f"not read: {reason}", file=sys.stderr)
    return 1 if unread or any(one.broken for one in reports.values()) else 0


@dataclass(slots=True)
class Totals:
    """What was found in the shards of a source."""

    shards: int = 0
    samples: int = 0
    good: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    """By kind."""

    def add(self, report: Report) -> None:
        """Counts a shard."""
        self.shards += 1
        self.samples += report.samples
        self.good += report.good
        self.broken.update(one.kind for one in report.broken)


def _run(jobs: Sequence[Job], workers: int, json_file: Path | None) -> dict[str, Totals]:
    """Reads all shards and tells of each; the totals by source."""
    totals = {job.source: Totals() for job in jobs}
    with ExitStack() as stack:
        out = None
        if json_file:
            # A reason may quote half of a surrogate pair, which can't be written otherwise.
            out = stack.enter_context(json_file.open("w", encoding="utf-8", errors="backslashreplace"))
        pool = stack.enter_context(ProcessPoolExecutor(max(1, min(workers, len(jobs)))))
        for report in tqdm(pool.map(validate, jobs), total=len(jobs), unit="shard", disable=None):
            totals[report.job.source].add(report)
            for broken in report.broken[:_SHOWN]:
                tqdm.write(str(broken))
            if (more := len(report.broken) - _SHOWN) > 0:
                tqdm.write(f"{report.job.shard}: {more} more" + ("" if out else "; --json FILE lists them"))
            for broken in report.broken if out else ():
                print(json.dumps(asdict(broken), ensure_ascii=False), file=out)
    return totals


def _of_mixture(file: Path, folder: Path) -> tuple[list[Job], list[str]]:
    """The shards of a mixture's sources, and why those of others can't be read."""
    jobs: list[Job] = []
    unread: list[str] = []
    for name, source in catalogued(read(Mixture, file)).items():
        if is_remote(source.shards):
            unread.append(f"source {name!r}: {_elsewhere(source.shards)}")
            continue
        try:
            shards = Store(folder).shards(source.shards)
            jobs += [Job(name, folder / shard, source.format, source.row) for shard in shards]
        except (FileNotFoundError, BadIndex) as error:
            unread.append(f"source {name!r}: {error}")
    return jobs, unread


def _of_paths(options: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """The shards that the arguments name.

    Raises:
        FileNotFoundError: one of them names none.
        ValueError: one of them is an address.
    """
    jobs: list[Job] = []
    for argument in options.shards:
        if is_remote(argument):
            raise ValueError(_elsewhere(argument))
        path = Path(argument)
        shards = sorted(path.rglob("*.tar")) if path.is_dir() else [path]
        if not shards or not (path.is_dir() or path.is_file()):
            raise FileNotFoundError(f"no shards in {path}" if path.is_dir() else f"no shard {path}")
        jobs += [Job(argument, shard, options.format) for shard in shards]
    return jobs, []


def _elsewhere(address: str) -> str:
    return f"{address} lies elsewhere, and only local shards are validated: fetch it first, then name the local copy"


def _table(totals: dict[str, Totals]) -> str:
    together = Totals()
    for one in totals.values():
        together.shards += one.shards
        together.samples += one.samples
        together.good += one.good
        together.broken += one.broken
    rows: list[tuple[str, ...]] = [("source", "shards", "samples", "good", *KINDS)]
    for name, one in [*totals.items(), *([("together", together)] if len(totals) > 1 else [])]:
        numbers = (one.shards, one.samples, one.good, *(one.broken[kind] for kind in KINDS))
        rows.append((name, *(f"{number:,}" for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.validate", description=__doc__.split("\n")[0])
    parser.add_argument("shards", nargs="*", metavar="SHARD_OR_FOLDER")
    parser.add_argument("--format", choices=sorted(FORMATS), help="of the shards named")
    parser.add_argument("--mixture", type=Path, help="validates the shards of its sources instead")
    parser.add_argument("--data", type=Path, help="folder below which the mixture's shards lie")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, a shard each at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to list all that is broken")
    options = parser.parse_args(arguments)
    if bool(options.shards) == bool(options.mixture):
        parser.error("name shards or folders, or --mixture and --data")
    if options.shards and not options.format:
        parser.error("--format says what the shards hold")
    if options.mixture and (options.format or not options.data):
        parser.error("--mixture takes --data, and its formats from the catalogue")
    return options


if __name__ == "__main__":
    sys.exit(main())
