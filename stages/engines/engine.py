"""The engine: forward, backward and the optimiser. Here is what all engines share.

All supervised tokens of an optimiser step weigh the same, in whichever micro-batch or process they stand. What a resume
needs leaves an engine, and enters it, as whole tensors: so a run goes on with another engine or number of processes.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.packing import Batch
from stages.engines.clock import Clock
from stages.engines.copies import on_device
from stages.parts import trained
from stages.stage import Stage
from yivl.model import YiVLForConditionalGeneration, YiVLOutput
from yivl.ranks import Ranks

WEIGHT = "weight"
KINDS = (WEIGHT, "exp_avg", "exp_avg_sq")
"""What is kept of each trained parameter, in fp32: itself, and AdamW's moments."""
_UPDATES = "updates"
"""Key in the state: how often the optimiser moved the weights, which AdamW's bias correction goes by."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What forward and backward over micro-batches gave."""

    token_losses: tuple[Tensor, ...]
    """For each micro-batch float32 [supervised tokens] in reading order, on the CPU."""
    seconds: Mapping[str, float]
    """Spent in `copy`, `forward` and `backward`."""


@dataclass(frozen=True, slots=True)
class Update:
    """What the optimiser did."""

    norm: float
    """Of the gradient, before clipping; infinite or NaN if it is not a number."""
    applied: bool
    """False: the weights are as before."""
    seconds: float


class Engine(ABC):
    """A model in training.

    Args:
        model: its trainable parameters are those with `requires_grad`.
        stage: rates, clipping, precision.
        ranks: the processes of the run.
    """

    def __init__(self, model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> None:
        self.model = model
        self.model.train()
        self._module: nn.Module = model
        self.ranks = ranks
        self.device = ranks.device
        self.precision = torch.bfloat16 if stage.precision == "bf16" else torch.float32
        self.trained = trained(model)
        self.updates = 0
        self.on_phase: Callable[[str, Sequence[str]], None] = lambda phase, keys: None
        """Told what begins (forward, backward, optimiser), and the keys of its samples."""

    def backward(self, batches: Sequence[Batch], supervised: int) -> Passed:
        """Adds the gradient of (sum of token losses / supervised tokens of the step) of these micro-batches.

        Losses that are not a number are returned as they are: the trainer judges them before the optimiser moves.
        """
        clock = Clock(self.device)
        token_losses = []
        for batch in on_device(batches, self.device, clock):
            self.on_phase("forward", batch.keys)
            with clock.lap("forward"):
                output = self._forward(batch, supervised)
            token_losses.append(_present(output.token_losses))
            self.on_phase("backward", batch.keys)
            with clock.lap("backward"):
                self._backward(_present(output.loss))
        return Passed(tuple(losses.cpu() for losses in token_losses), clock.seconds())

    def step(self, factor: float, allowed: Callable[[float], bool]) -> Update:
        """Sums the gradients over processes, clips, moves the weights by the peak rates times `factor`, clears.

        Args:
            factor: of the schedule.
            allowed: told the gradient's norm; where it says no, or the norm is not a number, nothing moves.
        """
        self.on_phase("optimiser", ())
        clock = Clock(self.device)
        with clock.lap("optimiser"):
            norm, applied = self._step(factor, lambda norm: math.isfinite(norm) and allowed(norm))
        self.updates += applied
        return Update(norm, applied, clock.seconds()["optimiser"])

    def token_losses(self, batch: Batch) -> Tensor:
        """Without learning from it: float32 [supervised tokens] on the CPU. All processes call it equally often."""
        self.on_phase("held-out samples", batch.keys)
        with self.generating():
            on_it = next(on_device([batch], self.device, Clock(self.device)))
            return _present(self._forward(on_it, 1).token_losses).cpu()

    @property
    def synced(self) -> bool:
        """Whether the processes make every forward pass together, each holding a share of the weights: `generate`'s
        `synced_gpus`."""
        return False

    @contextlib.contextmanager
    def generating(self) -> Iterator[YiVLForConditionalGeneration]:
        """The model ready for `generate`, which all processes must call with the same inputs."""
        self.model.train(False)
        try:
            with torch.no_grad(), self._precision():
                yield self.model
        finally:
            self.model.train()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """What a resume needs, tensor by tensor: trained weights and moments, whole, in fp32; the number of updates.
        All processes take it to its end together."""
        yield _UPDATES, torch.tensor(self.updates)
        for name, parameter in self.trained.items():
            for kind in KINDS:
                yield f"{kind}/{name}", self._whole(parameter, kind)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave, to an engine of whatever kind.

        Raises:
            ValueError: it is the state of other parameters.
        """
        expected = {f"{WEIGHT}/{name}" for name in self.trained}
        found = {name for name in tensors if name.startswith(f"{WEIGHT}/")}
        if expected != found:
            raise ValueError(f"the checkpoint trains other parameters: {sorted(expected ^ found)[:5]}")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                for kind in KINDS:
                    self._put(parameter, kind, tensors[f"{kind}/{name}"])
        self.updates = int(tensors[_UPDATES])
        self._loaded()

    def _forward(self, batch: Batch, supervised: int) -> YiVLOutput:
        with self._precision():
            output: YiVLOutput = self._module(
                input_ids=batch.input_ids[None],
                pixel_values=batch.pixels,
                position_ids=batch.position_ids[None],
                labels=batch.labels[None],
                bounds=batch.bounds,
                num_items_in_batch=supervised,
            )
        return output

    @abstractmethod
    def finished(self) -> YiVLForConditionalGeneration:
        """The trained model on the CPU, in the stage's precision, for writing; the engine is of no use afterwards. All
        processes call it; only the first is given the weights."""

    @abstractmethod
    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """In what the model computes."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Adds the gradient."""

    @abstractmethod
    def _step(self, factor: float, allowed: Callable[[float], bool]) -> tuple[float, bool]:
        """The gradient's norm, and whether the weights were moved."""

    @abstractmethod
    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """One of `KINDS` of a trained parameter, fp32, on the CPU or the device."""

    @abstractmethod
    def _put(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Sets what `_whole` gives."""

    @abstractmethod
    def _loaded(self) -> None:
        """Called after all is put back, with `updates` set."""


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None  # labels were given
    return tensor
