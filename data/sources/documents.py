"""Documents, for language models: tokenised, and cut into rows of equal length (`data.rows`).

    RAW/….jsonl, .jsonl.gz, .jsonl.zst     a document a line, in the field that `text=` names, by default "text"
    RAW/….parquet                          a document a row, in the column of that name
    RAW/….txt, .md                         a document a file, in UTF-8

All files below RAW in the order of their paths, or RAW itself where it is one; files of other kinds, and a data set's
README, are passed over. The documents of some 128 MB of them (`megabytes=`) make a shard: each ends with the end of
sequence of the tokenizer in the model folder `tokenizer=`, they follow each other without a gap, and every `row=`
tokens are a row. What is left at a shard's end fills no row and is left out: less than a row of some 30 million tokens.
What a document says never makes a special token: "<|endoftext|>" in it is text.

A shard depends on its own stretch of the files alone, so the processes share the work, and a killed preparation loses
only the shards in hand.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from data.journal import NotPrepared, Report, shard_path
from data.raw import BadRaw
from data.record import Skipped
from data.rows import cut, kind, row_sample
from data.shards import write_shard
from data.text_files import KNOWN, Piece, divided, documents
from yivl.tokenizer import fingerprint, load_tokenizer, vocabulary_size

_BATCH = 2**20
"""Characters that are tokenised at a time."""
_LISTED = 20
"""Documents left out that the report of a shard names; the others are only counted."""


@dataclass(frozen=True, slots=True)
class DocumentJob:
    """The documents of one shard."""

    number: int
    pieces: tuple[Piece, ...]
    text: str
    """Field or column of the documents."""
    row: int
    """Tokens of a row."""
    tokenizer: str
    """Its folder."""
    fingerprint: str
    """Of the tokenizer."""

    @property
    def stamp(self) -> str:
        """Tells whether the raw files and the tokenizer are still the same."""
        stretches = [(piece.name, piece.start, piece.end) for piece in self.pieces]
        digest = hashlib.blake2b(json.dumps(stretches).encode(), digest_size=8).hexdigest()
        return f"{self.pieces[0].name} to {self.pieces[-1].name} ({digest}), tokenizer {self.fingerprint}"

    def write(self, out: Path, count: Callable[[int], None]) -> Report:
        """Writes the shard; none when its documents fill no row.

        Args:
            out: folder of the shards.
            count: told of so many more documents read.

        Raises:
            BadRaw: a file is damaged.
            OSError: of this machine.
        """
        tokenizer, tally = _tokenizer(self.tokenizer, self.fingerprint), _Tally(count)
        texts = tally.texts(found for piece in self.pieces for found in documents(piece, self.text))
        rows = cut(tally.ids(tokenizer.documents(texts)), self.row, tokenizer.kind)
        written = write_shard(
            shard_path(out, self.number),
            (
                row_sample(f"{self.number:05d}-{number:07d}", ids, starts, self.fingerprint)
                for number, (ids, starts) in enumerate(rows)
            ),
        )
        return Report(
            shard=self.number, stamp=self.stamp, read=tally.read, written=written, skipped=tuple(tally.skipped),
            unlisted=tally.unlisted, tokens=written * self.row, rest=tally.tokens - written * self.row,
        )  # fmt: skip


def jobs(raw: Path, *, tokenizer: str, row: str, text: str = "text", megabytes: str = "128") -> Iterator[DocumentJob]:
    """The shards to be written, in order.

    Args:
        raw: folder of the documents, or one file of them.
        tokenizer: model folder that has the tokenizer.
        row: tokens of a row.
        text: field of lines, or column of tables, that holds the documents.
        megabytes: of the files, in 1,000,000 bytes, for each shard.

    Raises:
        NotPrepared: a setting is of no use.
        BadRaw: there are no documents, or a table can't be read or lacks the column.
    """
    length, size = _number("row", row, least=2), _number("megabytes", megabytes, least=1) * 1_000_000
    told = _loaded(tokenizer).fingerprint
    files = [raw] if raw.is_file() else sorted(path for path in raw.rglob("*") if path.is_file())
    files = [file for file in files if file.name.endswith(KNOWN) and not file.name.upper().startswith("README")]
    if not files:
        raise BadRaw(f"{raw} holds no {', '.join(KNOWN)}")
    top = raw if raw.is_dir() else raw.parent
    return (
        DocumentJob(number, pieces, text, length, tokenizer, told)
        for number, pieces in enumerate(divided(files, top, text, size))
    )


def _number(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise NotPrepared(f"{name} is {text!r}; a whole number, at least {least}")
    return int(text)


class _Tokenizer(NamedTuple):
    """A tokenizer as it is used here."""

    backend: Tokenizer
    end: int
    """The token that ends a document."""
    kind: np.dtype[Any]
    """What its tokens are stored as."""
    fingerprint: str

    def documents(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The tokens of each text, with the one that ends it."""
        for batch in _batches(texts):
            for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield [*encoding.ids, self.end]


def _loaded(folder: str) -> _Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        NotPrepared: it can't be used.
    """
    try:
        loaded = load_tokenizer(folder)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotPrepared(f"tokenizer={folder} can't be used: {reason}") from error
    if loaded.eos_token_id is None:
        raise NotPrepared(f"tokenizer={folder} has no end of sequence (eos_token), which documents are to end with")
    told, stored_as = fingerprint(loaded), kind(vocabulary_size(loaded))
    backend: Tokenizer = loaded.backend_tokenizer  # without offsets and the rest it is twice as fast
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as text: "<|endoftext|>" in a document does not end it
    return _Tokenizer(backend, loaded.eos_token_id, stored_as, told)


@lru_cache(maxsize=1)
def _tokenizer(folder: str, fingerprint: str) -> _Tokenizer:
    """The same, loaded once in a worker; it must be the one that the jobs were made for."""
    found = _loaded(folder)
    if found.fingerprint != fingerprint:
        raise NotPrepared(f"tokenizer={folder} changed while documents were tokenised with it; prepare them anew")
    return found


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= _BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@dataclass(slots=True)
class _Tally:
    """Counts what passes."""

    count: Callable[[int], None]
    read: int = 0
    tokens: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)

    def texts(self, found: Iterable[str | Skipped]) -> Iterator[str]:
        """Those that can be used."""
        for one in found:
            self.read += 1
            self.count(1)
            if isinstance(one, str):
                yield one
            elif len(self.skipped) < _LISTED:
                self.skipped.append((one.key, one.reason, ""))
            else:
                self.unlisted[one.reason] += 1

    def ids(self, documents: Iterable[list[int]]) -> Iterator[list[int]]:
        """All of them."""
        for ids in documents:
            self.tokens += len(ids)
            yield ids
