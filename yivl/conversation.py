"""What a person and the model say to each other about images: the type that all data becomes.

Training, inference and evaluation share everything from here down: `prompt` renders a conversation
to text, `encoder` turns that into ids, labels and pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

Role = Literal["human", "assistant"]
ImageSource = str | Path | bytes | Image.Image | np.ndarray
"""A path, the bytes of an image file, a PIL image, or a uint8 array [height, width] or [height, width, 3]."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. Its images stand before its text, each on a line of its own, as in the released prompt."""

    role: Role
    text: str
    images: int = 0
    """How many of the conversation's images, in order, belong to this turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Any number of images and of turns.

    The turns alternate and begin with the human; when the last is the human's, the conversation is open
    and the model is to answer. A single assistant turn is a caption (with images) or a document (without):
    there is nobody to answer, so it is rendered plainly, without system text and role names.
    """

    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    source: str = ""
    """Name of the data source; empty for a user's own question."""
    key: str = ""
    """Names the sample within its source, for logs and errors."""
    given: str = ""
    """Text that a plain sample begins with and that is not learned: the prompt of a completion."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"{self.name}: a conversation needs at least one turn")
        placed = sum(turn.images for turn in self.turns)
        if placed != len(self.images):
            raise ValueError(f"{self.name}: {placed} image placeholders but {len(self.images)} images")
        if self.plain:
            return
        if self.given:
            raise ValueError(f"{self.name}: only a plain sample has a given beginning; this one has turns to hold it")
        for index, turn in enumerate(self.turns):
            expected = ("human", "assistant")[index % 2]
            if turn.role != expected:
                raise ValueError(
                    f"{self.name}: turn {index + 1} is by {turn.role!r}; turns alternate and begin with "
                    f"'human', so {expected!r} was expected"
                )
            if turn.role == "assistant" and turn.images:
                raise ValueError(f"{self.name}: turn {index + 1} is an answer and can't hold images")

    @property
    def plain(self) -> bool:
        """True for a caption or a document: one assistant turn and no question."""
        return len(self.turns) == 1 and self.turns[0].role == "assistant"

    @property
    def open(self) -> bool:
        """True when the model is to answer."""
        return self.turns[-1].role == "human"

    @property
    def name(self) -> str:
        """`source/key`, for messages."""
        return "/".join(part for part in (self.source, self.key) if part) or "conversation"

    def without_last_exchange(self) -> Conversation | None:
        """The same without its last question and answer (and their images); None when nothing would be left."""
        kept = self.turns[: len(self.turns) - (1 if self.open else 2)]
        if not kept:
            return None
        images = self.images[: sum(turn.images for turn in kept)]
        return Conversation(turns=kept, images=images, source=self.source, key=self.key)


def question(image: ImageSource | None, text: str) -> Conversation:
    """An open conversation of one question about one image, or about none."""
    images = () if image is None else (image,)
    return Conversation(turns=(Turn("human", text, images=len(images)),), images=images)
