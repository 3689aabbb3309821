"""Cross-entropy at supervised positions only, in chunks: the [T, vocabulary] logits never exist at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from yivl.encoder import IGNORE

CHUNK = 1024
"""Rows of logits that exist at a time: 256 MiB of float32 at a vocabulary of 64,000."""


def loss_sum(hidden: Tensor, labels: Tensor, head: nn.Module) -> Tensor:
    """Sum of the token losses.

    Args:
        hidden: [B, T, H], the language model's last hidden states.
        labels: int64 [B, T], `IGNORE` where nothing is supervised; the label at t is predicted at t - 1.
        head: from [n, H] to logits [n, vocabulary].

    Returns:
        A float32 scalar: zero, but part of the graph, where nothing is supervised.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    rows, targets = hidden[:, :-1][chosen], targets[chosen]
    if not len(rows):
        return hidden.sum().float() * 0 + sum(p.sum().float() for p in head.parameters()) * 0
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for row_chunk, target_chunk in zip(rows.split(CHUNK), targets.split(CHUNK), strict=True):
        total = total + checkpoint(_chunk_loss, head, row_chunk, target_chunk, use_reentrant=False)
    return total


def _chunk_loss(head: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = head(rows)
    return F.cross_entropy(logits.float(), targets, reduction="sum")
