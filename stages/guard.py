"""Judges every step before its update: losses and gradients that are not numbers, and spikes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from stages.stage import Stage

_WINDOW = 128
"""Steps that a step is compared with, as OLMo's SkipStepOptimizer has it; at least half of them must be there."""


class BadStep(RuntimeError):
    """A loss or gradient that is not a number, or a spike; raised before the optimiser moves anything."""


class Guard:
    """Args:
    stage: `spike` and `skip_limit`.
    """

    def __init__(self, stage: Stage) -> None:
        self._spike = stage.spike
        self._limit = stage.skip_limit
        self._in_row = 0
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._norms: deque[float] = deque(maxlen=_WINDOW)

    def objection(self, loss: float, norm: float | None = None) -> str:
        """Why a step must not be taken; empty if nothing speaks against it.

        Args:
            loss: of the step.
            norm: of its gradient, once it is known.
        """
        return self._against("the loss", loss, self._losses) or (
            "" if norm is None else self._against("the gradient's norm", norm, self._norms)
        )

    def took(self, loss: float, norm: float) -> None:
        """A step that was taken."""
        self._in_row = 0
        self._losses.append(loss)
        self._norms.append(norm)

    def left_out(self, reason: str, keys: Sequence[str]) -> None:
        """A step that was not.

        Raises:
            BadStep: it is one more in a row than `skip_limit` allows.
        """
        self._in_row += 1
        if self._in_row > self._limit:
            samples = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
            bound = f"; skip_limit {self._limit} leaves no more steps out" if self._limit else ""
            raise BadStep(f"{reason} on {samples}; the weights are as before{bound}")

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"in_row": self._in_row, "losses": list(self._losses), "norms": list(self._norms)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._in_row = state["in_row"]
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])

    def _against(self, what: str, value: float, former: deque[float]) -> str:
        if not math.isfinite(value):
            return f"{what} is {value}"
        if not self._spike or len(former) < _WINDOW // 2:
            return ""
        mean = math.fsum(former) / len(former)
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in former) / len(former))
        if value > mean + self._spike * deviation:
            return f"{what} is {value:.4g}, a spike: {mean:.4g} ± {deviation:.2g} over the last {len(former)} steps"
        return ""
