"""Attention in packed rows: causal within each sample, blind to all others."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from yivl import YiVL
from yivl.attention import attention

BOUNDS = (0, 1, 70, 83, 211)
"""Samples of 1, 69, 13 and 128 tokens."""
HEADS, KEY_VALUE_HEADS, HEAD_DIM = 8, 2, 64


def inputs(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of the packed row."""
    query, key, value = (
        torch.randn(1, heads, BOUNDS[-1], HEAD_DIM, device=device).to(dtype).requires_grad_()
        for heads in (HEADS, KEY_VALUE_HEADS, KEY_VALUE_HEADS)
    )
    return query, key, value


def packed(query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None) -> Tensor:
    """[1, T, heads, head_dim]."""
    offsets = torch.tensor(BOUNDS, dtype=torch.int32, device=query.device)
    return attention(nn.Identity(), query, key, value, None, bounds=BOUNDS, offsets=offsets, scaling=scaling)[0]


def by_definition(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Softmax of all scores, in float64; minus infinity across samples and towards the future."""
    query, key, value = query.double(), key.double(), value.double()
    key, value = (tensor.repeat_interleave(HEADS // KEY_VALUE_HEADS, dim=1) for tensor in (key, value))
    allowed = torch.zeros(BOUNDS[-1], BOUNDS[-1], dtype=torch.bool, device=query.device)
    for start, end in pairwise(BOUNDS):
        allowed[start:end, start:end] = True
    scores = (query @ key.mT * scaling).masked_fill(~allowed.tril(), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def assert_as_defined(tensors: tuple[Tensor, Tensor, Tensor], tolerance: float, scaling: float | None = None) -> None:
    """The output and its gradients, relative to the largest value of each."""
    found = packed(*tensors, scaling)
    expected = by_definition(*tensors, HEAD_DIM**-0.5 if scaling is None else scaling)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((output * weights).sum(), tensors) for output in (found, expected)]
    for one, other in ((found, expected), *zip(*gradients, strict=True)):
        assert float((one - other).detach().abs().max()) < tolerance * float(other.detach().abs().max())


@pytest.mark.parametrize("scaling", [None, 0.3])
def test_packed_attention_is_causal_attention_within_each_sample(scaling: float | None) -> None:
    assert_as_defined(inputs(torch.float32), 1e-5, scaling)


def test_bf16_queries_may_come_in_float32() -> None:
    """As the rotary embedding makes them under autocast."""
    query, key, value = inputs(torch.bfloat16)
    assert torch.equal(packed(query.float(), key.float(), value), packed(query, key, value))


def test_a_sample_gets_to_the_bit_what_it_gets_alone() -> None:
    query, key, value = inputs(torch.float32)
    together = packed(query, key, value)
    for start, end in pairwise(BOUNDS):
        one, its_key, its_value = (tensor[:, :, start:end] for tensor in (query, key, value))
        alone, _ = attention(nn.Identity(), one, its_key, its_value, None, bounds=(0, end - start))
        assert torch.equal(together[:, start:end], alone)


@pytest.fixture
def row(tiny: YiVL) -> tuple[Tensor, Tensor]:
    """Embeddings [1, T, H] of the packed row, and its position ids."""
    embeddings = torch.randn(1, BOUNDS[-1], tiny.model.config.text_config.hidden_size)
    return embeddings, torch.cat([torch.arange(end - start) for start, end in pairwise(BOUNDS)])[None]


def test_a_poisoned_sample_changes_no_bit_of_another(tiny: YiVL, row: tuple[Tensor, Tensor]) -> None:
    embeddings, positions = row
    start, end = BOUNDS[1:3]
    poisoned = embeddings.clone()
    poisoned[:, start:end] = float("nan")
    with torch.no_grad():
        clean, dirty = (
            tiny.model(inputs_embeds=given, position_ids=positions, bounds=BOUNDS).logits
            for given in (embeddings, poisoned)
        )
    assert dirty[:, start:end].isnan().all()
    assert torch.equal(dirty[:, :start], clean[:, :start])
    assert torch.equal(dirty[:, end:], clean[:, end:])


def test_a_sample_sends_no_gradient_into_another(tiny: YiVL, row: tuple[Tensor, Tensor]) -> None:
    embeddings, positions = row
    embeddings.requires_grad_()
    logits = tiny.model(inputs_embeds=embeddings, position_ids=positions, bounds=BOUNDS).logits
    start, end = BOUNDS[2:4]
    (gradient,) = torch.autograd.grad(logits[:, start:end].sum(), embeddings)
    assert gradient[:, start:end].any(dim=-1).all()
    assert not gradient[:, :start].any() and not gradient[:, end:].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gpus_one_kernel_is_attention_within_each_sample(dtype: torch.dtype) -> None:
    assert_as_defined(inputs(dtype, "cuda"), 0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float32_on_a_gpu_takes_each_sample_by_itself() -> None:
    assert_as_defined(inputs(torch.float32, "cuda"), 1e-4)
