"""Which parameters a stage trains, and at what rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from stages.stage import Stage
from yivl.adapters import adapter_parameters
from yivl.configuration import YiVLConfig
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the table that is shown before a run begins."""

    name: str
    parameters: int
    rate: float | None
    """None: frozen."""


def freeze_all_but(model: YiVLForConditionalGeneration, rates: dict[str, float]) -> list[Part]:
    """Makes exactly the parts with a rate trainable, and of an adapted language part the adapter alone.

    Returns:
        The table.

    Raises:
        ValueError: a rate is for a part that the model does not have.
    """
    model.requires_grad_(False)
    table = []
    counted = 0
    trainable = _trainable(model)
    for name, parameters in model.part_parameters().items():
        if name in rates and not parameters:
            raise ValueError(f"learning_rate names the part {name}, which the model does not have")
        for parameter in trainable[name].values():
            parameter.requires_grad_(name in rates)
        size, whole = _size(trainable[name].values()), _size(parameters.values())
        counted += whole
        if size < whole:
            table.append(Part(name, whole - size, None))
        table.append(Part(f"{name}, adapter" if size < whole else name, size, rates.get(name)))
    table.append(Part("vision, unused (last block, final norm)", _size(model.parameters()) - counted, None))
    return [part for part in table if part.parameters]


def check_vision(stage: Stage, config: YiVLConfig) -> None:
    """Makes sure that a stage says of images what its model needs.

    Raises:
        SettingsError: it lacks a resolution, or has one or benchmarks where the model has no vision part.
    """
    if config.has_vision and not stage.resolution:
        raise SettingsError(f"{stage.name}: resolution is missing; {stage.model} has a vision part")
    if not config.has_vision and (stage.resolution or stage.benchmarks):
        key = "resolution" if stage.resolution else "benchmarks"
        raise SettingsError(f"{stage.name}: {key} is of images, but {stage.model} has no vision part; leave it out")


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def parameter_groups(
    model: YiVLForConditionalGeneration, rates: dict[str, float], weight_decay: float
) -> list[dict[str, object]]:
    """Optimiser groups: each part's matrices with decay, its biases and norms without; `peak` is the part's rate."""
    groups: list[dict[str, object]] = []
    for part, parameters in _trainable(model).items():
        for matrices in (True, False):
            chosen = [parameter for parameter in parameters.values() if (parameter.ndim >= 2) == matrices]
            if part in rates and chosen:
                decay = weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": 0.0, "peak": rates[part], "weight_decay": decay})
    return groups


def cast(model: nn.Module, frozen: torch.dtype, trained: torch.dtype = torch.float32) -> None:
    """Trained parameters to one type, frozen ones to another; what is packed in 4 bits stays as it is."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(trained if parameter.requires_grad else frozen)


def cast_all(model: nn.Module, dtype: torch.dtype) -> None:
    """All parameters to `dtype` on the CPU, for writing; what is packed in 4 bits stays packed."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to("cpu", dtype)
    model.cpu()  # what is packed, with its scales


def describe(table: list[Part]) -> str:
    """The table as text."""
    lines = [f"{'module':42} {'parameters':>16}  {'':8} {'rate':>8}"]
    for part in table:
        state, rate = ("frozen", "-") if part.rate is None else ("trained", f"{part.rate:g}")
        lines.append(f"{part.name:42} {part.parameters:>16,}  {state:8} {rate:>8}")
    return "\n".join(lines)


def _trainable(model: YiVLForConditionalGeneration) -> dict[str, dict[str, nn.Parameter]]:
    """For each part what a rate trains: all of it, or the language part's adapter."""
    adapter = adapter_parameters(model)
    return model.part_parameters() | ({"language": adapter} if adapter else {})


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
