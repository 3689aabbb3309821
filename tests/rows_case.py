"""What the tests of documents and rows share: texts, shards made of them, and reading these without our code."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from conftest import TINY
from sources_case import put

from data.loader import Samples
from data.mixture import Mixture, resolve
from data.order import Order
from data.prepare import prepare
from data.store import Store
from yivl.encoder import Encoder
from yivl.settings import read
from yivl.tokenizer import load_tokenizer

WORDS = ("the", "bit", "quiz", "of", "a cat", "猫", "在哪里？", "def f(x):\n    return x", "12,345.6", "\n\n", "naïve")


def texts(count: int, seed: int = 0, longest: int = 300) -> list[str]:
    """Documents of one to so many words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) + f" {number}." for number in range(count)]


def expected_ids(documents: Sequence[str]) -> list[list[int]]:
    """The tokens of each document, as the tokenizer itself gives them, and its end of sequence."""
    tokenizer = load_tokenizer(TINY)
    return [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in documents]


class Stored(NamedTuple):
    """A row in a shard."""

    key: str
    ids: list[int]
    record: dict[str, Any]


def stored(shard: Path, kind: str = "<u2") -> list[Stored]:
    """The rows of a shard, read by Python's own tarfile."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar.getmembers():
            key, _, extension = member.name.partition(".")
            content = tar.extractfile(member)
            assert content is not None
            found.setdefault(key, {})[extension] = content.read()
    assert all(set(members) == {"ids", "json"} for members in found.values())
    return [
        Stored(key, np.frombuffer(members["ids"], dtype=kind).tolist(), json.loads(members["json"]))
        for key, members in found.items()
    ]


def shards_of(folder: Path, name: str, documents: Sequence[str], row: int = 64) -> list[Path]:
    """Rows of these documents as the source `name` below `folder/shards`."""
    raw = put(folder / "raw" / f"{name}.jsonl", tuple({"text": text} for text in documents))
    prepare("documents", raw, folder / "shards" / name, {"tokenizer": str(TINY), "row": str(row)})
    return sorted((folder / "shards" / name).glob("*.tar"))


def mixture_of(
    folder: Path, sources: dict[str, dict[str, Any]], row: int = 64, tokens: int | None = None, **entry: Any
) -> Path:
    """A mixture of sources of rows; `entry` replaces what the catalogue says of each."""
    known = {name: {"shards": f"{name}/*.tar", "format": "tokens", "row": row} | entry for name in sources}
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": known}, sort_keys=False))
    mixture = {"catalogue": "sources.yaml", "sources": sources} | ({} if tokens is None else {"tokens": tokens})
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
    return folder / "mixture.yaml"


def mixture(folder: Path, *arguments: Any, **keywords: Any) -> Mixture:
    """The same, read."""
    return read(Mixture, mixture_of(folder, *arguments, **keywords))


def samples_of(folder: Path, mix: Mixture, max_length: int | None = None) -> Samples:
    """What loads the samples of a mixture of shards below `folder/shards`."""
    store = Store(folder / "shards")
    encoder = Encoder(load_tokenizer(TINY), patches=16, image_side=56, max_length=max_length)
    return Samples(Order(resolve(mix, store, 0), 0), store, encoder)
