"""Activation checkpointing: blocks that keep their inputs alone, and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from yivl.model import YiVLForConditionalGeneration


def blocks(model: YiVLForConditionalGeneration, part: str) -> list[nn.Module]:
    """The blocks of the vision or language part that a forward pass runs, in order."""
    if part == "vision" and model.vision is None:
        return []
    kinds = model._no_split_modules
    found = [one for one in model.get_submodule(part).modules() if type(one).__name__ in kinds]
    return found[:-1] if part == "vision" else found  # the ViT's last block is never run


def recompute(blocks: Sequence[nn.Module], every: int) -> None:
    """Lets the first of every `every` blocks run again in the backward pass instead of keeping what is inside it.

    Nothing else changes: not the gradients, to the last bit, nor the names of weights; without gradients or in eval
    mode a block runs as it is.

    Args:
        blocks: in order.
        every: 1 is all of them, 0 none; what was chosen before no longer holds.
    """
    for number, block in enumerate(blocks):
        vars(block).pop("forward", None)
        if every and number % every == 0:
            # the instance's `forward`, not its call: hooks on the block (ZeRO-3's) stay outside and run once, those
            # on the modules in it, which hold the weights, run again
            block.forward = partial(_forward, block)


def any_recomputed(model: nn.Module) -> bool:
    """Whether `recompute` chose some of its blocks."""
    return any("forward" in vars(module) for module in model.modules())


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)
