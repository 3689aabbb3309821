"""Cross-entropy at supervised positions only, in chunks: the [T, vocabulary] logits never exist at once.

A chunk's logits are turned into their own gradient while they are there, so that the backward pass has nothing left to
compute but a scaling: three products with the head's matrix (two with a frozen head), as if all logits had been kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yivl.encoder import IGNORE

CHUNK = 512
"""Rows of logits that exist at a time: 63 MiB of bfloat16 at a vocabulary of 64,000."""
_BLOCK = 64
"""Rows of them that are float32 at a time: few enough to stay in a processor's cache."""


class HeadLoss(NamedTuple):
    """The loss of n rows."""

    total: Tensor  # float32 scalar, the sum of the token losses
    tokens: Tensor  # float32 [n], each token's loss, without a gradient


class SupervisedHead(nn.Linear):
    """The head of a language model that can also compute the loss: within its own `forward`, because under DeepSpeed's
    ZeRO-3 the weight is whole only there.

    Args:
        linear: the head, whose weight is shared.

    Raises:
        ValueError: it has a bias.
    """

    def __init__(self, linear: nn.Linear) -> None:
        if linear.bias is not None:
            raise ValueError("the language model's head has a bias; Llama's has none, and the loss knows none")
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight

    @overload
    def forward(self, input: Tensor) -> Tensor: ...
    @overload
    def forward(self, input: Tensor, targets: Tensor) -> HeadLoss: ...
    def forward(self, input: Tensor, targets: Tensor | None = None) -> Tensor | HeadLoss:
        """Logits [..., vocabulary] of rows [..., H]; with targets (int64 [n], of rows [n, H]) their loss instead.

        The products are computed in the dtype of the weight, or of autocast where that is on; the loss, and the sum of
        the chunks' gradients of the weight, in float32.
        """
        if targets is None:
            return super().forward(input)
        return HeadLoss(*_HeadLoss.apply(input, self.weight, targets, torch.is_grad_enabled()))


def supervised_loss(hidden: Tensor, labels: Tensor, head: nn.Module) -> HeadLoss:
    """The loss where something is supervised.

    Args:
        hidden: [B, T, H], the language model's last hidden states.
        labels: int64 [B, T], `IGNORE` where nothing is supervised; the label at t is predicted at t - 1.
        head: a `SupervisedHead`, or what wraps it.

    Returns:
        The supervised tokens' loss, row by row. Where nothing is supervised the total is zero, but part of the graph.
    """
    targets = labels[:, 1:]
    chosen = targets != IGNORE
    loss: HeadLoss = head(hidden[:, :-1][chosen], targets[chosen])
    return loss


def _to_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Replaces logits [n, vocabulary] by the loss's gradient with respect to them: their softmax minus one at the
    targets [n, 1]. Returns the losses, float32 [n]."""
    losses = []
    for block, target in zip(logits.split(_BLOCK), targets.split(_BLOCK), strict=True):
        log_likelihood = F.log_softmax(block, dim=-1, dtype=torch.float32)
        losses.append(-log_likelihood.gather(1, target)[:, 0])
        error = log_likelihood.exp_()
        block.copy_(error.scatter_add_(1, target, -torch.ones_like(error[:, :1])))
    return torch.cat(losses)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        device, dtype = weight.device.type, weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        matrix = weight.to(dtype)
        tokens = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        of_rows = torch.empty_like(rows) if differentiable and ctx.needs_input_grad[0] else None
        wants_weight = differentiable and ctx.needs_input_grad[1]
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            x = rows[chunk].to(dtype)
            error = x @ matrix.T
            tokens[chunk] = _to_error(error, targets[chunk, None])
            if of_rows is not None:
                of_rows[chunk] = error @ matrix
            if of_weight is not None:
                if dtype == torch.float32:
                    torch.addmm(of_weight, error.T, x, out=of_weight)
                else:
                    of_weight.add_(error.T @ x)
        ctx.save_for_backward(of_rows, of_weight)
        ctx.mark_non_differentiable(tokens)
        return tokens.sum(), tokens

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        of_rows, of_weight = ctx.saved_tensors
        scale = gradients[0]
        # in place, to spare a copy as large as the weight; torch refuses a second backward pass by itself
        return (
            None if of_rows is None else of_rows.mul_(scale),
            None if of_weight is None else of_weight.mul_(scale),
            None,
            None,
        )
