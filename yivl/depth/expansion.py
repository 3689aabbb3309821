"""Which layers a deeper model has: those of another one, a block of them twice.

Yi-9B has Yi-6B's layers 0 to 27, then 12 to 31: the block 12:28 is repeated (the Yi-9B blog, "How to Perform Depth
Expansion?").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SOLAR = 4
"""Of so many layers SOLAR drops one from the end of one copy and one from the start of the other: 8 of Mistral 7B's 32
(Kim et al. 2023, section 2)."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """A block of layers, which stands twice in the deeper model, once behind the other.

    Raises:
        ValueError: the model has no such block.
    """

    depth: int
    """Layers of the model that is expanded."""
    start: int
    """The block's first layer, from 0."""
    end: int
    """The layer behind its last."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.depth:
            raise ValueError(
                f"layers {self} can't be repeated: the model has layers 0 to {self.depth - 1}, "
                f"so A:B needs 0 <= A < B <= {self.depth}"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """For each layer of the deeper model, which one of the model it is."""
        return (*range(self.end), *range(self.start, self.depth))

    @property
    def block(self) -> range:
        """The layers of the model that the deeper model has twice."""
        return range(self.start, self.end)

    @property
    def new(self) -> range:
        """The deeper model's added layers: the block's second copy."""
        return range(self.end, 2 * self.end - self.start)

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


def repeated(block: str, depth: int) -> Expansion:
    """The expansion that `A:B` stands for: layers A to B, without B, twice.

    Raises:
        ValueError: it is no such block, or the model has none.
    """
    match = re.fullmatch(r"(\d+):(\d+)", block)
    if not match:
        raise ValueError(f"{block!r} is no block of layers; write A:B, as 12:28 for layers 12 to 27")
    return Expansion(depth, int(match[1]), int(match[2]))


def solar(depth: int) -> Expansion:
    """SOLAR's: two copies, one without its last layers and one without as many of its first; a quarter, rounded down.

    Of 32 layers that leaves 0 to 23 and 8 to 31, which is the block 8:24 twice.
    """
    return Expansion(depth, depth // _SOLAR, depth - depth // _SOLAR)


def changed_settings(settings: Mapping[str, Any], expansion: Expansion) -> dict[str, Any]:
    """What of a language model's configuration is another in the deeper model: the number of layers, and lists with an
    entry for each layer.

    Raises:
        ValueError: it says another number of layers.
    """
    depth = settings.get("num_hidden_layers")
    if depth != expansion.depth:
        raise ValueError(f"config.json says num_hidden_layers {depth}, but there are weights of {expansion.depth}")

    def follows(key: str, value: Any) -> bool:
        return "layer" in key and isinstance(value, Sequence) and not isinstance(value, str) and len(value) == depth

    lists = {key: [value[n] for n in expansion.layers] for key, value in settings.items() if follows(key, value)}
    return {"num_hidden_layers": len(expansion.layers), **lists}
