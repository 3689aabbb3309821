"""The ways to train that `python -m stages.benchmark` compares, each run in a process of its own.

`packed` is ours. `padded` is the step of Yi-VL's released fine-tuning script and of LLaVA's trainer, on which it
builds: micro-batches of equally many samples, padded on the right to the longest of them, transformers' own SDPA Llama
with an attention mask, every decoder layer run again in the backward pass, logits at every position, those but the last
copied in float32, and as loss the mean of the micro-batches' means. Modules, weights, optimiser, clipping and precision
are the same. `products` multiplies matrices: the most that the machine gives.
"""

from __future__ import annotations

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from data.packing import micro_batches
from data.parent import end_with_parent
from stages.benchmark.case import Case
from stages.engines import on_cpu
from stages.engines.plain import PlainEngine
from stages.parts import freeze_all_but
from yivl.checkpointing import blocks, recompute
from yivl.encoder import IGNORE, Example
from yivl.ranks import Ranks

_PRODUCTS = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (8192, 512, 2048)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}
"""Rows, inner size and columns: square, and tall as a model's are."""
_LEAST_SECONDS = 0.3
"""Of one shape in one measurement."""


class Way(Protocol):
    """Something to measure."""

    def warm_up(self) -> None:
        """Runs a little of it, so that memory and kernels are there."""

    def measure(self) -> float:
        """Seconds of an optimiser step; of `Products`, FLOP/s."""


class _Step(ABC):
    """An optimiser step of a case.

    Args:
        case: what is trained.
    """

    def __init__(self, case: Case) -> None:
        model, settings = case.model(), case.settings()
        freeze_all_but(model, settings.learning_rate)
        self.engine = PlainEngine(model, settings, Ranks())

    def warm_up(self) -> None:
        """A step over one micro-batch; on a GPU over all, since each length has kernels and memory of its own."""
        self._step(1 if self.engine.device.type == "cpu" else self.micro_batches)

    def measure(self) -> float:
        """Seconds of a step."""
        return _seconds(lambda: self._step(self.micro_batches), self.engine.device)

    def _step(self, count: int) -> None:
        self.backward(count)
        self.engine.step(1.0, lambda norm: True)

    @property
    @abstractmethod
    def micro_batches(self) -> int:
        """Of a step."""

    @abstractmethod
    def backward(self, count: int) -> None:
        """Adds up the gradients of a step that has the first `count` micro-batches only."""


class Packed(_Step):
    """Ours."""

    def __init__(self, case: Case) -> None:
        if case.device.type == "cpu":
            on_cpu.prepare()
        super().__init__(case)
        for part, every in case.recomputed.items():
            recompute(blocks(self.engine.model, part), every)
        self.batches = micro_batches(case.examples(), case.settings().tokens_per_micro_batch)

    @property
    def micro_batches(self) -> int:
        """See `_Step`."""
        return len(self.batches)

    def backward(self, count: int) -> None:
        """See `_Step`."""
        batches = self.batches[:count]
        self.engine.backward(batches, sum(batch.supervised for batch in batches))


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Samples padded on the right to the longest one's T tokens."""

    input_ids: Tensor  # int64 [B, T]
    labels: Tensor  # int64 [B, T]
    mask: Tensor  # int64 [B, T], 0 at padding
    pixels: Tensor  # uint8 [B, 3, S, S]


class Padded(_Step):
    """The other one."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.language = self.engine.model.language
        self.language.set_attn_implementation("sdpa")
        recompute(blocks(self.engine.model, "language"), 1)
        examples = case.examples()
        self.batches = [pad(examples[n : n + case.padded]) for n in range(0, len(examples), case.padded)]

    @property
    def micro_batches(self) -> int:
        """See `_Step`."""
        return len(self.batches)

    def backward(self, count: int) -> None:
        """See `_Step`."""
        device, bf16 = self.engine.device, self.engine.precision == torch.bfloat16
        for batch in self.batches[:count]:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                embeddings = self.engine.model.embed(batch.input_ids.to(device), batch.pixels.to(device))
                logits = self.language(
                    inputs_embeds=embeddings, attention_mask=batch.mask.to(device), use_cache=False
                ).logits
                before_last = logits[:, :-1].float().contiguous()  # in float32, too, a copy
                loss = F.cross_entropy(before_last.flatten(0, 1), batch.labels[:, 1:].flatten().to(device))
            (loss / count).backward()


class Products:
    """Matrix products of the case's precision."""

    def __init__(self, case: Case) -> None:
        self.device = case.device
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        self.pairs = [
            (torch.randn(rows, inner).to(self.device, dtype), torch.randn(inner, columns).to(self.device, dtype))
            for rows, inner, columns in _PRODUCTS[self.device.type]
        ]

    def warm_up(self) -> None:
        """Each product once."""
        for a, b in self.pairs:
            a @ b

    def measure(self) -> float:
        """FLOP/s of the shape that gives most."""
        return max(self._rate(a, b) for a, b in self.pairs)

    def _rate(self, a: Tensor, b: Tensor) -> float:
        seconds = count = 0.0
        while seconds < _LEAST_SECONDS:
            seconds += _seconds(lambda: a @ b, self.device)
            count += 1
        return 2 * a.numel() * b.shape[1] * count / seconds


WAYS: dict[str, Callable[[Case], Way]] = {"packed": Packed, "padded": Padded, "products": Products}


@dataclass(frozen=True, slots=True)
class Run:
    """A way in its own process, warmed up."""

    _pool: ProcessPoolExecutor

    def measure(self) -> float:
        """See `Way.measure`."""
        return self._pool.submit(_measure).result()

    def peak(self) -> int:
        """Most bytes that it has had: of the process on a CPU, of the allocator on a GPU."""
        return self._pool.submit(_peak).result()


@contextmanager
def running(way: str, case: Case) -> Iterator[Run]:
    """Begins a way of `WAYS` in a fresh process, and ends it afterwards."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(way, case)) as pool:
        yield Run(pool)


_way: Way
"""Of a process that `running` began."""


def _begin(way: str, case: Case) -> None:
    global _way
    end_with_parent()
    _way = WAYS[way](case)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # building the model in float32 takes more than training it
    _way.warm_up()


def _measure() -> float:
    return _way.measure()


def _peak() -> int:
    return peak_bytes(Ranks().device)


def peak_bytes(device: torch.device) -> int:
    """Most bytes that this process has had: of the allocator on a GPU, of all its memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pad(examples: Sequence[Example]) -> PaddedBatch:
    """The samples as one padded micro-batch."""

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value)

    ids = [torch.from_numpy(example.input_ids) for example in examples]
    return PaddedBatch(
        input_ids=padded(ids, 0),
        labels=padded([torch.from_numpy(example.labels) for example in examples], IGNORE),
        mask=padded([torch.ones_like(row) for row in ids], 0),
        pixels=torch.cat([torch.from_numpy(example.pixels) for example in examples]),
    )


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
