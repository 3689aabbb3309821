"""What the sources of a mixture give: counted where shards are on disk, otherwise as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from data import tar
from data.formats import BadSample, format_named, unpack
from data.index import BadIndex
from data.loader import BYTES_PER_TOKEN
from data.mixture import Mixture, Source, catalogued, weighted_rows
from data.remote import is_remote
from data.store import Store
from data.tar import BadTar
from yivl.conversation import Conversation
from yivl.prompt import render

_SHARDS, _SAMPLES = 4, 32
"""Most shards of a source that are looked into for the length of samples, and most samples of each."""


class Lengths(NamedTuple):
    """Of a sample, or the mean of several."""

    images: float
    text: float
    """Tokens, beside the images'."""
    supervised: float
    """Tokens."""

    def tokens(self, patches: int) -> float:
        """All of them, where an image takes so many."""
        return self.images * patches + self.text


ASSUMED = {
    "caption": Lengths(images=1, text=48, supervised=32),
    "conversation": Lengths(images=1, text=400, supervised=250),
    "text": Lengths(images=0, text=1000, supervised=1000),
    "completion": Lengths(images=0, text=400, supervised=250),
}
"""By format, for samples that are not on disk. Guesses: LAION's captions are a line; conversations begin with a system
text of about a hundred tokens and ask up to ten questions."""


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """What a source gives."""

    name: str
    available: int
    on_disk: bool
    """Counted from shards; otherwise as published."""
    cap: int | None
    lengths: Lengths
    """Means: estimated from some samples where they are on disk, otherwise `ASSUMED`; of rows their length."""
    weighed: int | None = None
    """Rows that its weight gives it in one epoch."""

    @property
    def taken(self) -> int:
        """Samples in one epoch."""
        if self.weighed is not None:
            return self.weighed
        return self.available if self.cap is None else min(self.available, self.cap)


def planned_sources(mixture: Mixture, store: Store) -> tuple[PlannedSource, ...]:
    """The mixture's sources, in its order.

    Raises:
        BadIndex: a shard on disk has no index, or one that does not fit.
        SettingsError: weights that the sources can't be taken by.
    """
    sources = catalogued(mixture)
    rows = weighted_rows(mixture, sources)
    return tuple(
        replace(_planned(name, source, mixture.cap_of(name), store), weighed=rows.get(name))
        for name, source in sources.items()
    )


def mean_lengths(sources: Sequence[PlannedSource]) -> Lengths:
    """Over all samples that the sources give; over sources where it is not known how many that is."""
    weights = [source.taken for source in sources]
    if not any(weights):
        weights = [1] * len(sources)
    columns = zip(*(source.lengths for source in sources), strict=True)
    return Lengths(
        *(sum(w * value for w, value in zip(weights, column, strict=True)) / sum(weights) for column in columns)
    )


def _planned(name: str, source: Source, cap: int | None, store: Store) -> PlannedSource:
    assumed = Lengths(images=0, text=source.row, supervised=source.row) if source.row else ASSUMED[source.format]
    try:
        shards = store.shards(source.shards)
        available = sum(header.samples for header in store.headers(name, shards))
    except (FileNotFoundError, BadIndex) as error:
        if isinstance(error, BadIndex) and not is_remote(source.shards):
            raise
        return PlannedSource(name, source.pairs, False, cap, assumed)
    known = is_remote(source.shards) or source.row
    lengths = None if known else _estimated(name, source.format, shards, store)
    return PlannedSource(name, available, True, cap, lengths or assumed)


def _estimated(name: str, form: str, shards: Sequence[str], store: Store) -> Lengths | None:
    """The mean of some samples, spread over the source; None when none can be read."""
    found = []
    for shard in shards[:: -(-len(shards) // _SHARDS)]:
        index = store.index(name, shard)
        with store.open(name, shard) as file:
            for sample in range(0, len(index), max(1, len(index) // _SAMPLES)):
                blob = tar.read(file, int(index.offsets[sample]), int(index.sizes[sample]))
                try:
                    content = format_named(form)(unpack(blob, index.key(sample)), name, "")
                except (BadSample, BadTar):
                    continue
                assert isinstance(content, Conversation)  # rows are not estimated
                segments = render(content)
                text = [(len(one.text.encode()) / BYTES_PER_TOKEN, one.learn) for one in segments if not one.image]
                images = sum(one.image for one in segments)
                found.append(Lengths(images, sum(n for n, _ in text), sum(n for n, learn in text if learn)))
    return Lengths(*(sum(column) / len(found) for column in zip(*found, strict=True))) if found else None
