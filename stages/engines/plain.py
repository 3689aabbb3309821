"""The engine in plain torch: each process holds the whole model.

Trained weights, gradients and moments are fp32; with bf16 the computation runs under autocast and frozen weights are
stored in bf16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from data.packing import Batch
from stages.engines.engine import KINDS, WEIGHT, Engine, Passed
from stages.parts import cast, cast_all, parameter_groups
from stages.stage import Stage
from yivl.checkpointing import any_recomputed
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import Ranks


class PlainEngine(Engine):
    """See `Engine`."""

    def __init__(self, model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> None:
        super().__init__(model, stage, ranks)
        cast(model, self.precision)
        model.to(self.device)  # type: ignore[arg-type]
        self.clip_norm = stage.clip_norm
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, stage.learning_rate, stage.weight_decay),
            betas=(stage.betas[0], stage.betas[1]),
            fused=True,
        )
        begin_moments(self.optimizer, self.trained.values())

    def backward(self, batches: Sequence[Batch], supervised: int) -> Passed:
        """See `Engine.backward`. Autocast keeps its bf16 copies of the weights from one micro-batch to the next, unless
        `_precision` says otherwise."""
        torch.autocast_increment_nesting()
        try:
            return super().backward(batches, supervised)
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()

    def finished(self) -> YiVLForConditionalGeneration:
        """See `Engine.finished`."""
        cast_all(self.model, self.precision)
        self.model.train(False)
        return self.model

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        # blocks that run again on autograd's own thread, a GPU's, clear the kept copies each time: dead weight
        keep = self.device.type == "cpu" or not any_recomputed(self.model)
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16, cache_enabled=keep
        )

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _step(self, factor: float, allowed: Callable[[float], bool]) -> tuple[float, bool]:
        self.ranks.add_up([parameter.grad for parameter in self.trained.values() if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.clip_norm).item()
        applied = allowed(norm)
        if applied:
            set_rates(self.optimizer, factor)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, applied

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        whole: Tensor = parameter.detach() if kind == WEIGHT else self.optimizer.state[parameter][kind]
        return whole

    def _put(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        self._whole(parameter, kind).copy_(value)

    def _loaded(self) -> None:
        set_updates(self.optimizer, self.updates)


def begin_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Makes AdamW's moments, which it would make at its first update: so they are there to be loaded."""
    for parameter in parameters:
        optimizer.state[parameter] = {kind: torch.zeros_like(parameter) for kind in KINDS if kind != WEIGHT}
    set_updates(optimizer, 0)


def set_updates(optimizer: torch.optim.Optimizer, updates: int) -> None:
    """Sets how often AdamW has moved the weights."""
    for parameter, state in optimizer.state.items():
        state["step"] = torch.tensor(float(updates), device=parameter.device)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's rate: its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
