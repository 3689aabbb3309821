"""From a manifest to the micro-batches of each optimiser step.

Step s owns positions [s * global_batch, (s + 1) * global_batch) of the order: exactly `global_batch` samples over all
ranks, whatever their number. Every rank works out who takes which; workers only carry out items of that plan, so their
number never shows. The whole state is the step, and where a batch has grown, the step and position where it did.

A sample that can't be read or encoded is replaced by another of its source, which the order alone determines; it is
reported with its reason. A source of rows that are not for this model at all ends the run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import active_children
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from data import index, tar
from data.cache import Prefetcher
from data.formats import BadSample, format_named, unpack
from data.mixture import taken_samples
from data.order import Order, Place
from data.packing import Batch, micro_batches, spread
from data.parent import end_with_parent
from data.remote import is_remote
from data.row_encoder import RowEncoder, WrongRows
from data.rows import Row
from data.store import Store
from yivl.conversation import Conversation
from yivl.encoder import Encoder, Example, TooLong
from yivl.images import BadImage

Array = np.ndarray[Any, Any]
BYTES_PER_TOKEN = 3
"""To estimate a text's tokens from its bytes (English about 4, Chinese about 2); only balance depends on it."""
_OPEN_SHARDS = 256
"""Shards kept open, with their indexes in memory: about 0.4 MB each for 10,000 samples."""
_MAX_REPLACEMENTS = 20
"""Failures in a row at one position after which the source, not the sample, is at fault."""
_NAMED = 8
"""Samples of a step that a report names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A sample that was replaced."""

    position: int
    source: str
    shard: str
    key: str
    reason: str


class Task(NamedTuple):
    """What a worker is asked to load."""

    position: int
    place: Place


@dataclass(frozen=True, slots=True)
class Item:
    """What was loaded for one position."""

    example: Example | None
    """None when too many replacements failed, or the last showed that its source is not for this model."""
    broken: tuple[Broken, ...]


class BrokenSource(RuntimeError):
    """A source that can't be used: so many of its samples in a row can't be, or one shows that none can; `broken` lists
    them."""

    def __init__(self, broken: tuple[Broken, ...]) -> None:
        last = broken[-1]
        if len(broken) < _MAX_REPLACEMENTS:
            told = f"source {last.source!r} can't be used: {last.reason} (the first is {last.key} in {last.shard})"
        else:
            told = (
                f"{len(broken)} samples of source {last.source!r} in a row can't be used, the last {last.key} in "
                f"{last.shard}: {last.reason}. Is its 'format' in the catalogue the right one?"
            )
        super().__init__(told)
        self.broken = broken


@dataclass(frozen=True, slots=True)
class Step:
    """One rank's part of an optimiser step."""

    number: int
    batches: list[Batch]
    broken: tuple[Broken, ...]
    dropped_turns: int
    """Turns cut from the end of over-long samples."""


@dataclass(slots=True)
class _Opened:
    """A shard in use."""

    index: index.Index
    taken: Array
    """The numbers of its taken samples."""
    file: BinaryIO | None = None
    """Opened, and fetched from elsewhere, only when a sample is read."""


class Samples(Dataset[Item]):
    """Loads single samples of an order; what a worker process runs.

    Args:
        order: says which sample replaces one that can't be used.
        store: where the shards are.
        encoder: turns conversations into examples, and says how long a row may be.
    """

    def __init__(self, order: Order, store: Store, encoder: Encoder) -> None:
        self.order = order
        self.store = store
        self.encoder = encoder
        self._opened: dict[tuple[int, int], _Opened] = {}

    def __getitem__(self, task: Task) -> Item:
        position, place = task
        broken: list[Broken] = []
        while True:
            try:
                return Item(self._read(place), tuple(broken))
            except (BadSample, BadImage, TooLong, WrongRows, tar.BadTar) as error:
                broken.append(self._report(position, place, error))
                if isinstance(error, WrongRows) or len(broken) == _MAX_REPLACEMENTS:
                    return Item(None, tuple(broken))
            place = self.order.replacement(position, len(broken), place)

    def content(self, place: Place) -> Conversation | Row:
        """What lies at a place.

        Raises:
            BadSample: its format can't read it.
            BadTar: its bytes in the shard are damaged.
        """
        source = self.order.manifest.sources[place.source]
        shard, sample = self._locate(place)
        key = shard.index.key(sample)
        if shard.file is None:
            shard.file = self.store.open(source.name, source.shards[place.shard].path)
        blob = tar.read(shard.file, int(shard.index.offsets[sample]), int(shard.index.sizes[sample]))
        try:
            return format_named(source.format)(unpack(blob, key), source.name, key)
        except (BadSample, tar.BadTar):
            raise
        except (ValueError, LookupError, TypeError, RecursionError) as error:  # what no format foresaw ends no run
            raise BadSample(f"{type(error).__name__}: {error}") from error

    def name(self, place: Place) -> str:
        """A sample's source and key; where its shard's index is not open, which would have to be read for the key, the
        shard and which of its taken samples it is."""
        source = self.order.manifest.sources[place.source]
        if opened := self._opened.get((place.source, place.shard)):
            return f"{source.name}/{opened.index.key(int(opened.taken[place.sample]))}"
        return f"{source.name}/{source.shards[place.shard].path}, taken sample {place.sample}"

    def length(self, place: Place) -> int:
        """A sample's tokens: those of a row, otherwise an estimate from the index alone."""
        if row := self.order.manifest.sources[place.source].row:
            return row
        shard, sample = self._locate(place)
        text = int(shard.index.text_bytes[sample]) // BYTES_PER_TOKEN
        return text + int(shard.index.images[sample]) * self.encoder.patches

    def _read(self, place: Place) -> Example:
        content = self.content(place)
        if isinstance(content, Row):
            example = self._rows.encode(content, self.order.manifest.sources[place.source].row)
        else:
            example = self.encoder.encode(content)
        if not example.supervised:
            raise BadSample("no token is supervised")
        return example

    @cached_property
    def _rows(self) -> RowEncoder:
        return RowEncoder(self.encoder)

    def _locate(self, place: Place) -> tuple[_Opened, int]:
        opened = self._opened.pop((place.source, place.shard), None) or self._open(place)
        self._opened[place.source, place.shard] = opened  # at the end: the first is the longest unused
        if len(self._opened) > _OPEN_SHARDS and (file := self._opened.pop(next(iter(self._opened))).file):
            file.close()
        return opened, int(opened.taken[place.sample])

    def _open(self, place: Place) -> _Opened:
        manifest = self.order.manifest
        source = manifest.sources[place.source]
        shard = source.shards[place.shard]
        loaded = self.store.index(source.name, shard.path)
        for opened in self._opened.values():  # what the cache removed takes room as long as it is open
            if opened.file and not os.fstat(opened.file.fileno()).st_nlink:
                opened.file.close()
                opened.file = None
        return _Opened(loaded, taken_samples(manifest, source, shard, loaded))

    def _report(self, position: int, place: Place, error: Exception) -> Broken:
        source = self.order.manifest.sources[place.source]
        shard, sample = self._locate(place)
        return Broken(
            position=position, source=source.name, shard=source.shards[place.shard].path,
            key=shard.index.key(sample), reason=str(error),
        )  # fmt: skip


class Loader:
    """The steps of a run.

    Args:
        samples: loads single positions.
        global_batch: samples of one optimiser step, over all ranks.
        tokens_per_micro_batch: most tokens of a packed row.
        epochs: how often each sample comes.
        rank: of this process.
        ranks: how many there are.
        workers: processes that load; with 0 this one does.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        global_batch: int,
        tokens_per_micro_batch: int,
        epochs: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ) -> None:
        self.samples = samples
        self.global_batch = global_batch
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.rank, self.ranks, self.workers = rank, ranks, workers
        self._shares: dict[int, list[Task]] = {}  # of the steps in hand
        self._named: dict[int, str] = {}  # the samples in them
        cache = samples.store.cache
        self._prefetcher = Prefetcher(cache) if cache else None
        self._samples = samples.order.epoch_samples * epochs
        self._since = self._base = 0  # step and position where the batch became what it is
        if not self.total_steps:
            raise ValueError(
                f"{epochs} epochs of {samples.order.epoch_samples} samples are fewer than one global batch "
                f"of {global_batch}"
            )

    @property
    def total_steps(self) -> int:
        """Of the whole run, if the batch stays as it is."""
        return self._since + (self._samples - self._base) // self.global_batch

    def first(self, number: int) -> int:
        """The position where a step begins, so how many samples come before it."""
        return self._base + (number - self._since) * self.global_batch

    def left(self, number: int) -> int:
        """Samples from where a step begins to the end of the run."""
        return self._samples - self.first(number)

    def regroup(self, number: int, batch: int) -> None:
        """Gives `batch` samples to each step from `number` on; iterators over steps made before are of no use then."""
        self._base, self._since, self.global_batch = self.first(number), number, batch
        self._shares.clear()
        self._named.clear()
        if self._prefetcher:
            self._prefetcher.finish()

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"step": self._since, "position": self._base, "batch": self.global_batch}

    def load_state(self, state: Mapping[str, int]) -> None:
        """From a checkpoint."""
        self._since, self._base, self.global_batch = state["step"], state["position"], state["batch"]

    def steps(self, start: int = 0) -> Generator[Step, None, None]:
        """The steps from `start` on, as many as there are."""
        shares = self._shares

        def share(number: int) -> list[Task]:
            if number not in shares:
                shares[number] = self.tasks(number)
                self._named[number] = "; ".join(self.samples.name(place) for _, place in shares[number][:_NAMED])
            return shares[number]

        tasks = (task for number in range(start, self.total_steps) for task in share(number))

        options: dict[str, Any] = {"batch_size": None, "collate_fn": _unchanged}
        if self.workers:
            options |= {"num_workers": self.workers, "prefetch_factor": 64, "worker_init_fn": _deaf}
        others = active_children()
        items: Iterator[Item] = iter(DataLoader(self.samples, sampler=tasks, **options))
        workers = [process for process in active_children() if process not in others]
        try:
            for number in range(start, self.total_steps):
                self._fetch_ahead(number)  # not before the workers were forked: it starts threads
                yield self._step(number, [next(items) for _ in share(number)])
                del shares[number], self._named[number]
        finally:
            del items  # asks the workers to end; one that waits for a shard from elsewhere would not
            for process in workers:
                process.kill()

    def tasks(self, number: int) -> list[Task]:
        """What this rank loads for a step."""
        first = self.first(number)
        places = self.samples.order.places(first, self.global_batch)
        share: Sequence[int] = range(len(places))
        if self.ranks > 1:
            share = spread([self.samples.length(place) for place in places], self.ranks)[self.rank]
        return [Task(first + sample, places[sample]) for sample in share]

    def describe(self, number: int) -> str:
        """Tells which samples this rank loads for a step in hand; reads nothing, so that another thread may ask."""
        more = len(self._shares.get(number, ())) - _NAMED
        return self._named.get(number, "") + (f"; and {more} more" if more > 0 else "")

    def _fetch_ahead(self, number: int) -> None:
        if self._prefetcher is None:
            return
        sources = self.samples.order.manifest.sources
        ahead = self.samples.order.shards_from(self.first(number))
        named = [(sources[source].name, sources[source].shards[shard].path) for source, shard in ahead]
        wanted = [self.samples.store.wanted(*one) for one in dict.fromkeys(named) if is_remote(one[1])]
        self._prefetcher.want(wanted)

    def _step(self, number: int, items: Sequence[Item]) -> Step:
        examples = []
        for item in items:
            if item.example is None:
                raise BrokenSource(item.broken)
            examples.append(item.example)
        return Step(
            number,
            micro_batches(examples, self.tokens_per_micro_batch),
            tuple(broken for item in items for broken in item.broken),
            sum(example.dropped_turns for example in examples),
        )


class HeadroomLoader(Loader):
    """Gives the samples of its first step as every step: loading costs nothing, so the run shows what data costs."""

    def steps(self, start: int = 0) -> Generator[Step, None, None]:
        """As many steps as `Loader` gives, all with the same batches."""
        if start >= self.total_steps:
            return
        first = next(super().steps(start))
        for number in range(start, self.total_steps):
            yield replace(first, number=number, broken=first.broken if number == start else ())


def _unchanged(item: Item) -> Item:
    """Keeps numpy arrays as they are: a tensor that crosses processes would hold a file descriptor each."""
    return item


def _deaf(worker: int) -> None:
    """A scheduler signals the whole process group; it is the trainer that ends the run, and its workers with it. A
    trainer that was killed takes its workers along: they hold its lock on the run folder."""
    end_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
