"""Which samples a run trains on: a mixture file, resolved once into a manifest.

A mixture names sources of the catalogue (`configs/sources.yaml`) and caps what each may give. The manifest says, for
each source, how many samples there were, how many were taken, and which: those whose hash (of the seed, the source, the
shard's path and the sample's key) lies below a threshold. So the choice depends on nothing else: not on ranks, workers,
other sources or the order of shards. It is saved with the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import index
from data.formats import format_named
from yivl import settings

Array = np.ndarray[Any, Any]
_ALL = 2**64
"""The threshold below which every hash lies."""
_MAX_SALTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An entry of the catalogue."""

    shards: str
    """Glob of the shards below the data folder, such as `gqa/*.tar`."""
    format: str
    """One of `data.formats.FORMATS`."""
    pairs: int = 0
    """Image-text pairs as published, for planning before the data is there; 0 if unknown."""
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
    """Below the data folder."""
    samples: int
    taken: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What a manifest takes of one source."""

    name: str
    format: str
    available: int
    cap: int | None
    taken: int
    salt: int
    """Counts the re-drawings of hashes that a tie at the threshold made necessary: 0 but for odds of 1 in 10^4."""
    threshold: int
    """Samples whose hash is below it are taken."""
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


def resolve(mixture: Mixture, folder: Path, seed: int) -> Manifest:
    """Chooses the samples of a run.

    Args:
        mixture: the mixture.
        folder: the data folder, below which the sources' shards lie.
        seed: of the choice.

    Raises:
        FileNotFoundError: a source has no shards there.
        BadIndex: a shard has no index, or one that does not fit.
    """
    sources = []
    for name, source in catalogued(mixture).items():
        shards = sorted(folder.glob(source.shards))
        if not shards:
            raise FileNotFoundError(f"source {name!r} has no shards: nothing matches {folder / source.shards}")
        sources.append(_choose(name, source.format, shards, folder, mixture.cap_of(name), seed))
    return Manifest(seed=seed, sources=tuple(sources))


def _choose(name: str, form: str, shards: Sequence[Path], folder: Path, cap: int | None, seed: int) -> Chosen:
    paths = [shard.relative_to(folder).as_posix() for shard in shards]
    keys = [index.load(shard).hashes for shard in shards]  # 8 bytes a sample; the rest of an index is not kept
    available = sum(map(len, keys))
    salt, threshold = 0, _ALL
    if cap is not None and cap < available:
        for salt in range(_MAX_SALTS):
            hashes = np.concatenate([_hashes(of, seed, name, path, salt) for of, path in zip(keys, paths, strict=True)])
            hashes.partition((cap - 1, cap))
            threshold = int(hashes[cap])
            if hashes[cap - 1] < hashes[cap]:
                break
        else:
            raise ValueError(
                f"source {name!r}: the keys of its samples are not distinct enough to choose {cap} of them"
            )
    chosen = [
        Shard(path=path, samples=len(of), taken=len(_below(of, seed, name, path, salt, threshold)))
        for path, of in zip(paths, keys, strict=True)
    ]
    return Chosen(
        name=name, format=form, available=available, cap=cap, taken=sum(shard.taken for shard in chosen),
        salt=salt, threshold=threshold, shards=tuple(chosen),
    )  # fmt: skip


def taken_samples(manifest: Manifest, source: Chosen, shard: Shard, of: index.Index) -> Array:
    """int64 numbers, within the shard, of the samples that the manifest takes.

    Raises:
        BadIndex: the shard does not hold what the manifest counted.
    """
    samples = _below(of.hashes, manifest.seed, source.name, shard.path, source.salt, source.threshold)
    if len(of) != shard.samples or len(samples) != shard.taken:
        raise index.BadIndex(
            f"{shard.path} has {len(of)} samples, of which {len(samples)} are chosen; the run's manifest says "
            f"{shard.samples} and {shard.taken}. The shard was changed after the run began"
        )
    return samples


def _below(keys: Array, seed: int, source: str, path: str, salt: int, threshold: int) -> Array:
    if threshold == _ALL:
        return np.arange(len(keys))
    return np.flatnonzero(_hashes(keys, seed, source, path, salt) < np.uint64(threshold))


def _hashes(keys: Array, seed: int, source: str, path: str, salt: int) -> Array:
    """uint64 hashes of samples, from those of their keys (splitmix64's finaliser)."""
    base = hashlib.blake2b(json.dumps([seed, source, path, salt]).encode(), digest_size=8).digest()
    mixed = keys ^ np.uint64(int.from_bytes(base, "little"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    hashed: Array = mixed ^ (mixed >> np.uint64(31))
    return hashed


def describe(manifest: Manifest) -> str:
    """The manifest as a table."""
    lines = [f"{'source':24} {'available':>12} {'cap':>12} {'taken':>12}"]
    for one in manifest.sources:
        cap = "-" if one.cap is None else f"{one.cap:,}"
        lines.append(f"{one.name:24} {one.available:>12,} {cap:>12} {one.taken:>12,}")
    lines.append(f"{'together':24} {'':>12} {'':>12} {manifest.taken:>12,}")
    return "\n".join(lines)
