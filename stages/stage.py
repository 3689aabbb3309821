"""A stage: everything that one training run is, in one file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from stages.growth import Growth
from yivl.adapters import Adapter
from yivl.model import PARTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """A benchmark that is put to the model while it trains."""

    data: str
    """Its files, as `python -m eval.NAME` takes them."""
    split: str | None = None
    """Empty, like the three below, for what that command does unless told."""
    protocol: str | None = None
    fallback: str | None = None
    subjects: tuple[str, ...] | None = None
    """Only these."""
    batch_size: int = 8
    """Questions at a time."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage file. Paths are relative to it; folders written as text are relative to where the command runs."""

    ELSEWHERE: ClassVar[dict[str, str]] = {
        "gradient_accumulation_steps": "global_batch: the accumulation follows from it",
        "per_device_train_batch_size": "tokens_per_micro_batch, and global_batch for the optimiser's step",
        "num_train_epochs": "epochs",
        "output_dir": "run",
        "bf16": "precision: bf16",
        "lr_scheduler_type": "schedule",
        "warmup_ratio": "warmup",
        "max_grad_norm": "clip_norm",
        "model_max_length": "max_length",
        "save_steps": "save_every",
        "report_to": "wandb; TensorBoard is always written",
        "gradient_checkpointing": "checkpointing, which a memory estimate chooses if it is left out",
        "deepspeed": "zero, and offload",
        "lora": "adapter",
        "lora_enable": "adapter",
        "tune_mm_mlp_adapter": "learning_rate: a part without a rate is frozen",
        "freeze_backbone": "learning_rate: a part without a rate is frozen",
    }
    """Names of Hugging Face's trainer, LLaVA's and DeepSpeed's, and what to say instead."""

    name: str
    """Names the stage in logs and tables."""
    run: str
    """Folder that the run writes."""
    model: Path
    """The model file: which parts, of which shapes."""
    start_from: str = ""
    """Model folder that the stage before wrote; empty to assemble the model file's parts."""
    resolution: int = 0
    """Side of the square image, in pixels; a multiple of the patch size. Position embeddings are resized to it. 0 for a
    language model alone."""
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
    global_batch: int = 0
    """Samples of one optimiser step, over all ranks, exactly."""
    batch_tokens: int = 0
    """Instead of `global_batch`, where all samples are rows of `max_length` tokens: tokens of one optimiser step."""
    growth: Growth | None = None
    """Lets the batch, which begins at `batch_tokens`, grow whenever the loss stops falling; needs a constant rate."""
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
    save_minutes: float = 30.0
    """Minutes after which one is written anyway."""
    adapter: Adapter | None = None
    """Trains low-rank matrices beside the language part's weights, at its rate, instead of the weights themselves."""

    zero: Literal[0, 1, 2, 3] = 0
    """What the processes share instead of each holding it: 1 the optimiser's state, 2 gradients too, 3 weights too.
    Needs DeepSpeed, which then runs the step; 0 is plain torch."""
    offload: bool = False
    """Keep the optimiser's state in CPU memory; needs `zero`."""
    checkpointing: dict[str, int] = field(default_factory=dict)
    """For vision or language: recompute every k-th block in the backward pass instead of keeping what is inside it;
    1 is every block, 0 none. A part left out gets what the memory estimate asks for."""
    device_gib: float = 0.0
    """Memory of one device that the estimate goes by, in GiB; 0: that of the machine at hand."""

    broken_limit: float = 0.01
    """Largest share of samples that may be unreadable (after the first 100) before the run stops."""
    skip_limit: int = 0
    """Steps in a row that may be left out because a loss or gradient is not a number or a spike. One more ends the
    run, before the weights are touched."""
    spike: float = 0.0
    """A step whose loss or gradient norm lies so many standard deviations above the mean of the last 128 is a spike;
    0: nothing is."""
    hang_minutes: float = 30.0
    """A process that stays longer in one phase of a step ends the run, which says where every process stood."""

    held_out: Path | None = None
    """A mixture file of samples that are not trained on; their loss is told per source."""
    held_out_samples: int = 64
    """Of each of its sources."""
    held_out_every: int = 500
    """Steps between two looks at them."""
    answers: int = 4
    """Held-out samples whose question the model answers at each look; the text and the picture are kept."""
    benchmarks: dict[str, Examination] = field(default_factory=dict)
    """By name (mmmu, vqav2, ...: `python -m eval` lists them), what is asked of the model while it trains."""
    benchmarks_every: int = 1000
    """Steps between two such examinations; there is one at the end too."""
    peak_tflops: float = 0.0
    """Of one device at this precision, for the share of it that is used; 0: known for A100, H100 and H200."""
    wandb: str = ""
    """Project of Weights & Biases to log to as well; needs the package wandb."""

    @property
    def batch(self) -> int:
        """Samples of an optimiser step; of the first ones where it grows."""
        return self.global_batch or self.batch_tokens // self.max_length

    def __post_init__(self) -> None:
        problems = [f"unknown part {part!r} in learning_rate; the parts are {', '.join(PARTS)}"
                    for part in self.learning_rate if part not in PARTS]  # fmt: skip
        problems += [f"learning_rate of {part} is {rate}; leave a part out to freeze it"
                     for part, rate in self.learning_rate.items() if not 0 < rate < math.inf]  # fmt: skip
        if not self.learning_rate:
            problems.append("learning_rate names no part: nothing would be trained")
        for name in ("tokens_per_micro_batch", "max_length", "epochs", "save_every",
                     "held_out_samples", "held_out_every", "benchmarks_every"):  # fmt: skip
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}; at least 1")
        if not 0 < self.clip_norm < math.inf:
            problems.append(f"clip_norm is {self.clip_norm}; above 0")
        for name in ("cache_gib", "hang_minutes", "save_minutes"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} is {getattr(self, name)}; above 0")
        for name in ("resolution", "skip_limit", "spike", "answers", "device_gib", "peak_tflops"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name} is {getattr(self, name)}; 0 or more")
        problems += [f"checkpointing of {part} is {every}; name vision or language, and 0 or more"
                     for part, every in self.checkpointing.items()
                     if part not in ("vision", "language") or every < 0]  # fmt: skip
        if (self.global_batch > 0) == (self.batch_tokens > 0) or min(self.global_batch, self.batch_tokens) < 0:
            problems.append("give either global_batch (samples) or batch_tokens, above 0")
        elif self.batch_tokens % max(1, self.max_length):
            problems.append(f"batch_tokens is {self.batch_tokens}; a multiple of max_length, {self.max_length}")
        if self.batch_tokens and self.tokens_per_micro_batch < self.max_length:
            problems.append(
                f"tokens_per_micro_batch is {self.tokens_per_micro_batch}; at least a row, max_length {self.max_length}"
            )
        if self.growth and not (self.batch_tokens and self.schedule == "constant"):
            problems.append("growth needs batch_tokens, and schedule: constant")
        if self.growth and self.growth.ceiling < self.batch_tokens:
            problems.append(f"growth.ceiling is {self.growth.ceiling}; at least batch_tokens, {self.batch_tokens}")
        if self.offload and not self.zero:
            problems.append("offload needs zero: 1, 2 or 3")
        if self.adapter and self.adapter.four_bit and self.zero:
            problems.append("adapter.four_bit needs zero: 0, where each process holds the packed weights")
        if self.adapter and "language" not in self.learning_rate:
            problems.append("adapter is of the language part, which has no learning_rate")
        for name in ("warmup", "broken_limit"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}; between 0 and 1")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; at least 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas are {list(self.betas)}; two numbers from 0 to below 1")
        if problems:
            raise ValueError("; ".join(problems))
