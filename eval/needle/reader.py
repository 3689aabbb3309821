"""What the grid needs of a model; `model.FolderReader` is one, and so is anything with these methods."""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """A model that goes on with a text."""

    @property
    def form(self) -> str:
        """How it is asked, such as "chat" or "completion"; results name it."""

    @property
    def limit(self) -> int | None:
        """Most tokens that it reads and writes together; None where it names none."""

    def frame(self, text: str, start: str) -> str:
        """The prompt that asks `text` and begins the answer with `start`."""

    def length(self, prompt: str) -> int:
        """Tokens of a framed prompt, special ones included."""

    def complete(self, prompt: str, max_new_tokens: int) -> str:
        """What the model greedily writes after a framed prompt."""
