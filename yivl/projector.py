"""The projection part: a two-layer MLP with layer norms (`mlp2x_gelu_Norm` in the released configuration)."""

from __future__ import annotations

from torch import nn


def projector(width: int, hidden: int) -> nn.Sequential:
    """From the ViT's width to the language model's: [..., width] to [..., hidden].

    The positions 0, 1, 3 and 4 in the sequence are the names in the released state dict (`model.mm_projector.N`).
    """
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
    )
