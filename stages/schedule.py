"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from stages.stage import Stage


def warmup_steps(stage: Stage, total: int) -> int:
    """Steps of `total` in which the rate rises."""
    return math.ceil(stage.warmup * total)


def rate_factor(stage: Stage, step: int, total: int) -> float:
    """What every part's peak rate is multiplied by at `step` (from 0) of `total`.

    It rises linearly over the warm-up, reaching 1 at its last step, and then stays, or falls along half a cosine to
    zero after the last step.
    """
    warmup = warmup_steps(stage, total)
    if step < warmup:
        return (step + 1) / warmup
    if stage.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
