"""Turns a public data set, as downloaded, into shards.

    python -m data.prepare NAME RAW OUT [key=value …]

NAME is a converter, a module in `data/sources/`: a data set of the paper; `llava`, `jsonl`, `folder` or `parquet` for
data of one's own; or `documents`, which makes rows of tokens of them. RAW is the folder that its publishers' archives
unpack into. OUT gets `00000.tar`, … with their indexes; every image is decoded once to see that it can be. Data that
comes as shards (LAION-400M) stays where it is: OUT gets links and indexes.

The records are cut into jobs of a shard each, so a shard depends on nothing but its number: however many processes
write, and however often they are killed, the same command goes on and ends with the same shards, byte for byte.
`OUT/prepare.jsonl` says of each shard what was read and written, and of each record left out why.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import multiprocessing
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import quote

import torch
from tqdm import tqdm

from data import index, sources
from data.journal import JOURNAL, Journal, NotPrepared, Report, describe, shard_path
from data.raw import BadRaw
from data.record import Record, Skipped
from data.shards import conversation_sample, write_shard
from data.tar import BadTar
from yivl.conversation import Conversation
from yivl.fast_images import fast_pixels
from yivl.images import BadImage, opened

PER_SHARD = 5000
"""Records of a shard: some 500 MB of photos."""
_PROBE_SIDE = 28
"""Pixels of the square that an image is turned into to see that it can be."""
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


class Job(Protocol):
    """What becomes one shard; it crosses process borders."""

    @property
    def number(self) -> int:
        """Of the shard."""

    @property
    def stamp(self) -> str:
        """Tells whether the raw files are still the same."""

    def write(self, out: Path, count: Callable[[int], None]) -> Report:
        """Writes the shard, and tells `count` of so many more entries read; none when nothing can be used."""


@dataclass(frozen=True, slots=True)
class RecordJob:
    """The records of one shard."""

    number: int
    records: tuple[Record | Skipped, ...]

    @property
    def stamp(self) -> str:
        """Tells whether the raw files are still the same."""
        return f"{len(self.records)} records, {self.records[0].key} to {self.records[-1].key}"

    def write(self, out: Path, count: Callable[[int], None]) -> Report:
        """Writes the shard of the records that can be used."""
        skipped: list[tuple[str, str, str]] = []
        written: set[str] = set()

        def samples() -> Iterator[Mapping[str, Any]]:
            for record in self.records:
                try:
                    sample = _sample(record)
                    if sample["__key__"] in written:
                        raise _Skip("key comes twice", "")
                    written.add(sample["__key__"])
                    yield sample
                except _Skip as skip:
                    skipped.append((record.key, skip.reason, skip.particulars))
                count(1)

        write_shard(shard_path(out, self.number), samples())
        return Report(
            shard=self.number, stamp=self.stamp, read=len(self.records), written=len(written), skipped=tuple(skipped)
        )


def converter(name: str) -> ModuleType:
    """The converter of that name; `NotPrepared` lists those there are."""
    known = sorted(module.name for module in pkgutil.iter_modules(sources.__path__))
    if name not in known:
        raise NotPrepared(f"no converter {name!r}; there are {', '.join(known)}")
    return importlib.import_module(f"{sources.__name__}.{name}")


def prepare(
    name: str, raw: Path, out: Path, settings: Mapping[str, str] | None = None, *, per_shard: int | None = None,
    workers: int = 1,
) -> list[Report]:  # fmt: skip
    """Writes the shards of a data set, or goes on doing so.

    Args:
        name: of the converter.
        raw: folder of the publishers' files; of documents also one file.
        out: folder of the shards.
        settings: of the converter.
        per_shard: records of a shard, by default `PER_SHARD`; documents are not counted out so.
        workers: processes that read images and write shards.

    Raises:
        NotPrepared: no such converter or setting, or `out` holds something else.
        BadRaw: the raw files are not as they should be.
        OSError: of this machine, such as a full disk; what is written stays, and the same call goes on.
    """
    module = converter(name)
    chosen = _checked(module, name, settings or {})
    cuts_itself = hasattr(module, "jobs")
    if not raw.is_dir() and not (cuts_itself and raw.is_file()):
        raise NotPrepared(f"no folder {raw}")
    if cuts_itself and per_shard is not None:
        raise NotPrepared(f"--per-shard counts records, which {name} does not make; its settings say what a shard is")
    if cuts_itself and out.resolve().is_relative_to(raw.resolve()):
        raise NotPrepared(f"{out} lies in {raw}, whose files are the documents; write the shards elsewhere")
    per_shard = per_shard or PER_SHARD
    jobs = module.jobs(raw, **chosen) if cuts_itself else None
    out.mkdir(parents=True, exist_ok=True)
    head = {"source": name, "raw": str(raw.resolve()), "settings": chosen, "per_shard": per_shard}
    with Journal(out, head) as journal:
        if hasattr(module, "shards"):
            return _link(module.shards(raw), raw, journal, workers)
        for left in out.glob(".[0-9]*.tar.*"):
            left.unlink(missing_ok=True)  # by workers that were killed
        whole = journal.complete and all(journal.has(one.shard, one.stamp) for one in journal.reports.values())
        if not whole:
            _run(jobs or _jobs(module.records(raw, **chosen), per_shard), journal, out, workers)
            journal.add(None)
        return [journal.reports[number] for number in sorted(journal.reports)]


def _checked(module: ModuleType, name: str, settings: Mapping[str, str]) -> dict[str, str]:
    reader = next(getattr(module, one) for one in ("jobs", "shards", "records") if hasattr(module, one))
    taken = [p for p in inspect.signature(reader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in taken]
    if unknown := [key for key in settings if key not in names]:
        raise NotPrepared(f"{name} has no setting {unknown[0]!r}; it has {', '.join(names) or 'none'}")
    if missing := [p.name for p in taken if p.default is p.empty and p.name not in settings]:
        raise NotPrepared(f"{name} needs {' and '.join(f'{key}=' for key in missing)}")
    return dict(settings)


def _jobs(records: Iterator[Record | Skipped], per_shard: int) -> Iterator[RecordJob]:
    for number in range(sys.maxsize):
        if not (chunk := tuple(islice(records, per_shard))):
            return
        yield RecordJob(number, chunk)


def _run(jobs: Iterable[Job], journal: Journal, out: Path, workers: int) -> None:
    """Does the jobs that are not done, a few at a time, so that no more than a few wait in memory."""
    seen = multiprocessing.Value("q", 0)
    with (
        ProcessPoolExecutor(workers, initializer=_begin, initargs=(seen,)) as pool,
        tqdm(unit=" records", smoothing=0.05) as progress,
    ):
        running: set[Future[Report]] = set()

        def collect(most: int) -> None:
            while len(running) > most:
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                progress.update(seen.value - progress.n)
                for future in done:
                    running.remove(future)
                    journal.add(future.result())

        try:
            for job in jobs:
                if journal.has(job.number, job.stamp):
                    continue
                running.add(pool.submit(write_job, job, out))
                collect(2 * workers - 1)
            collect(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _link(shards: Sequence[Path], raw: Path, journal: Journal, workers: int) -> list[Report]:
    """Links shards into the journal's folder and indexes them there; one that is damaged is left out. What is linked
    and indexed already is only looked at, so shards may be added from time to time; what is new is written down."""
    reports = []
    with ProcessPoolExecutor(workers, initializer=_begin) as pool:
        linked = pool.map(partial(_link_one, raw=raw, out=journal.out), enumerate(shards))
        for report in tqdm(linked, total=len(shards), unit=" shards"):
            if journal.reports.get(report.shard) != report:
                journal.add(report)
            reports.append(report)
    return reports


def _link_one(numbered: tuple[int, Path], raw: Path, out: Path) -> Report:
    number, shard = numbered
    link = out / "-".join(shard.relative_to(raw).parts)
    skipped: tuple[tuple[str, str, str], ...] = ()
    if not link.is_symlink() or link.resolve() != shard.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(shard.resolve())
    try:
        samples = index.check(link).samples
    except index.BadIndex:
        try:
            samples = index.header(index.write(link)).samples
        except BadTar as error:
            link.unlink()
            index.index_path(link).unlink(missing_ok=True)
            samples, skipped = 0, ((shard.name, "shard can't be indexed", str(error)),)
    return Report(shard=number, stamp=str(shard), read=samples, written=samples, skipped=skipped)


_seen: Any = None
"""Counts the records that all workers of this process's pool have read."""


def _begin(seen: Any = None) -> None:
    """Sets up a worker, which ends when the process that began it is gone."""
    global _seen  # a pool's initializer has no other way to reach its tasks
    _seen = seen
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or each worker would take all cores

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            wait_for([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_job(job: Job, out: Path) -> Report:
    """Writes the shard of a job."""
    return job.write(out, _count)


def _count(records: int) -> None:
    if _seen is not None:
        with _seen.get_lock():
            _seen.value += records


class _Skip(Exception):
    """A record to be left out."""

    def __init__(self, reason: str, particulars: str) -> None:
        super().__init__(reason)
        self.reason, self.particulars = reason, particulars


def _sample(record: Record | Skipped) -> dict[str, Any]:
    if isinstance(record, Skipped):
        raise _Skip(record.reason, "")
    if not all(turn.text.strip() or turn.images for turn in record.turns):
        raise _Skip("empty text", "")
    try:
        "".join(turn.text for turn in record.turns).encode()
    except UnicodeEncodeError as error:  # JSON can express half of a pair of surrogates
        raise _Skip("text is not Unicode", str(error)) from error
    images, extensions = [], []
    for place in record.images:
        try:
            image = place.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            raise _Skip("image file can't be read", str(error)) from error
        images.append(image)
        extensions.append(_extension(image))
    # in a tar, a dot would end the key, and a slash would make folders
    key = quote(record.key, safe="", errors="surrogatepass").replace(".", "%2E")
    try:
        whole = Conversation(turns=record.turns, images=tuple(images), key=key)
    except ValueError as error:
        raise _Skip("turns or images don't fit together", str(error)) from error
    return conversation_sample(whole, extensions)


def _extension(image: bytes) -> str:
    """The extension for an image that can be decoded."""
    try:
        with opened(image) as picture:
            extension = _EXTENSIONS[str(picture.format)]
        fast_pixels(image, _PROBE_SIDE)
    except BadImage as error:
        raise _Skip("image can't be decoded", str(error)) from error
    return extension


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="converter: a module in data/sources/")
    parser.add_argument("raw", type=Path, help="folder that the publishers' archives unpack into")
    parser.add_argument("out", type=Path, help="folder of the shards")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the converter")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--per-shard", type=int, help=f"records of a shard; by default {PER_SHARD:,}")
    options = parser.parse_args(arguments)
    try:
        if wrong := [setting for setting in options.settings if "=" not in setting]:
            raise NotPrepared(f"{wrong[0]!r} is not key=value")
        settings = dict(setting.split("=", 1) for setting in options.settings)
        reports = prepare(
            options.name, options.raw, options.out, settings, per_shard=options.per_shard, workers=options.workers
        )
    except BrokenProcessPool:
        print("error: a worker was killed, perhaps for want of memory; the same command goes on", file=sys.stderr)
        return 1
    except (NotPrepared, BadRaw, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on in {options.out}", file=sys.stderr)
        return 130
    print(describe(reports))
    print(f"{options.out}; {options.out / JOURNAL} says why each was skipped")
    return 0 if any(report.written for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
