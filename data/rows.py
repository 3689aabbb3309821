"""Rows of tokens: documents, tokenised and cut into samples of equal length, as language models are trained on them.

A row is a sample of two members: `KEY.ids`, its tokens as little-endian uint16, or as uint32 where the vocabulary is
larger; and `KEY.json`, which tells its length, where its segments begin and with what it was tokenised:
`{"row": 4096, "starts": [0, 1723], "tokenizer": "0123456789abcdef"}`. A segment is a document, or as much of one as the
row holds. Each document ends with the tokenizer's end of sequence; one that a row's end cuts goes on in the next row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMAT = "tokens"
"""The format of sources of rows."""
KINDS = (np.dtype("<u2"), np.dtype("<u4"))
"""What tokens are stored as."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as a shard holds it."""

    ids: Array  # uint16 or uint32 [L]
    starts: tuple[int, ...]
    """Where its segments begin, ascending from 0."""
    tokenizer: str
    """`yivl.tokenizer.fingerprint` of what made the ids."""
    source: str
    key: str


def kind(vocabulary: int) -> np.dtype[Any]:
    """What tokens of a vocabulary of so many are stored as: the smaller one that holds them."""
    return next(kind for kind in KINDS if vocabulary - 1 <= np.iinfo(kind).max)


def cut(documents: Iterable[Sequence[int]], length: int, kind: np.dtype[Any]) -> Iterator[tuple[Array, list[int]]]:
    """The documents one after the other, cut into rows; what is left at the end and fills no row is not given.

    Args:
        documents: the tokens of each, with what ends it.
        length: of a row, in tokens.
        kind: of the rows.

    Yields:
        A row [length], and where its segments begin.
    """
    row, filled = np.empty(length, dtype=kind), 0
    starts: list[int] = []
    for document in documents:
        ids, at = np.asarray(document, dtype=kind), 0
        while at < len(ids):
            fitting = min(len(ids) - at, length - filled)
            row[filled : filled + fitting] = ids[at : at + fitting]
            starts.append(filled)
            at, filled = at + fitting, filled + fitting
            if filled == length:
                yield row, starts
                row, filled, starts = np.empty(length, dtype=kind), 0, []


def row_sample(key: str, ids: Array, starts: Sequence[int], tokenizer: str) -> dict[str, Any]:
    """A row as a sample to be written; `ids` are of one of `KINDS`."""
    record = {"row": len(ids), "starts": list(starts), "tokenizer": tokenizer}
    return {"__key__": key, "ids": ids.tobytes(), "json": json.dumps(record).encode()}
