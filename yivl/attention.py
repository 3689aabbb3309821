"""The language part's attention: transformers' SDPA, and packed rows in which samples never see each other.

transformers can detect packing from position ids alone, but then leaks between samples as soon as a mask of ones or
a cache is passed; here the bounds of the samples are passed explicitly and each is attended to on its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "yivl"
"""The name under which the function is registered with transformers."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bounds: tuple[int, ...] | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention, within each sample where `bounds` are given.

    Args:
        module: the attention layer that calls.
        query: [B, heads, T, head_dim]; key and value may have fewer heads.
        key: [B, key-value heads, T, head_dim].
        value: as key.
        attention_mask: as transformers makes it; not used with bounds.
        bounds: where each packed sample begins, and T at the end; B is 1 then.
        scaling: factor of the scores; 1/sqrt(head_dim) by default.
        kwargs: passed to transformers' SDPA when there are no bounds.

    Returns:
        [B, T, heads, head_dim], and None for the attention weights, which are never formed.
    """
    if bounds is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    pieces = [
        F.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end],
            is_causal=True, scale=scaling, enable_gqa=True,
        )
        for start, end in pairwise(bounds)
    ]  # fmt: skip
    return torch.cat(pieces, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
