"""`python -m stages.benchmark --head`: the loss head by itself, ours beside torch's.

Forward and backward from hidden states of width 512 over a vocabulary of 64,000. `chunks` is `yivl.loss`; `linear` is
torch's `linear_cross_entropy` with its own choice of chunks, where torch has it; `logits` forms all logits, takes a
float32 copy and the cross-entropy of that. On the CPU.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.parent import end_with_parent
from stages.benchmark.ways import peak_bytes
from yivl.loss import HeadLoss, SupervisedHead

_HIDDEN, _VOCABULARY = 512, 64_000
_ROWS = 1500
_REPEATS = 3
_EXACT_ROWS = 256
"""On which the gradients are compared with float64's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLine:
    """A line of the table."""

    way: str
    precision: str
    frozen: bool
    """Without a gradient of the weight."""
    rows: int
    seconds: float
    """Of forward and backward, the median."""
    peak_bytes: int
    """Of memory, on top of the weight and the rows."""
    error: float
    """Of the gradients on 256 rows, relative to float64's: norm of the difference over norm."""


def _chunks(head: SupervisedHead, rows: Tensor, targets: Tensor) -> Tensor:
    loss: HeadLoss = head(rows, targets)
    return loss.total


def _linear(head: SupervisedHead, rows: Tensor, targets: Tensor) -> Tensor:
    weight = head.weight
    if torch.is_autocast_enabled("cpu"):  # which does not know this function
        rows, weight = rows.bfloat16(), weight.bfloat16()
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(rows, weight, targets, reduction="sum", options=options)


def _logits(head: SupervisedHead, rows: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = head(rows)
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="sum")


_WAYS: dict[str, Callable[[SupervisedHead, Tensor, Tensor], Tensor]] = {"chunks": _chunks, "logits": _logits}
if hasattr(F, "linear_cross_entropy"):
    _WAYS["linear"] = _linear


def head_lines() -> list[HeadLine]:
    """All ways and precisions, with the head's weight trained and frozen; each in a fresh process."""
    lines = []
    for precision, frozen, way in product(("fp32", "bf16"), (False, True), _WAYS):
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
            lines.append(pool.submit(_measure, way, precision, frozen, _ROWS).result())
    return lines


def head_rows(lines: Sequence[HeadLine]) -> list[list[str]]:
    """The lines as a table's cells."""
    head = ["rows", "", "weight", "way", "seconds", "peak MiB", "error"]
    return [head] + [
        [
            str(line.rows), line.precision, "frozen" if line.frozen else "trained", line.way, f"{line.seconds:.2f}",
            f"{line.peak_bytes / 2**20:.0f}", f"{line.error:.1e}",
        ]
        for line in lines
    ]  # fmt: skip


def _measure(way: str, precision: str, frozen: bool, rows: int) -> HeadLine:
    torch.manual_seed(0)
    head = SupervisedHead(nn.Linear(_HIDDEN, _VOCABULARY, bias=False))
    head.weight.requires_grad_(not frozen)
    hidden, targets = torch.randn(rows, _HIDDEN, requires_grad=True), torch.randint(0, _VOCABULARY, (rows,))
    cpu = torch.device("cpu")
    before, seconds = peak_bytes(cpu), []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        _gradients(way, precision, head, hidden, targets)
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes(cpu) - before
    few, few_targets = hidden[:_EXACT_ROWS].detach().requires_grad_(), targets[:_EXACT_ROWS]
    found = _gradients(way, precision, head, few, few_targets)
    exact = few.detach().double().requires_grad_()
    expected = _gradients("logits", "fp64", copy.deepcopy(head).double(), exact, few_targets)
    return HeadLine(
        way=way,
        precision=precision,
        frozen=frozen,
        rows=rows,
        seconds=median(seconds),
        peak_bytes=peak,
        error=max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)),
    )


def _gradients(way: str, precision: str, head: SupervisedHead, rows: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = _WAYS[way](head, rows, targets)
    return torch.autograd.grad(loss, [tensor for tensor in (rows, head.weight) if tensor.requires_grad])
