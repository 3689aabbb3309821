"""A stage: everything that one training run is, in one file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yivl.model import PARTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage file. Paths are relative to it; folders written as text are relative to where the command runs."""

    name: str
    """Names the stage in logs and tables."""
    run: str
    """Folder that the run writes."""
    model: Path
    """The model file: which parts, of which shapes."""
    start_from: str = ""
    """Model folder that the stage before wrote; empty to assemble the model file's parts."""
    resolution: int
    """Side of the square image, in pixels; a multiple of the patch size. Position embeddings are resized to it."""
    learning_rate: dict[str, float]
    """Peak rate of each trained part (vision, projector, language). A part without a rate is frozen."""
    mixture: Path
    """The mixture file: sources and caps."""
    data: str = "shards"
    """Folder below which the sources' shards lie, or the indexes of shards that lie elsewhere."""
    cache: str = "cache"
    """Folder that keeps shards fetched from elsewhere; all processes of a machine share it."""
    cache_gib: float = 200.0
    """Most GiB of them. Of each source that lies elsewhere 8 shards are in use and 8 more are fetched ahead."""
    global_batch: int
    """Samples of one optimiser step, over all ranks, exactly."""
    tokens_per_micro_batch: int
    """Most tokens of a packed row; what memory allows."""
    max_length: int = 2048
    """Most tokens of a sample; longer ones lose whole exchanges from their end."""
    epochs: int
    """How often each chosen sample comes."""
    clip_norm: float
    """Largest norm of the gradient, over all trained parameters."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the rate does after the warm-up: falls to zero along a half cosine, or stays."""
    warmup: float = 0.03
    """Share of all steps in which the rate rises from zero."""
    weight_decay: float = 0.0
    """Of matrices; never of biases and norms."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the computation. Trained weights, their gradients and moments are fp32 in either."""
    seed: int = 0
    """Of the choice and order of samples and of new weights."""
    pixels: Literal["exact", "fast", "scaled"] = "fast"
    """How images become pixels (`yivl.fast_images`): as released; within 2 grey levels of it at several times the
    speed; or large JPEGs decoded at half their size or less as well, which blurs small print by a few levels."""
    headroom: bool = False
    """Train on the samples of one step over and over, loading nothing: shows how fast the run would be if data cost no
    time. The model is of no use."""
    workers: int = 0
    """Processes that load data; with 0 the trainer does it itself."""
    save_every: int = 500
    """Steps between checkpoints."""
    broken_limit: float = 0.01
    """Largest share of samples that may be unreadable (after the first 100) before the run stops."""

    def __post_init__(self) -> None:
        problems = [f"unknown part {part!r} in learning_rate; the parts are {', '.join(PARTS)}"
                    for part in self.learning_rate if part not in PARTS]  # fmt: skip
        problems += [f"learning_rate of {part} is {rate}; leave a part out to freeze it"
                     for part, rate in self.learning_rate.items() if not 0 < rate < math.inf]  # fmt: skip
        if not self.learning_rate:
            problems.append("learning_rate names no part: nothing would be trained")
        for name in ("resolution", "global_batch", "tokens_per_micro_batch", "max_length", "epochs", "save_every"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}; at least 1")
        if not 0 < self.clip_norm < math.inf:
            problems.append(f"clip_norm is {self.clip_norm}; above 0")
        if not self.cache_gib > 0:
            problems.append(f"cache_gib is {self.cache_gib}; above 0")
        for name in ("warmup", "broken_limit"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}; between 0 and 1")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; at least 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas are {list(self.betas)}; two numbers from 0 to below 1")
        if problems:
            raise ValueError("; ".join(problems))
