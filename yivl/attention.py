"""The language part's attention: transformers' SDPA, and packed rows in which samples never see each other.

transformers can detect packing from position ids alone, but then leaks between samples as soon as a mask of ones or
a cache is passed; here the bounds of the samples are passed explicitly. On a GPU in half precision one kernel takes
all samples; elsewhere each is attended to on its own.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "yivl"
"""The name under which the function is registered with transformers."""
# torch 2.11 takes fewer key-value heads without being told; later versions want to be
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bounds: tuple[int, ...] | None = None,
    offsets: Tensor | None = None,
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
        offsets: int32 [samples + 1], the bounds on the device; a GPU's kernel reads them there.
        scaling: factor of the scores; 1/sqrt(head_dim) by default.
        kwargs: passed to transformers' SDPA when there are no bounds.

    Returns:
        [B, T, heads, head_dim], and None for the attention weights, which are never formed.
    """
    if bounds is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    # under autocast the rotary embedding has made float32 of these two
    query, key = query.to(value.dtype), key.to(value.dtype)
    if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16):
        assert offsets is not None
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, head_dim]
        longest = max(end - start for start, end in pairwise(bounds))
        return _all_at_once(query, key, value, offsets, longest, scaling)[None], None
    return _one_by_one(query, key, value, bounds, scaling), None


def _all_at_once(
    query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int, scaling: float | None
) -> Tensor:
    causal = (-1, 0)  # as a window: everything to the left, nothing to the right
    output = varlen_attn(
        query, key, value, offsets, offsets, longest, longest, scale=scaling, window_size=causal, **_GROUPED
    )
    assert isinstance(output, Tensor)
    return output


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, bounds: tuple[int, ...], scaling: float | None) -> Tensor:
    lengths = [end - start for start, end in pairwise(bounds)]
    # `split`, not slices: each slice's gradient would be a row of zeros as long as all samples together
    samples = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    pieces = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2)
        for q, k, v in samples
    ]
    return torch.cat(pieces, dim=1)


# From Hopper on torch prefers cuDNN's attention, which builds and keeps a plan for every shape; packed rows and answers
# that grow hardly have one twice
torch.backends.cuda.enable_cudnn_sdp(False)
AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
