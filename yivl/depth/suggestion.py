"""Which block of layers to repeat: the one whose layers have, on average, the highest cosines.

That is the documents' choice ("the closer the input/output cosine of the new layers is to 1.0 …", the Yi-9B blog),
asked of the model as it is: the angles by which the block's layers turn what they read bound the angle between its
input and its output, and a repetition gives the block's first layer that output in place of its input. (The norms don't
count there: the layer begins with a norm of its own.) The cosines that the repeated layers will have say less, since
they are near 1 behind any block; docs/depth.md compares both with the damage that is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from yivl.depth.cosine import Profile
from yivl.depth.expansion import Expansion


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A block of layers, and what speaks for it."""

    expansion: Expansion
    reason: str


def suggest(profile: Profile, size: int) -> Suggestion:
    """The block of `size` layers to repeat, by the cosines of a model on a text.

    Raises:
        ValueError: the model has no block of that size.
    """
    depth = len(profile.layers)
    if not 0 < size <= depth:
        raise ValueError(f"no block of {size} layers: the model has {depth}, so 1 to {depth} can be repeated")
    blocks = [Expansion(depth, start, start + size) for start in range(depth - size + 1)]
    means = {block: profile.mean(block.block) for block in blocks}
    best, *others = sorted(means, key=lambda block: -means[block])
    reason = (
        f"Layers {best.start} to {best.end - 1}: the mean of their cosines is {means[best]:.4f}, "
        f"the highest of {len(means)} blocks of {size} layers, on {profile.count:,} tokens"
    )
    if others:
        reason += f" (next {others[0]} with {means[others[0]]:.4f}, last {others[-1]} with {means[others[-1]]:.4f})"
    return Suggestion(best, reason)
