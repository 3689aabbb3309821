"""What is asked: cells by length and depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

DEPTHS = tuple(range(0, 101, 10))


@dataclass(frozen=True, slots=True)
class Cell:
    """A question's place in the grid."""

    length: int
    """Of all that the model reads and writes, in its own tokens: the template, the question, the haystack with its
    needles, and the room for the answer."""
    depth: float
    """Where the needle is, in percent of the haystack's characters: 0 before the first sentence, 100 after the last."""
    sample: int = 0
    """Tells apart several questions of the same length and depth."""

    @property
    def id(self) -> str:
        """Its name in files."""
        return f"{self.length}-{self.depth:g}-{self.sample}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All cells. Lengths and depths are put in order."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...] = DEPTHS
    samples: int = 1
    """Questions to a length and depth; recall there is their mean."""
    needles: int = 1
    """In each haystack, of which one is asked for; the others have other keys."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.lengths and self.depths):
            raise ValueError("a grid needs at least one length and one depth")
        if wrong := [depth for depth in self.depths if not 0 <= depth <= 100]:
            raise ValueError(f"depth {wrong[0]:g}; depths are percentages from 0 to 100")
        for name, value in {"length": min(self.lengths), "samples": self.samples, "needles": self.needles}.items():
            if value < 1:
                raise ValueError(f"{name} {value}; at least 1 is needed")
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))

    @property
    def cells(self) -> list[Cell]:
        """By length, then by depth."""
        return [Cell(*place) for place in product(self.lengths, self.depths, range(self.samples))]
