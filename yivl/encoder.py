"""From a conversation to ids, labels and pixels.

Text between two images is tokenised in one piece, as the released code does, so ids are equal to its ids on any
text; a token is learned when all of its characters lie in learned segments. A token that straddles the border of
a learned segment holds a character of the frame, and is not supervised. Nothing is tokenised twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from yivl import prompt
from yivl.conversation import Conversation
from yivl.images import BadImage, ToPixels, to_pixels
from yivl.prompt import Segment

IMAGE_ID = -200
"""Stands in `input_ids` for one patch of an image. Negative, as in the released code: no text can produce it."""
IGNORE = -100
"""A label that is not supervised."""


class TooLong(ValueError):
    """A conversation of which not even the first exchange fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An encoded sample; numpy arrays, so that it crosses process borders as bytes."""

    input_ids: np.ndarray[Any, np.dtype[np.int64]]  # [L], IMAGE_ID at image patches
    labels: np.ndarray[Any, np.dtype[np.int64]]  # [L], IGNORE where nothing is supervised; not shifted
    pixels: np.ndarray[Any, np.dtype[np.uint8]]  # [n, 3, S, S]
    starts: tuple[int, ...] = (0,)
    """Where its segments begin, ascending from 0: parts that do not attend to each other, each with positions of its
    own. A conversation is one, a row of documents several."""
    source: str = ""
    key: str = ""
    dropped_turns: int = 0
    """Turns cut from the end to fit `max_length`."""

    def __post_init__(self) -> None:
        if self.input_ids.shape != self.labels.shape or self.input_ids.ndim != 1:
            raise ValueError(f"ids {self.input_ids.shape} and labels {self.labels.shape} must be equal and flat")
        ends = (*self.starts, max(1, len(self.input_ids)))
        if ends[0] or any(end <= start for start, end in pairwise(ends)):
            raise ValueError(f"segments begin at {self.starts}, not ascending from 0 within {len(self.input_ids)} ids")

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return int((self.labels != IGNORE).sum())


class Encoder:
    """Turns conversations into examples.

    Args:
        tokenizer: a fast tokenizer (it must give character offsets).
        patches: tokens that one image takes.
        image_side: pixels of the square image.
        pixels: how images become pixels; one of `yivl.fast_images.PIXELS`, by default the released way.
        max_length: most tokens of an example; longer ones lose whole exchanges from their end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        patches: int,
        image_side: int,
        pixels: ToPixels = to_pixels,
        max_length: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.patches = patches
        self.image_side = image_side
        self.to_pixels = pixels
        self.max_length = max_length

    def encode(self, conversation: Conversation) -> Example:
        """The conversation as an example.

        Raises:
            TooLong: its first exchange takes more than `max_length` tokens.
            BadImage: it has an image and the model no vision part; or, as FileNotFoundError, from `yivl.images`.
        """
        if conversation.images and not self.patches:
            raise BadImage("it has an image, but the model is a language model alone")
        kept: Conversation = conversation
        ids, labels = self.tokens(prompt.render(kept))
        while self.max_length is not None and len(ids) > self.max_length:
            shorter = kept.without_last_exchange()
            if shorter is None:
                raise TooLong(f"{kept.name}: {len(ids)} tokens, more than the {self.max_length} allowed")
            kept = shorter
            ids, labels = self.tokens(prompt.render(kept))
        pixels = np.zeros((len(kept.images), 3, self.image_side, self.image_side), dtype=np.uint8)
        for index, image in enumerate(kept.images):
            pixels[index] = self.to_pixels(image, self.image_side)
        return Example(
            input_ids=np.asarray(ids, dtype=np.int64),
            labels=np.asarray(labels, dtype=np.int64),
            pixels=pixels,
            source=conversation.source,
            key=conversation.key,
            dropped_turns=len(conversation.turns) - len(kept.turns),
        )

    def tokens(self, segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """Ids and labels of a rendered conversation, each image standing for `patches` ids."""
        ids: list[int] = []
        labels: list[int] = []
        piece: list[Segment] = []
        for segment in [*segments, Segment("", image=True)]:  # the last one only ends the last piece
            if not segment.image:
                piece.append(segment)
                continue
            text_ids, text_labels = self._text(piece)
            piece = []
            ids += text_ids
            labels += text_labels
            if segment.text:
                ids += [IMAGE_ID] * self.patches
                labels += [IGNORE] * self.patches
        if labels:
            labels[0] = IGNORE  # nothing stands before it to predict it from
        return ids, labels

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of a rendered prompt, split at `<image_placeholder>` as the released code does."""
        parts = text.split(prompt.PLACEHOLDER)
        segments = [Segment(parts[0])]
        for part in parts[1:]:
            segments += [Segment(prompt.PLACEHOLDER, image=True), Segment(part)]
        return self.tokens(segments)[0]

    def _text(self, segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
        text = "".join(segment.text for segment in segments)
        if not text:
            return [], []
        learned = np.concatenate([[0], np.cumsum([segment.learn for segment in segments for _ in segment.text])])
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids: list[int] = encoding["input_ids"]
        labels = [
            token if end > start and learned[end] - learned[start] == end - start else IGNORE
            for token, (start, end) in zip(ids, encoding["offset_mapping"], strict=True)
        ]
        return ids, labels
