"""Tensors in safetensors files, taken from one folder to another as bytes: never interpreted, never all in memory.

A file is the length of its header (8 bytes, little-endian), the header (JSON: each tensor's dtype, shape and place) and
the tensors' bytes without a gap (github.com/huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from yivl.weights import sync

INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_LENGTH: Final = 8
_BLOCK: Final = 4 * 2**20
"""Bytes that are copied at a time."""

Told = Callable[[str], None]
"""Called with a line for each file that is written."""


class StoredTensor(NamedTuple):
    """Where a tensor lies."""

    file: Path
    dtype: str
    """As safetensors calls it, such as "BF16"."""
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""
    size: int
    """In bytes."""

    @property
    def element(self) -> int:
        """Bytes of one of its numbers."""
        return self.size // max(math.prod(self.shape), 1)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder's safetensors files, by name.

    Raises:
        FileNotFoundError: there are none, or one that the index names is missing.
        ValueError: a file is damaged, or holds other tensors than the index says.
    """
    if (folder / _SINGLE).is_file():
        return _tensors(folder / _SINGLE)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"no safetensors weights in {folder}: neither {_SINGLE} nor {INDEX}. Weights of another form can be "
            "written anew: AutoModelForCausalLM.from_pretrained(MODEL, dtype='auto').save_pretrained(OUT)"
        )
    places: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"the weights of {folder} are incomplete: {name} is missing")
        found |= _tensors(folder / name)
    if missing := sorted(set(places) - set(found)):
        raise ValueError(f"{folder}: {INDEX} names tensors that the files don't hold, such as {missing[0]}")
    return {name: found[name] for name in places}


def write_tensors(tensors: Mapping[str, StoredTensor], folder: Path, shard_bytes: int, told: Told) -> None:
    """Copies tensors into `model.safetensors`, or into shards with an index where one would exceed `shard_bytes`.

    A tensor that is larger by itself has a shard of its own.

    Raises:
        OSError: they could not be written, such as on a full disk.
        ValueError: a file ends before a tensor does.
    """
    shards = _shards(tensors, shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(names) > 1 else [_SINGLE]
    for name, shard in zip(names, shards, strict=True):
        _write(shard, folder / name)
        told(f"{name}: {len(shard)} tensors, {sum(tensor.size for tensor in shard.values()) / 1e9:.2f} GB")
    if len(names) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.size for tensor in tensors.values())},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(_LENGTH), "little")
        header = _parsed(content.read(length)) if length < size else {}
    data = _LENGTH + length
    header.pop("__metadata__", None)
    if not header or max(entry["data_offsets"][1] for entry in header.values()) != size - data:
        raise ValueError(f"{file} is damaged or cut off; download or write it again")
    return {
        name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data + start, end - start)
        for name, entry in header.items()
        for start, end in [entry["data_offsets"]]
    }


def _parsed(header: bytes) -> dict[str, Any]:
    """Nothing where it isn't JSON."""
    try:
        content: dict[str, Any] = json.loads(header)
    except ValueError:
        return {}
    return content


def _shards(tensors: Mapping[str, StoredTensor], shard_bytes: int) -> list[dict[str, StoredTensor]]:
    """In order, each as full as may be."""
    shards: list[dict[str, StoredTensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        if shards[-1] and tensor.size > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.size
    return shards


def _write(tensors: Mapping[str, StoredTensor], file: Path) -> None:
    # larger elements first: so each tensor begins at a multiple of its element's size
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _LENGTH)
    with file.open("wb") as target:
        target.write(len(encoded).to_bytes(_LENGTH, "little") + encoded)
        _copy((tensor for _, tensor in ordered), target)
    sync(file)


def _copy(tensors: Iterable[StoredTensor], target: BinaryIO) -> None:
    for tensor in tensors:
        with tensor.file.open("rb") as source:
            source.seek(tensor.start)
            left = tensor.size
            while left:
                block = source.read(min(left, _BLOCK))
                if not block:
                    raise ValueError(f"{tensor.file} became shorter while it was read")
                target.write(block)
                left -= len(block)
