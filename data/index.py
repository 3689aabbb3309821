"""The index beside a shard: which samples it holds, and where.

    python -m data.index FOLDER_OR_TAR …        makes or renews the indexes of shards that lack a good one

`00000.tar` has `00000.tar.index.npz`. A sample is a run of members with one key (webdataset's grouping: the name up to
the first dot of its last part); its extensions are the rest of the names.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data.tar import BadTar, members

SUFFIX = ".index.npz"
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("txt", "json")
_VERSION = 1

Array = np.ndarray[Any, Any]


class BadIndex(ValueError):
    """An index that is missing, older than its shard, or does not fit it."""


@dataclass(frozen=True, slots=True)
class Index:
    """The samples of one shard, as arrays of equal length."""

    keys: Array  # S [n], utf-8
    hashes: Array  # uint64 [n], of the keys
    offsets: Array  # uint64 [n], of the sample's first header
    sizes: Array  # uint32 [n], bytes from there to the end of its last member
    text_bytes: Array  # uint32 [n], of its txt and json members: an estimate of its text's length
    images: Array  # uint16 [n], how many image members

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, sample: int) -> str:
        """The key of one sample."""
        return bytes(self.keys[sample]).decode("utf-8", errors="replace")


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_name(shard.name + SUFFIX)


def split_name(name: str) -> tuple[str, str]:
    """A member's name as key and lower-case extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def build(shard: Path) -> Index:
    """Reads the headers of a shard.

    Raises:
        FileNotFoundError: no such shard.
        BadTar: it is damaged or cut off, or a key comes twice.
    """
    if not shard.is_file():
        raise FileNotFoundError(f"no shard {shard}")
    rows: list[tuple[bytes, int, int, int, int]] = []  # key, offset, end, text bytes, images
    with shard.open("rb") as file:
        for member in members(file, str(shard)):
            key, extension = split_name(member.name)
            encoded = key.encode()
            if not rows or rows[-1][0] != encoded:
                rows.append((encoded, member.start, 0, 0, 0))
            _, start, _, text, images = rows[-1]
            text += member.size if extension in TEXTS else 0
            rows[-1] = (encoded, start, member.end, text, images + (extension in IMAGES))
    keys = [row[0] for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadTar(f"{shard}: the key {twice.decode()!r} comes twice, not in one run")
    hashes = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys]
    columns = np.array([row[1:] for row in rows], dtype=np.uint64).reshape(-1, 4)
    return Index(
        keys=np.array(keys, dtype=np.bytes_),
        hashes=np.array(hashes, dtype=np.uint64),
        offsets=columns[:, 0],
        sizes=(columns[:, 1] - columns[:, 0]).astype(np.uint32),
        text_bytes=columns[:, 2].astype(np.uint32),
        images=columns[:, 3].astype(np.uint16),
    )


def write(shard: Path) -> Path:
    """Builds the index of a shard and puts it beside it, atomically; returns its path. Raises as `build` does."""
    index = build(shard)
    target = index_path(shard)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(
            file, version=_VERSION, tar_size=shard.stat().st_size, **{f.name: getattr(index, f.name) for f in _COLUMNS}
        )
        file.flush()
        os.fsync(file.fileno())
    stamp = max(temporary.stat().st_mtime_ns, shard.stat().st_mtime_ns)  # a shard may come from a clock ahead of ours
    os.utime(temporary, ns=(stamp, stamp))
    temporary.replace(target)
    return target


_COLUMNS = fields(Index)


def load(shard: Path) -> Index:
    """The index beside a shard.

    Raises:
        FileNotFoundError: the shard is missing.
        BadIndex: the index is missing, older than the shard, or made for one of another size.
    """
    if not shard.is_file():
        raise FileNotFoundError(f"no shard {shard}")
    target = index_path(shard)
    remedy = f"run: python -m data.index {shard}"
    if not target.is_file():
        raise BadIndex(f"{shard} has no index beside it; {remedy}")
    if target.stat().st_mtime_ns < shard.stat().st_mtime_ns:
        raise BadIndex(f"{target} is older than its shard; {remedy}")
    try:
        with np.load(target, allow_pickle=False) as stored:
            if int(stored["version"]) != _VERSION or int(stored["tar_size"]) != shard.stat().st_size:
                raise BadIndex(f"{target} was made for another content of {shard.name}; {remedy}")
            return Index(**{column.name: stored[column.name] for column in _COLUMNS})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, BadIndex):
            raise
        raise BadIndex(f"{target} can't be read ({error}); {remedy}") from error


def main(arguments: Sequence[str]) -> int:
    """Indexes the shards named, or those in the folders named."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    shards = [s for a in map(Path, arguments) for s in (sorted(a.rglob("*.tar")) if a.is_dir() else [a])]
    samples = failed = 0
    for shard in shards:
        try:
            try:
                index = load(shard)
            except BadIndex:
                write(shard)
                index = load(shard)
            samples += len(index)
        except (OSError, BadTar) as error:
            failed += 1
            print(error, file=sys.stderr)
    print(f"{len(shards) - failed} shards, {samples} samples" + (f"; {failed} shards failed" if failed else ""))
    return 1 if failed or not shards else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
