"""When the batch grows: whenever the loss stops falling.

Yi-9B kept its rate at 3e-5 and let the batch grow instead, from 4 M tokens, "whenever the model's loss plateaued" (Yi
technical report, 7.3). The report gives no rule; this one is ours:

- Steps are taken `window` by `window`; a window's loss is the mean of its steps'. Steps of the warm-up and steps that
  were left out belong to no window.
- A window is flat if its loss is not below (1 - `tolerance`) times the lowest of any window before it.
- After `patience` flat windows in a row the batch becomes `factor` times as large, but no more than `ceiling`, and the
  count of flat windows begins anew. At the ceiling nothing grows any more.

The loss is the same on all processes, so the rule is; its state is in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """The rule's settings, in a stage file."""

    window: int
    """Steps."""
    tolerance: float
    """Share of the lowest loss by which a window must be below it, or it is flat."""
    patience: int = 1
    """Flat windows in a row after which the batch grows."""
    factor: float = 2.0
    """How many times as large it becomes."""
    ceiling: int
    """Most tokens of a batch."""

    def __post_init__(self) -> None:
        problems = [f"{name} is {getattr(self, name)}; at least 1"
                    for name in ("window", "patience", "ceiling") if getattr(self, name) < 1]  # fmt: skip
        if not 0 <= self.tolerance < 1:
            problems.append(f"tolerance is {self.tolerance}; from 0 to below 1")
        if not 1 < self.factor < math.inf:
            problems.append(f"factor is {self.factor}; above 1")
        if problems:
            raise ValueError("; ".join(problems))


class Plateau:
    """Notices that the loss has stopped falling.

    Args:
        rule: the settings.
    """

    def __init__(self, rule: Growth) -> None:
        self._rule = rule
        self._losses: list[float] = []  # of the window in hand
        self._lowest = math.inf
        self._flat = 0

    def took(self, loss: float) -> str:
        """A step's loss. Returns why the batch should grow now; empty while it should not."""
        self._losses.append(loss)
        if len(self._losses) < self._rule.window:
            return ""
        mean, lowest = math.fsum(self._losses) / len(self._losses), self._lowest
        self._losses.clear()
        self._lowest = min(mean, lowest)
        self._flat = 0 if mean < (1 - self._rule.tolerance) * lowest else self._flat + 1
        if self._flat < self._rule.patience:
            return ""
        self._flat = 0
        return f"the loss stopped falling: {mean:.4f} over {self._rule.window} steps, {lowest:.4f} before"

    def grown(self, batch: int, row: int) -> int:
        """The batch after growing, by a row at least.

        Args:
            batch: the batch so far, in rows.
            row: tokens of a row.
        """
        larger = max(batch + 1, math.floor(batch * self._rule.factor))
        return max(batch, min(larger, self._rule.ceiling // row))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"losses": list(self._losses), "lowest": self._lowest, "flat": self._flat}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._losses = list(state["losses"])
        self._lowest, self._flat = state["lowest"], state["flat"]
