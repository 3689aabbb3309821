"""The engine on DeepSpeed: the processes share the optimiser's state (ZeRO 1), gradients (2) and weights (3).

With bf16 all weights are bf16, and each process keeps its share of the trained ones in fp32. Gradients are summed and
accumulated in fp32 in either precision. Frozen weights have no fp32 copy, no gradient and no moments. No other file
imports deepspeed.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import logger, safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor, distributed, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]  # the stubs do not know it

from stages.engines.engine import WEIGHT, Engine
from stages.engines.plain import begin_moments, set_rates, set_updates
from stages.parts import cast, parameter_groups
from stages.stage import Stage
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import Ranks

_CANNOT_BUILD = "deepspeed_shm_comm"
"""Collectives in C++ for CPUs of one machine; DeepSpeed would compile them, and fail where there is no compiler."""


class DeepSpeedEngine(Engine):
    """See `Engine`. All processes build it together."""

    def __init__(self, model: YiVLForConditionalGeneration, stage: Stage, ranks: Ranks) -> None:
        super().__init__(model, stage, ranks)
        _join(self.device)
        settings = configuration(stage)
        rounded = {
            name: parameter.detach().float().clone()
            for name, parameter in self.trained.items()
            if not torch.equal(parameter.to(self.precision).float(), parameter.float())
        }
        cast(model, self.precision, trained=self.precision)
        groups = parameter_groups(model, stage.learning_rate, stage.weight_decay)  # while tensors have their shapes
        if stage.zero == 3:  # shares out one tensor at a time: a device never holds the whole model
            deepspeed.zero.Init(
                module=model, config_dict_or_path=settings, dtype=self.precision, mem_efficient_linear=False
            )
        self._adam = _Restrained(groups, betas=(stage.betas[0], stage.betas[1]), fused=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the memory at every turn
            self._engine, self._zero, _, _ = deepspeed.initialize(
                model=model, optimizer=self._adam, config=settings, dist_init_required=False
            )
        self._module = self._engine
        self._third, self._offload = stage.zero == 3, stage.offload
        begin_moments(self._adam, self._shares())
        if not self._third:
            self._zero._lazy_init_hp_params_optimizer_state()
        for name, value in rounded.items():  # DeepSpeed made the fp32 shares from the bf16 weights
            self._put(self.trained[name], WEIGHT, value)
        self._loaded()

    @property
    def synced(self) -> bool:
        """See `Engine.synced`."""
        return self._third and self.ranks.count > 1

    def finished(self) -> YiVLForConditionalGeneration:
        """See `Engine.finished`."""
        for parameter in self.model.parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._third):
                whole = parameter.detach().to("cpu", copy=True) if self.ranks.first else torch.empty(0)
            parameter.data = whole
        self._engine.destroy()
        self.model.train(False)
        return self.model

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * self.ranks.count, scale_wrt_gas=False)  # it takes the mean over processes

    def _step(self, factor: float, allowed: Callable[[float], bool]) -> tuple[float, bool]:
        set_rates(self._adam, factor)
        self._adam.allowed = lambda: allowed(float(self._zero._global_grad_norm))
        self._engine.step()
        norm = float(self._zero._global_grad_norm)
        if not math.isfinite(norm):
            self._recover()
        return norm, allowed(norm)

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        whole: Tensor = (
            safe_get_full_fp32_param(parameter) if kind == WEIGHT else safe_get_full_optimizer_state(parameter, kind)
        )
        return whole

    def _put(self, parameter: Any, kind: str, value: Tensor) -> None:
        key = None if kind == WEIGHT else kind
        if not self._third:
            parameter.set_full_hp_param(value, key)
            return
        size = parameter.ds_tensor.numel()
        share = value.new_zeros(size)  # the last process's share is filled up with zeros
        mine = value.flatten()[self.ranks.rank * size : (self.ranks.rank + 1) * size]
        share[: len(mine)] = mine
        self._zero.set_local_hp_param(share, parameter, key)

    def _loaded(self) -> None:
        set_updates(self._adam, self.updates)
        if not self._third:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        self._gather_small()

    def _recover(self) -> None:
        """After gradients that are not numbers, where DeepSpeed leaves its step half way: without the small weights
        gathered, or with those gradients still there to be added to."""
        if self._third:
            self._gather_small()
        elif self._offload:
            self._zero.averaged_gradients = dict.fromkeys(self._zero.averaged_gradients)

    def _gather_small(self) -> None:
        """Weights too small to be shared, which every process keeps whole between steps."""
        if small := self._zero.persistent_parameters:
            small[0].all_gather(small)

    def _shares(self) -> list[Tensor]:
        """This process's trained weights in fp32, flat, as the optimiser sees them."""
        if self._third:
            shares: list[Tensor] = self._zero.fp32_partitioned_groups_flat
            return shares
        return [share for group in self._adam.param_groups for share in group["params"]]


class _Restrained(torch.optim.AdamW):
    """AdamW that moves nothing unless `allowed` says yes; DeepSpeed knows the gradient's norm only inside its step."""

    allowed: Callable[[], bool]

    def step(self, closure: Any = None) -> Any:
        """AdamW's, or nothing."""
        return super().step(closure) if self.allowed() else None


def configuration(stage: Stage) -> dict[str, Any]:
    """What DeepSpeed is told: the stage's numbers, and no default of its own that would change them."""
    zero: dict[str, Any] = {"stage": stage.zero, "contiguous_gradients": True, "overlap_comm": stage.zero == 2}
    if stage.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # the number of micro-batches differs from step to step
        "gradient_clipping": stage.clip_norm,
        "bf16": {"enabled": stage.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def _join(device: torch.device) -> None:
    if not distributed.is_initialized():  # a single process, started without a launcher
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__[_CANNOT_BUILD] = False
    logger.setLevel("ERROR")
    deepspeed.init_distributed(dist_init_required=False)
