"""The processes of a run: which of them this is, and what they settle together.

torchrun and deepspeed start a process for each GPU and say in the environment (RANK, WORLD_SIZE, LOCAL_RANK) which is
which. With one process nothing here communicates.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # the stubs do not know them

T = TypeVar("T")
_LATE = timedelta(minutes=5)
"""After the watchdog's limit, by which a process that waits for another gives up, should the watchdog fail."""
_BUCKET = 2**26
"""Elements that are summed over processes at a time: 256 MiB of float32."""


class OtherProcessFailed(RuntimeError):
    """Another process could not do what this one waited for; it tells of it itself."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Every method is called by all processes alike."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes logs and files that exist once."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """All processes' values, by rank."""
        if self.count == 1:
            return [value]
        gathered: list[T | None] = [None] * self.count
        distributed.all_gather_object(gathered, value)
        return gathered  # type: ignore[return-value]

    def alike(self, action: Callable[[], T]) -> T:
        """What an action gives that every process takes, such as reading files that may lie on its own machine: all of
        them can, or none goes on.

        Raises:
            Exception: what the action raised, on this process.
            OtherProcessFailed: on this process it was no trouble, on another one it was.
        """
        error: Exception | None = None
        try:
            found = action()
        except Exception as raised:
            error = raised
        told = self.gather(None if error is None else str(error) or type(error).__name__)
        if error:
            try:
                raise error
            finally:
                del error  # or it would hold this frame, which holds it, and with them what the action locked
        for rank, reason in enumerate(told):
            if reason is not None:
                raise OtherProcessFailed(f"process {rank}: {reason}")
        return found

    def by_first(self, action: Callable[[], object]) -> None:
        """Lets the first process do something while the others wait; raises as `alike` does."""
        self.alike(action if self.first else lambda: None)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces float32 tensors, of equal shapes everywhere, by their sums over all processes."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            distributed.all_reduce(flat)
            for tensor, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    @property
    def device(self) -> torch.device:
        """Where this process computes: its GPU, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextlib.contextmanager
def joined(hang_minutes: float) -> Iterator[Ranks]:
    """Joins the other processes of a run, if there are any, for as long as the block lasts.

    Args:
        hang_minutes: what the watchdog allows a phase.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    ranks = Ranks(int(os.environ["RANK"]), count)
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    timeout = timedelta(minutes=hang_minutes) + _LATE
    store, *_ = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # on one machine: the counts of several differ
        # torchrun starts processes anew with the same store: they would find the addresses of those that are gone
        store = PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if ranks.device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=ranks.rank, world_size=count, timeout=timeout)
    yield ranks  # after an error the process ends as it is: NCCL may wait for ever for those that still compute
    distributed.barrier()  # a process that leaves first would end the others' last exchange
    distributed.destroy_process_group()
