"""The index beside a shard: which samples it holds, and where.

    python -m data.index FOLDER_OR_TAR …                               makes or renews indexes that are missing or stale
    python -m data.index 's3://…/{00000..00999}.tar' --into FOLDER     those of shards that lie elsewhere (data.remote)

`00000.tar` has `00000.tar.index`, a safetensors file: a header that tells the number of samples, and columns. A sample
is a run of members with one key (webdataset's grouping: the name up to the first dot of its last part); its extensions
are the rest of the names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from tqdm import tqdm

from data.remote import RemoteError, beside, expand, fetch, is_command, is_remote, local_name
from data.tar import BadTar, members

SUFFIX = ".index"
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXTS = ("txt", "json")
_VERSION = "3"
_LARGEST_HEADER = 100_000

Array = np.ndarray[Any, Any]


class BadIndex(ValueError):
    """An index that is missing, older than its shard, or does not fit it."""


@dataclass(frozen=True, slots=True)
class Index:
    """The samples of one shard, as arrays of equal length."""

    names: Array  # uint8, the keys one after the other, utf-8
    name_ends: Array  # uint32 [n], where each key ends in `names`
    hashes: Array  # uint64 [n], of the keys
    offsets: Array  # uint64 [n], of the sample's first header
    sizes: Array  # uint32 [n], bytes from there to the end of its last member
    text_bytes: Array  # uint32 [n], of its txt and json members: an estimate of its text's length
    images: Array  # uint16 [n], how many image members

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def digest(self) -> str:
        """Changes with the samples' keys, places and lengths."""
        digest = hashlib.blake2b(digest_size=8)
        for column in fields(Index):
            digest.update(np.ascontiguousarray(getattr(self, column.name)).data)
        return digest.hexdigest()

    def key(self, sample: int) -> str:
        """The key of one sample."""
        start = int(self.name_ends[sample - 1]) if sample else 0
        return bytes(self.names[start : int(self.name_ends[sample])]).decode()


@dataclass(frozen=True, slots=True)
class Header:
    """What an index says before its columns."""

    samples: int
    tar_size: int
    """Bytes of the shard that it was made from."""
    digest: str
    """Of its index."""


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_name(shard.name + SUFFIX)


def split_name(name: str) -> tuple[str, str]:
    """A member's name as key and lower-case extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def is_image(extension: str) -> bool:
    """Whether a member with this extension is an image: `jpg`, or one of several, `0.jpg`."""
    return extension.rpartition(".")[2] in IMAGES


def build(shard: Path) -> Index:
    """Reads the headers of a shard.

    Raises:
        FileNotFoundError: no such shard.
        BadTar: it is damaged or cut off, or a key comes twice.
    """
    if not shard.is_file():
        raise FileNotFoundError(f"no shard {shard}")
    rows: list[tuple[bytes, int, int, int, int]] = []  # key, offset, end, text bytes, images
    extensions: set[str] = set()  # of the last
    with shard.open("rb") as file:
        for member in members(file, str(shard)):
            key, extension = split_name(member.name)
            encoded = key.encode()
            if not rows or rows[-1][0] != encoded:
                rows.append((encoded, member.start, 0, 0, 0))
                extensions = set()
            if extension in extensions:
                raise BadTar(f"{shard}: {member.name!r} comes twice")
            extensions.add(extension)
            _, start, _, text, images = rows[-1]
            text += member.size if extension in TEXTS else 0
            rows[-1] = (encoded, start, member.end, text, images + is_image(extension))
    keys = [row[0] for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise BadTar(f"{shard}: the key {twice.decode()!r} comes twice, not in one run")
    hashes = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys]
    columns = np.ascontiguousarray(np.array([row[1:] for row in rows], dtype=np.uint64).reshape(-1, 4).T)
    return Index(
        names=np.frombuffer(b"".join(keys), dtype=np.uint8),
        name_ends=np.cumsum([len(key) for key in keys], dtype=np.uint32),
        hashes=np.array(hashes, dtype=np.uint64),
        offsets=columns[0],
        sizes=(columns[1] - columns[0]).astype(np.uint32),
        text_bytes=columns[2].astype(np.uint32),
        images=columns[3].astype(np.uint16),
    )


def write(shard: Path) -> Path:
    """Builds the index of a shard and puts it beside it, atomically; returns its path. Raises as `build` does."""
    index = build(shard)
    target = index_path(shard)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    columns = {column.name: getattr(index, column.name) for column in fields(Index)}
    metadata = {"version": _VERSION, "tar_size": str(shard.stat().st_size), "digest": index.digest}
    with temporary.open("wb") as file:
        file.write(safetensors.save(columns, metadata))
        file.flush()
        os.fsync(file.fileno())
    stamp = max(temporary.stat().st_mtime_ns, shard.stat().st_mtime_ns)  # a shard may come from a clock ahead of ours
    os.utime(temporary, ns=(stamp, stamp))
    temporary.replace(target)
    return target


def header(file: Path) -> Header:
    """The header of an index file.

    Raises:
        BadIndex: there is no such file, or it is not an index of this version.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            stated = json.loads(opened.read(min(length, _LARGEST_HEADER)))
        metadata = stated["__metadata__"]
        if metadata["version"] != _VERSION:
            raise BadIndex(f"{file} is of version {metadata['version']}, not {_VERSION}")
        return Header(int(stated["hashes"]["shape"][0]), int(metadata["tar_size"]), str(metadata["digest"]))
    except FileNotFoundError as error:
        raise BadIndex(f"there is no index {file}") from error
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, BadIndex):
            raise
        raise BadIndex(f"{file} can't be read as an index ({type(error).__name__}: {error})") from error


def load(file: Path) -> Index:
    """Reads an index file. Raises as `header` does."""
    stated = header(file)
    try:
        columns = safetensors.load_file(file)
        index = Index(**{column.name: columns[column.name] for column in fields(Index)})
    except (OSError, KeyError, SafetensorError) as error:
        raise BadIndex(f"{file} can't be read as an index ({type(error).__name__}: {error})") from error
    if index.digest != stated.digest:
        raise BadIndex(f"{file} is damaged: its columns are not those that were written")
    return index


def check(shard: Path) -> Header:
    """The header of the index beside a local shard.

    Raises:
        FileNotFoundError: the shard is missing.
        BadIndex: the index is missing, older than the shard, or made for one of another size.
    """
    target = index_path(shard)
    remedy = f"run: python -m data.index {shard}"
    try:
        tar = shard.stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no shard {shard}") from error
    try:
        found = header(target)
    except BadIndex as error:
        raise BadIndex(f"{error}; {remedy}") from error
    if target.stat().st_mtime_ns < tar.st_mtime_ns:
        raise BadIndex(f"{target} is older than its shard; {remedy}")
    if found.tar_size != tar.st_size:
        raise BadIndex(f"{target} was made for another content of {shard.name}; {remedy}")
    return found


def bring(address: str, folder: Path) -> Path:
    """Puts the index of a shard that lies elsewhere into a folder: the one that lies beside it there, or else one made
    from the shard, which is fetched and not kept.

    Raises:
        FileNotFoundError, RemoteError: it could not be fetched.
        BadTar: the shard is damaged.
    """
    target = folder / (local_name(address) + SUFFIX)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as near:
        fetched = Path(near) / local_name(address)
        try:
            if is_command(address):
                raise FileNotFoundError
            fetch(beside(address, SUFFIX), index_path(fetched))
            load(index_path(fetched))
        except (FileNotFoundError, PermissionError, BadIndex):  # some servers refuse what they don't have
            fetch(address, fetched)
            write(fetched)
        index_path(fetched).replace(target)
    return target


def _ensure(shard: str, into: Path | None) -> tuple[int, str]:
    """Samples of a shard once it has a good index, or what is wrong."""
    try:
        if is_remote(shard):
            if into is None:
                return 0, f"{shard}: --into FOLDER says where its index goes, as DATA/SOURCE"
            try:
                return header(into / (local_name(shard) + SUFFIX)).samples, ""
            except BadIndex:
                return header(bring(shard, into)).samples, ""
        try:
            return check(Path(shard)).samples, ""
        except BadIndex:
            return header(write(Path(shard))).samples, ""
    except (OSError, BadTar, BadIndex, RemoteError) as error:
        return 0, str(error)


def _shards(argument: str) -> list[str]:
    if is_remote(argument):
        return expand(argument)
    path = Path(argument)
    return [str(shard) for shard in sorted(path.rglob("*.tar"))] if path.is_dir() else [argument]


def main(arguments: Sequence[str] | None = None) -> int:
    """Indexes the shards named, or those in the folders named."""
    parser = argparse.ArgumentParser(prog="python -m data.index", description=__doc__.split("\n")[0])
    parser.add_argument("shards", nargs="+", metavar="FOLDER_OR_TAR", help="or an address")
    parser.add_argument("--into", type=Path, help="folder for the indexes of shards that lie elsewhere: DATA/SOURCE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    shards = [shard for argument in options.shards for shard in _shards(argument)]
    samples = failed = 0
    with ProcessPoolExecutor(options.workers) as workers:
        results = workers.map(partial(_ensure, into=options.into), shards)
        for count, problem in tqdm(results, total=len(shards), unit="shard", disable=len(shards) < 2):
            samples += count
            if problem:
                failed += 1
                tqdm.write(problem, file=sys.stderr)
    print(f"{len(shards) - failed} shards, {samples} samples" + (f"; {failed} shards failed" if failed else ""))
    return 1 if failed or not shards else 0


if __name__ == "__main__":
    sys.exit(main())
