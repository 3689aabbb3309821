"""The head's loss, computed in chunks with its gradients at once, is that of all logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yivl import YiVL
from yivl.configuration import YiVLConfig
from yivl.encoder import IGNORE
from yivl.loss import CHUNK, SupervisedHead
from yivl.model import YiVLForConditionalGeneration

HIDDEN, VOCABULARY, ROWS = 16, 300, CHUNK + 476
"""Two chunks, the second one short."""


def head_and_rows(dtype: torch.dtype, frozen: bool = False, rows: int = ROWS) -> tuple[SupervisedHead, Tensor, Tensor]:
    """A head, and hidden rows with targets."""
    head = SupervisedHead(nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=dtype))
    head.weight.requires_grad_(not frozen)
    hidden = torch.randn(rows, HIDDEN, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(0, VOCABULARY, (rows,))


def gradients(total: Tensor, *of: Tensor) -> list[Tensor]:
    """Of a third of the total, with respect to those that are not frozen."""
    return list(torch.autograd.grad(total / 3, [tensor for tensor in of if tensor.requires_grad]))


@pytest.mark.parametrize("frozen", [False, True])
def test_loss_and_gradients_are_those_of_all_logits(frozen: bool) -> None:
    head, hidden, targets = head_and_rows(torch.float32, frozen)
    total, tokens = head(hidden, targets)
    expected = F.cross_entropy(hidden @ head.weight.T, targets, reduction="none")
    assert torch.allclose(tokens, expected, rtol=1e-5) and not tokens.requires_grad
    assert torch.allclose(total, expected.sum())
    reference = gradients(expected.sum(), hidden, head.weight)
    for gradient, wanted in zip(gradients(total, hidden, head.weight), reference, strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize("frozen", [False, True])
def test_bf16_is_as_exact_as_its_products(autocast: bool, frozen: bool) -> None:
    head, hidden, targets = head_and_rows(torch.float32 if autocast else torch.bfloat16, frozen)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total, tokens = head(hidden, targets)
        logits = head(hidden)
    assert logits.dtype == torch.bfloat16
    assert total.dtype == tokens.dtype == torch.float32
    assert torch.allclose(tokens, F.cross_entropy(logits.float(), targets, reduction="none"), rtol=1e-5)
    rows, weight = hidden.detach().double().requires_grad_(), head.weight.detach().double().requires_grad_(not frozen)
    reference = gradients(F.cross_entropy(rows @ weight.T, targets, reduction="sum"), rows, weight)
    for gradient, wanted in zip(gradients(total, hidden, head.weight), reference, strict=True):
        assert gradient.dtype == hidden.dtype
        assert float((gradient - wanted).norm() / wanted.norm()) < 0.005  # a rounding to 8 bits is up to 0.004


def test_without_gradients_the_loss_is_the_same_and_has_no_graph() -> None:
    head, hidden, targets = head_and_rows(torch.float32)
    with torch.no_grad():
        total, tokens = head(hidden, targets)
    assert not total.requires_grad
    assert torch.equal(tokens, head(hidden, targets).tokens)


def test_no_rows_give_a_zero_gradient_not_none() -> None:
    head, hidden, targets = head_and_rows(torch.float32, rows=0)
    total, tokens = head(hidden, targets)
    assert total == 0 and len(tokens) == 0
    of_rows, of_weight = gradients(total, hidden, head.weight)
    assert of_rows.shape == hidden.shape and torch.equal(of_weight, torch.zeros_like(head.weight))


def test_a_second_backward_pass_is_refused() -> None:
    head, hidden, targets = head_and_rows(torch.float32, rows=3)
    total, _ = head(hidden, targets)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_head_with_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        SupervisedHead(nn.Linear(2, 3))


def test_a_tied_head_trains_the_one_weight() -> None:
    config = YiVLConfig(
        vision_config={"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "heads": 2},
        text_config={"model_type": "llama", "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48,
                     "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": True},
    )  # fmt: skip
    model = YiVLForConditionalGeneration(config).eval()
    words = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is words
    ids = torch.randint(5, 90, (1, 20))
    found, expected = model(ids, labels=ids).loss, model.language(ids, labels=ids).loss
    assert torch.allclose(found, expected)
    (gradient,), (wanted,) = gradients(found, words), gradients(expected, words)
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_token_losses_are_told_row_by_row(tiny: YiVL) -> None:
    ids = torch.randint(5, 2000, (2, 30))
    labels = ids.masked_fill(torch.rand(2, 30) < 0.5, IGNORE)
    with torch.no_grad():
        output = tiny.model(ids, labels=labels)
        logits = tiny.model(ids).logits
    each = [F.cross_entropy(row[:-1], label[1:], reduction="none") for row, label in zip(logits, labels, strict=True)]
    supervised = torch.cat(each)[labels[:, 1:].flatten() != IGNORE]
    assert torch.allclose(output.token_losses, supervised, rtol=1e-5)
    assert torch.allclose(output.loss, supervised.mean())
