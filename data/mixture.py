"""Which samples a run trains on: a mixture file, resolved once into a manifest.

A mixture names sources of the catalogue (`configs/sources.yaml`) and caps what each may give. The manifest says, for
each source, how many samples there were, how many are taken in all and of each shard. Which ones: of each shard those
with the smallest hashes of (seed, source, shard, key). So the choice depends on nothing else: not on ranks, workers or
other sources. It needs the shards' counts alone, and it is saved with the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data import index
from data.formats import format_named
from data.store import Store
from yivl import settings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An entry of the catalogue."""

    shards: str
    """Glob of the shards below the data folder, such as `gqa/*.tar`, or an address (`data.remote`), such as
    `s3://bucket/gqa/{00000..00099}.tar`."""
    format: str
    """One of `data.formats.FORMATS`."""
    pairs: int = 0
    """Samples that the published files make, for planning before the data is there; 0 if unknown."""
    about: str = ""
    """What it is and where its numbers come from."""

    def __post_init__(self) -> None:
        format_named(self.format)
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

    def __post_init__(self) -> None:
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap}; at least 1, or leave the source out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """A mixture file."""

    catalogue: Path
    """The file of sources."""
    sources: dict[str, Share]
    cap: int | None = None
    """At most this many samples of any one source, unless the source has a cap of its own."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mixture needs at least one source")
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap}; at least 1")

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
    shards: tuple[Shard, ...]


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
    """
    return Manifest(
        seed=seed,
        sources=tuple(
            _choose(name, source, store, mixture.cap_of(name), seed) for name, source in catalogued(mixture).items()
        ),
    )


def _choose(name: str, source: Source, store: Store, cap: int | None, seed: int) -> Chosen:
    try:
        paths = store.shards(source.shards)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"source {name!r} has no shards: {error}") from error
    headers = store.headers(name, paths)
    counts = [header.samples for header in headers]
    available = sum(counts)
    taken = min(available, available if cap is None else cap)
    shares = quotas(counts, taken, _seeded(seed, name))
    return Chosen(
        name=name, format=source.format, available=available, cap=cap, taken=taken,
        shards=tuple(
            Shard(path=path, samples=header.samples, taken=share, digest=header.digest)
            for path, header, share in zip(paths, headers, shares, strict=True)
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


def describe(manifest: Manifest) -> str:
    """The manifest as a table."""
    lines = [f"{'source':24} {'available':>12} {'cap':>12} {'taken':>12}"]
    for one in manifest.sources:
        cap = "-" if one.cap is None else f"{one.cap:,}"
        lines.append(f"{one.name:24} {one.available:>12,} {cap:>12} {one.taken:>12,}")
    lines.append(f"{'together':24} {'':>12} {'':>12} {manifest.taken:>12,}")
    return "\n".join(lines)
