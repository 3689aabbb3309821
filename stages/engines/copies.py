"""Batches to the device, the next one while the one before is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from data.packing import Batch
from stages.engines.clock import Clock


def on_device(batches: Sequence[Batch], device: torch.device, clock: Clock) -> Iterator[Batch]:
    """The batches with their tensors on `device`; on a GPU copied one ahead, on a stream of their own. The time goes to
    the clock's lap `copy`; on the CPU there is nothing to copy."""
    if device.type != "cuda":
        for batch in batches:
            with clock.lap("copy"):
                pass
            yield batch
        return
    aside = _aside(device)
    ahead: tuple[Batch, torch.cuda.Event] | None = None
    for following in [*batches, None]:
        ready = ahead
        if following is not None:
            with torch.cuda.stream(aside), clock.lap("copy"):
                ahead = (_copied(following, device), aside.record_event())
        if ready is not None:
            torch.cuda.current_stream(device).wait_event(ready[1])
            for tensor in (ready[0].input_ids, ready[0].labels, ready[0].position_ids, ready[0].pixels):
                tensor.record_stream(torch.cuda.current_stream(device))  # or its memory would be given away too early
            yield ready[0]


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """The stream of copies. One for all steps, since the allocator keeps memory for each."""
    return torch.cuda.Stream(device)


def _copied(batch: Batch, device: torch.device) -> Batch:
    def copy(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True)

    return replace(
        batch,
        input_ids=copy(batch.input_ids),
        labels=copy(batch.labels),
        position_ids=copy(batch.position_ids),
        pixels=copy(batch.pixels),
    )
