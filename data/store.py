"""Where a run's shards and their indexes are: below the data folder, or elsewhere with a cache and indexes at hand.

A shard below the data folder is named by its path there, one that lies elsewhere by its address. The index of the
latter is `FOLDER/SOURCE/00000.tar.index`, which `python -m data.index` brings there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from data import index
from data.cache import Cache, Wanted
from data.index import Header, Index
from data.remote import expand, is_remote, local_name

_READERS = 16
"""Threads that look at indexes: on a network file system each look waits."""


class Store:
    """Args:
    folder: the data folder.
    cache: keeps shards that lie elsewhere; needed only when there are such.
    """

    def __init__(self, folder: Path, cache: Cache | None = None) -> None:
        self.folder = folder
        self.cache = cache

    def shards(self, pattern: str) -> list[str]:
        """The shards that a catalogue entry names, in order: addresses, or paths below the folder.

        Raises:
            FileNotFoundError: there are none.
            BadIndex: a shard is missing whose index is there.
        """
        if is_remote(pattern):
            found = expand(pattern)
        else:
            found = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
            left = {str(path.relative_to(self.folder)) for path in self.folder.glob(pattern + index.SUFFIX)}
            orphans = sorted(left - {shard + index.SUFFIX for shard in found})
            if orphans:
                raise index.BadIndex(
                    f"{self.folder / orphans[0]} has no shard beside it ({len(orphans)} such): the shard was removed, "
                    "or is not copied yet"
                )
        if not found:
            raise FileNotFoundError(f"nothing matches {pattern if is_remote(pattern) else self.folder / pattern}")
        return found

    def headers(self, source: str, shards: Sequence[str]) -> list[Header]:
        """The headers of the shards' indexes.

        Raises:
            FileNotFoundError: a shard is missing.
            BadIndex: an index is missing, or does not fit its shard.
        """
        with ThreadPoolExecutor(_READERS) as threads:
            return list(threads.map(lambda shard: self._header(source, shard), shards))

    def index(self, source: str, shard: str) -> Index:
        """The index of a shard. Raises as `headers` does."""
        self._header(source, shard)
        return index.load(self._index_path(source, shard))

    def open(self, source: str, shard: str) -> BinaryIO:
        """A shard, for reading.

        Raises:
            FileNotFoundError, RemoteError: there is none, or it could not be fetched.
        """
        if not is_remote(shard):
            return (self.folder / shard).open("rb")
        return self._need_cache(shard).open(self.wanted(source, shard))

    def wanted(self, source: str, shard: str) -> Wanted:
        """A shard that lies elsewhere, for the cache."""
        return Wanted(shard, self._header(source, shard).tar_size)

    def _header(self, source: str, shard: str) -> Header:
        if not is_remote(shard):
            return index.check(self.folder / shard)
        file = self._index_path(source, shard)
        try:
            return index.header(file)
        except index.BadIndex as error:
            raise index.BadIndex(f"{error}; run: python -m data.index '{shard}' --into {file.parent}") from error

    def _index_path(self, source: str, shard: str) -> Path:
        if is_remote(shard):
            return self.folder / source / (local_name(shard) + index.SUFFIX)
        return index.index_path(self.folder / shard)

    def _need_cache(self, shard: str) -> Cache:
        if self.cache is None:
            raise ValueError(f"{shard} lies elsewhere, and there is no cache to keep it in")
        return self.cache
