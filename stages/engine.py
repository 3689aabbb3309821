"""The engine: forward, backward and the optimiser, in plain torch; each process holds the whole model.

Trained weights, gradients and moments are fp32; with bf16 the computation runs under autocast and frozen weights are
stored in bf16. All supervised tokens of an optimiser step weigh the same, in whichever micro-batch they stand.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from data.packing import Batch
from stages.parts import cast, parameter_groups, trained
from stages.ranks import Ranks
from stages.stage import Stage
from yivl.model import YiVLForConditionalGeneration

_MOMENTS = ("exp_avg", "exp_avg_sq")


class NonFinite(RuntimeError):
    """A loss or gradient that is not a number; raised before the optimiser moves anything."""


class Engine:
    """Args:
    model: its trainable parameters are those with `requires_grad`.
    stage: rates, clipping, precision.
    ranks: the processes of the run, whose gradients are added up before each step.
    """

    def __init__(self, model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> None:
        self.ranks = ranks
        self.device = ranks.device
        self.precision = torch.bfloat16 if stage.precision == "bf16" else torch.float32
        cast(model, self.precision)
        self.model = model.to(self.device)  # type: ignore[arg-type]
        self.model.train()
        self.trained = trained(model)
        self.clip_norm = stage.clip_norm
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, stage.learning_rate, stage.weight_decay),
            betas=(stage.betas[0], stage.betas[1]),
            fused=True,
        )

    def backward(self, batches: Sequence[Batch], supervised: int) -> float:
        """Adds the gradient of (sum of token losses / supervised tokens of the step) of these micro-batches.

        Returns:
            The part of that loss that these micro-batches make.

        Raises:
            NonFinite: a loss is not a number; names the samples.
        """
        total = 0.0
        for batch in batches:
            with self._autocast():
                loss: Tensor = self.model(
                    input_ids=batch.input_ids.to(self.device)[None],
                    pixel_values=batch.pixels.to(self.device),
                    position_ids=batch.position_ids.to(self.device)[None],
                    labels=batch.labels.to(self.device)[None],
                    bounds=batch.bounds,
                    num_items_in_batch=supervised,
                ).loss
            value = loss.item()
            if not math.isfinite(value):
                raise NonFinite(f"the loss is {value} on {', '.join(batch.keys)}")
            loss.backward()
            total += value
        return total

    def step(self, factor: float) -> float:
        """Adds up the processes' gradients, clips, moves the weights by the peak rates times `factor`, clears.

        Returns:
            The gradient's norm.

        Raises:
            NonFinite: the norm is not a number; the weights are as before.
        """
        self.ranks.add_up([parameter.grad for parameter in self.trained.values() if parameter.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.clip_norm).item()
        if not math.isfinite(norm):
            raise NonFinite(f"the gradient's norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """What a resume needs: trained weights and their moments."""
        tensors = {f"weight/{name}": parameter.detach() for name, parameter in self.trained.items()}
        for name, parameter in self.trained.items():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{kind}/{name}": moments[kind] for kind in (*_MOMENTS, "step") if kind in moments}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave.

        Raises:
            ValueError: it is the state of other parameters.
        """
        expected = {f"weight/{name}" for name in self.trained}
        found = {name for name in tensors if name.startswith("weight/")}
        if expected != found:
            raise ValueError(f"the checkpoint trains other parameters: {sorted(expected ^ found)[:5]}")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[f"weight/{name}"])
                if f"step/{name}" in tensors:
                    kinds = {kind: tensors[f"{kind}/{name}"].to(self.device) for kind in (*_MOMENTS, "step")}
                    self.optimizer.state[parameter] = kinds

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            yield
