"""What tests of records and reports share: a stage, and a step's record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stages.record import Record
from stages.stage import Stage


def stage(run: Path, **settings: Any) -> Stage:
    return Stage(**{
        "name": "stage3", "run": str(run), "model": Path("model.yaml"), "resolution": 56,
        "learning_rate": {"vision": 2e-5, "projector": 2e-5, "language": 1e-5}, "mixture": Path("mixture.yaml"),
        "global_batch": 16, "tokens_per_micro_batch": 4096, "epochs": 2, "clip_norm": 1.0,
    } | settings)  # fmt: skip


def record(step: int, **fields: Any) -> Record:
    """A step of two seconds, each field with a value of its own."""
    return Record(**{
        "step": step, "loss": 1 + 4 * math.exp(-step / 50), "grad_norm": 3.0 + math.sin(step),
        "rates": {"vision": 2e-5, "projector": 2e-5, "language": 1e-5}, "samples": 16, "tokens": 5000,
        "supervised": 700, "images": 12, "micro_batches": 2, "dropped_turns": 0, "padding": 0.011, "idle": 0.043,
        "source_losses": {"captions": 2.5, "chats": 1.5}, "data_seconds": 0.125, "copy_seconds": 0.0625,
        "forward_seconds": 0.5, "backward_seconds": 1.0, "optimizer_seconds": 0.25, "seconds": 2.0, "tflops": 410.0,
        "mfu": 0.415,
    } | fields)  # fmt: skip
