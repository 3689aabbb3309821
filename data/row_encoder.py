"""From a row of tokens to an example, after making sure that it is one for this model."""

from __future__ import annotations

import numpy as np

from data.formats import BadSample
from data.rows import Row
from yivl.encoder import IGNORE, Encoder, Example
from yivl.tokenizer import fingerprint, vocabulary_size


class WrongRows(ValueError):
    """Rows that this run can't train on, not because one is damaged but because of what all of them are."""


class RowEncoder:
    """Turns rows into examples.

    Args:
        encoder: the model's, for conversations: it has the tokenizer, the most tokens of an example and the side of the
            images that a row has none of.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.max_length = encoder.max_length
        self.image_side = encoder.image_side
        self.tokenizer = fingerprint(encoder.tokenizer)
        self.vocabulary = vocabulary_size(encoder.tokenizer)

    def encode(self, row: Row, length: int) -> Example:
        """The row as an example: every token is learned but the first of each segment, which nothing stands before.

        Args:
            row: the row.
            length: tokens that it must have.

        Raises:
            WrongRows: another tokenizer made it, or it has another length or more tokens than a sample may have.
            BadSample: it holds a token that the vocabulary does not have.
        """
        if row.tokenizer != self.tokenizer:
            raise WrongRows(
                f"its rows were tokenised with another tokenizer (fingerprint {row.tokenizer}) than the model's "
                f"({self.tokenizer}); prepare them again: python -m data.prepare documents RAW OUT tokenizer=MODEL "
                f"row={length}"
            )
        if len(row.ids) != length:
            raise WrongRows(f"its rows have {len(row.ids):,} tokens; its entry in the catalogue says row: {length}")
        if self.max_length is not None and length > self.max_length:
            raise WrongRows(
                f"its rows have {length:,} tokens, more than the {self.max_length:,} allowed: raise max_length (and "
                "tokens_per_micro_batch), or prepare shorter rows"
            )
        if (largest := int(row.ids.max())) >= self.vocabulary:
            raise BadSample(f"it holds the token {largest}; the vocabulary has {self.vocabulary}")
        ids = row.ids.astype(np.int64)
        labels = ids.copy()
        labels[list(row.starts)] = IGNORE
        return Example(
            input_ids=ids,
            labels=labels,
            pixels=np.zeros((0, 3, self.image_side, self.image_side), dtype=np.uint8),
            starts=row.starts,
            source=row.source,
            key=row.key,
        )
