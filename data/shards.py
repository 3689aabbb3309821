"""Writing shards: webdataset tars, each with its index, nothing half-written ever in sight."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import webdataset

from data import index
from yivl.conversation import Conversation


def caption_sample(key: str, image: bytes, caption: str, extension: str = "jpg") -> dict[str, Any]:
    """A sample in img2dataset's layout."""
    record = {"key": key, "caption": caption, "status": "success"}
    return {"__key__": key, extension: image, "txt": caption, "json": _json(record)}


def conversation_sample(conversation: Conversation, extensions: Sequence[str] = ()) -> dict[str, Any]:
    """A sample in LLaVA's layout; its images must be the bytes of files, with these extensions (by default `jpg`)."""
    names = {"human": "human", "assistant": "gpt"}
    messages = [
        {"from": names[turn.role], "value": "<image>\n" * turn.images + turn.text.replace("<image>", "< image >")}
        for turn in conversation.turns
    ]
    sample: dict[str, Any] = {"__key__": conversation.key}
    for number, image in enumerate(conversation.images):
        extension = extensions[number] if extensions else "jpg"
        sample[extension if len(conversation.images) == 1 else f"{number}.{extension}"] = image
    return sample | {"json": _json({"id": conversation.key, "conversations": messages})}


def write_shards(folder: Path, samples: Iterable[Mapping[str, Any]], per_shard: int = 10_000) -> list[Path]:
    """Writes `00000.tar`, `00001.tar`, … with their indexes; returns their paths.

    A shard appears under its name only when it is complete and on disk.

    Raises:
        FileExistsError: the folder holds shards already, which would be mixed with the new ones.
        BadTar: a key comes twice in a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")):
        raise FileExistsError(f"{folder} holds shards already; choose another folder, or remove them")
    written: list[Path] = []
    batch: list[Mapping[str, Any]] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == per_shard:
            written.append(folder / f"{len(written):05d}.tar")
            write_shard(written[-1], batch)
            batch = []
    if batch:
        written.append(folder / f"{len(written):05d}.tar")
        write_shard(written[-1], batch)
    return written


def write_shard(shard: Path, samples: Iterable[Mapping[str, Any]]) -> int:
    """Writes one shard with its index, and returns how many samples it got; with none nothing is written.

    Equal samples give equal bytes. Raises `BadTar` when a key comes twice.
    """
    temporary = shard.with_name(f".{shard.name}.{os.getpid()}")
    written = 0
    try:
        with temporary.open("wb") as file:
            with webdataset.TarWriter(file, mtime=0) as writer:
                for sample in samples:
                    writer.write(sample)
                    written += 1
            file.flush()
            os.fsync(file.fileno())
        if written:
            index.write(temporary).replace(index.index_path(shard))
            temporary.replace(shard)
            os.utime(index.index_path(shard))  # an index older than its shard would not be trusted
    finally:
        temporary.unlink(missing_ok=True)
        index.index_path(temporary).unlink(missing_ok=True)
    return written


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()
