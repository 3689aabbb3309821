"""Which samples a run trains on: a mixture file, resolved once into a manifest.

A mixture names sources of the catalogue (`configs/sources.yaml`) and caps what each may give; or, of sources of rows
(`data.rows`), says how many tokens an epoch has and weighs the sources, which then give their share of the tokens, over
and over where they hold fewer. The manifest says, for each source, how many samples there were, how many are taken in
all and of each shard. Which ones: of each shard those with the smallest hashes of (seed, source, shard, key). So the
choice depends on nothing else: not on ranks, workers or, without weights, other sources. It needs the shards' counts
alone, and it is saved with the run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data import index
from data.formats import format_named
from data.rows import FORMAT
from data.store import Store
from yivl import settings

Array = np.ndarray[Any, Any]
_MOST_REPEATS = 1000
"""Of a source in an epoch; a weight that asks for more is taken for a mistake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An entry of the catalogue."""

    shards: str
    """Glob of the shards below the data folder, such as `gqa/*.tar`, or an address (`data.remote`), such as
    `s3://bucket/gqa/{00000..00099}.tar`."""
    format: str
    """One of `data.formats.FORMATS`."""
    row: int = 0
    """Tokens of each sample of the format `tokens`, as they were prepared; other formats have none."""
    pairs: int = 0
    """Samples that the published files make, for planning before the data is there; 0 if unknown."""
    about: str = ""
    """What it is and where its numbers come from."""

    def __post_init__(self) -> None:
        format_named(self.format)
        if self.format == FORMAT and self.row < 2:
            raise ValueError(f"row is {self.row}; the format {FORMAT!r} needs the tokens of a row, as it was prepared")
        if self.format != FORMAT and self.row:
            raise ValueError(f"row is {self.row}, but only samples of the format {FORMAT!r} have equally many tokens")
        if Path(self.shards).is_absolute():
            raise ValueError(f"shards is {self.shards!r}; it is relative to the stage's 'data' folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All sources there are."""

    sources: dict[str, Source]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a mixture takes of a source."""

    cap: int | None = None
    """At most this many samples; by default the mixture's cap."""
    weight: float | None = None
    """Its share of the mixture's `tokens`, in proportion to the other sources' weights."""

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap}; at least 1, or leave the source out")
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}; above 0, or leave the source out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """A mixture file."""

    catalogue: Path
    """The file of sources."""
    sources: dict[str, Share]
    cap: int | None = None
    """At most this many samples of any one source, unless the source has a cap of its own."""
    tokens: int | None = None
    """Tokens of an epoch, which the sources share by their weights; needs a weight for every source."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mixture needs at least one source")
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap}; at least 1")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}; at least 1")
        unweighted = [name for name, share in self.sources.items() if share.weight is None]
        if (self.tokens is None) != (len(unweighted) == len(self.sources)):
            raise ValueError("weights and 'tokens', which they are shares of, need each other")
        if self.tokens is not None and unweighted:
            raise ValueError(f"{', '.join(unweighted)}: no weight; every source has one, or none has")
        if self.tokens is not None and any(self.cap_of(name) for name in self.sources):
            raise ValueError("weights and caps exclude each other: a weight says how many samples a source gives")

    def cap_of(self, name: str) -> int | None:
        """The cap that holds for a source."""
        own = self.sources[name].cap
        return self.cap if own is None else own


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A shard in a manifest."""

    path: str
    """Below the data folder; or its address."""
    samples: int
    taken: int
    digest: str
    """Of its samples, from its index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What a manifest takes of one source."""

    name: str
    format: str
    available: int
    cap: int | None
    taken: int
    row: int = 0
    """Tokens of each sample, where all have equally many."""
    shards: tuple[Shard, ...]
    """In order; several times over where more samples are taken than there are."""

    @property
    def tokens(self) -> int:
        """Tokens in one epoch; 0 where the samples' are not equally many."""
        return self.taken * self.row


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The resolved mixture of a run."""

    seed: int
    sources: tuple[Chosen, ...]

    @property
    def taken(self) -> int:
        """Samples in one epoch."""
        return sum(source.taken for source in self.sources)

    def fingerprint(self) -> str:
        """Changes with any change of the choice."""
        return hashlib.sha256(json.dumps(settings.plain(self), sort_keys=True).encode()).hexdigest()

    def save(self, file: Path) -> None:
        """Writes it as JSON."""
        file.write_text(json.dumps(settings.plain(self), indent=1) + "\n", encoding="utf-8")


def load_manifest(file: Path) -> Manifest:
    """Reads a saved manifest."""
    return settings.parse(Manifest, json.loads(file.read_text(encoding="utf-8")), str(file))


def catalogued(mixture: Mixture) -> Mapping[str, Source]:
    """The catalogue entries of a mixture's sources.

    Raises:
        SettingsError: a source is not in the catalogue.
    """
    known = settings.read(Catalogue, mixture.catalogue).sources
    unknown = [name for name in mixture.sources if name not in known]
    if unknown:
        raise settings.SettingsError(f"{mixture.catalogue} has no source {unknown}; it has {', '.join(known)}")
    return {name: known[name] for name in mixture.sources}


def resolve(mixture: Mixture, store: Store, seed: int) -> Manifest:
    """Chooses the samples of a run.

    Args:
        mixture: the mixture.
        store: where the sources' shards are.
        seed: of the choice.

    Raises:
        FileNotFoundError: a source has no shards there, or one is missing.
        BadIndex: a shard has no index, or one that does not fit.
        SettingsError: weights that the sources can't be taken by.
    """
    sources = catalogued(mixture)
    rows = weighted_rows(mixture, sources)
    return Manifest(
        seed=seed,
        sources=tuple(
            _choose(name, source, store, mixture.cap_of(name), rows.get(name), seed) for name, source in sources.items()
        ),
    )


def weighted_rows(mixture: Mixture, sources: Mapping[str, Source]) -> dict[str, int]:
    """How many rows each source gives by its weight: its share of the mixture's tokens, to the nearest row. Empty for a
    mixture without weights.

    Args:
        mixture: the mixture.
        sources: their entries in the catalogue.

    Raises:
        SettingsError: a source's samples are not rows, or its share is less than half a row.
    """
    if mixture.tokens is None:
        return {}
    if others := [name for name, source in sources.items() if not source.row]:
        raise settings.SettingsError(
            f"{', '.join(others)}: weights are of tokens, and only sources of the format {FORMAT!r} tell theirs"
        )
    weights = {name: share.weight or 0.0 for name, share in mixture.sources.items()}
    total = math.fsum(weights.values())
    rows = {name: round(mixture.tokens * weights[name] / total / source.row) for name, source in sources.items()}
    if nothing := [name for name, count in rows.items() if not count]:
        raise settings.SettingsError(
            f"{', '.join(nothing)}: not one row of {mixture.tokens:,} tokens; raise tokens or the weight"
        )
    return rows


def _choose(name: str, source: Source, store: Store, cap: int | None, rows: int | None, seed: int) -> Chosen:
    """What is taken of a source: `rows`, or without that all that the cap allows."""
    try:
        paths = store.shards(source.shards)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"source {name!r} has no shards: {error}") from error
    headers = store.headers(name, paths)
    counts = [header.samples for header in headers]
    available = sum(counts)
    taken = min(available, available if cap is None else cap) if rows is None else rows
    if taken > _MOST_REPEATS * available:
        raise settings.SettingsError(
            f"source {name!r}: its weight asks for {taken:,} rows, but its shards hold {available:,}; an epoch repeats "
            f"a source {_MOST_REPEATS:,} times at most"
        )
    whole, rest = divmod(taken, max(available, 1))
    shares = [counts] * whole
    if rest or not whole:
        shares.append(quotas(counts, rest, _seeded(seed, name)))
    return Chosen(
        name=name, format=source.format, available=available, cap=cap, taken=taken, row=source.row,
        shards=tuple(
            Shard(path=path, samples=header.samples, taken=share, digest=header.digest)
            for given in shares
            for path, header, share in zip(paths, headers, given, strict=True)
        ),
    )  # fmt: skip


def quotas(counts: Sequence[int], taken: int, draw: int) -> list[int]:
    """How many samples each shard gives, so that together they give `taken`: systematic sampling.

    Every shard gives its share, rounded up or down; over all values of `draw` each sample is taken equally often.

    Args:
        counts: samples of the shards, in order.
        taken: at most their sum.
        draw: a random number.
    """
    available = sum(counts)
    passed = [0]
    for count in counts:
        passed.append(passed[-1] + count)
    marks = [(before * taken + draw % max(available, 1)) // max(available, 1) for before in passed]
    return [after - before for before, after in pairwise(marks)]


def taken_samples(manifest: Manifest, source: Chosen, shard: Shard, of: index.Index) -> Array:
    """int64 numbers, within the shard, of the samples that the manifest takes, ascending.

    Raises:
        BadIndex: the shard does not hold the samples that the manifest counted.
    """
    if of.digest != shard.digest:
        raise index.BadIndex(
            f"{shard.path} does not hold the {shard.samples} samples of the run's manifest: it was changed after "
            "the run began"
        )
    if shard.taken == shard.samples:
        return np.arange(shard.samples)
    hashes = _mixed(of.hashes ^ np.uint64(_seeded(manifest.seed, source.name, shard.path)))
    return np.sort(np.argsort(hashes, kind="stable")[: shard.taken])


def _seeded(seed: int, *names: str) -> int:
    """64 random bits for a name under a seed."""
    return int.from_bytes(hashlib.blake2b(json.dumps([seed, *names]).encode(), digest_size=8).digest(), "little")


def _mixed(values: Array) -> Array:
    """uint64 to uint64, each to one of its own and well spread (splitmix64's finaliser)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


def counts(manifest: Manifest) -> list[tuple[str, ...]]:
    """The manifest as cells: a head, a line for each source, and all together. Where there are rows, their tokens, the
    share of each source in them, and how often an epoch takes its rows."""
    tokens = sum(one.tokens for one in manifest.sources)
    lines: list[tuple[str, ...]] = [("source", "available", "cap", "taken")]
    for one in manifest.sources:
        cap = "–" if one.cap is None else f"{one.cap:,}"
        lines.append((one.name, f"{one.available:,}", cap, f"{one.taken:,}"))
    lines.append(("together", "", "", f"{manifest.taken:,}"))
    if not tokens:
        return lines
    of_rows = [("tokens", "share", "times")]
    for one in manifest.sources:
        told = (f"{one.tokens:,}", f"{one.tokens / tokens:.1%}", f"{one.taken / max(one.available, 1):.2f}")
        of_rows.append(told if one.row else ("–", "–", "–"))
    of_rows.append((f"{tokens:,}", "", ""))
    return [line + more for line, more in zip(lines, of_rows, strict=True)]


def describe(manifest: Manifest) -> str:
    """The manifest as a table."""
    widths = [24, 12, 12, 12, 18, 6, 8]
    return "\n".join(
        " ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in counts(manifest)
    )
