"""The bytes of all live tensors while something runs; also of fake ones, which have shapes but no data."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """A mode that counts what operations make, and what is freed.

    Args:
        present: tensors that are there before.
    """

    def __init__(self, present: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        """Bytes now, beside what was present."""
        self.peaks: dict[str, int] = defaultdict(int)
        """Most bytes in each phase, likewise."""
        self.phase = ""
        """What runs now; whoever uses the ledger says so."""
        self._seen: dict[int, int] = {}
        for tensor in present:
            self._enter(tensor)
        self.live = 0

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation."""
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        self.peaks[self.phase] = max(self.peaks[self.phase], self.live)
        return result

    def _enter(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.live -= self._seen.pop(key)
