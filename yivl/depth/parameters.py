"""How many parameters a language model has, as Yi-9B's are counted: embedding x 2 + the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yivl.weights import RECOMPUTED


@dataclass(frozen=True, slots=True)
class Parameters:
    """A language model's (the Yi-9B blog, "Parameter Count"); the head has as many as the embeddings."""

    embedding: int
    """Of the token embeddings."""
    head: int
    """Of the output head; 0 where it is the embeddings."""
    rest: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.head + self.rest

    def __str__(self) -> str:
        """Such as `0.26 x 2 + 8.31 = 8.83 B`; a model whose head is its embeddings has those once."""
        size, unit = (1e9, "B") if self.total >= 1e9 else (1e6, "M")
        embedding, rest, total = (f"{count / size:.2f}" for count in (self.embedding, self.rest, self.total))
        return f"{embedding}{' x 2' if self.head else ''} + {rest} = {total} {unit}"


def parameters(shapes: Mapping[str, Sequence[int]]) -> Parameters:
    """Those of a causal language model, from its tensors' names and shapes.

    Raises:
        ValueError: there are no token embeddings among them.
    """
    counts = {name: math.prod(shape) for name, shape in shapes.items() if not name.endswith(RECOMPUTED)}
    if "model.embed_tokens.weight" not in counts:
        raise ValueError("no Llama-architecture language model: it has no model.embed_tokens.weight")
    embedding, head = counts.pop("model.embed_tokens.weight"), counts.pop("lm_head.weight", 0)
    return Parameters(embedding, head, sum(counts.values()))
