"""Model FLOPs of an optimiser step: what its samples need, whatever a machine spends on them.

Conventions. A multiplication and an addition are two. Only matrix products and the patch embedding count. What is
recomputed, padding, blank images and the ViT's last block (which is not run) do not. Causal attention is half of full
attention, and its backward twice its forward. The language head counts at supervised positions only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from data.packing import Batch
from stages.planning.devices import named
from stages.stage import Stage
from yivl.configuration import YiVLConfig


@dataclass(frozen=True, slots=True)
class Work:
    """What samples ask of a model."""

    tokens: int
    """Of the language model, image tokens included."""
    images: int
    supervised: int
    """Tokens that are learned."""
    squares: int
    """Sum over the segments of their lengths squared: over the samples, or the documents in rows."""


def work_of(batches: Sequence[Batch]) -> Work:
    """The work in the samples of these micro-batches."""
    # a batch without samples is padding
    lengths = [end - start for batch in batches if batch.keys for start, end in pairwise(batch.bounds)]
    return Work(
        tokens=sum(lengths),
        images=sum(len(batch.pixels) for batch in batches),
        supervised=sum(batch.supervised for batch in batches),
        squares=sum(length * length for length in lengths),
    )


def model_flops(config: YiVLConfig, trained: Collection[str], work: Work, *, adapted: bool = False) -> float:
    """FLOPs of forward and backward.

    With N weights and D tokens a trained part costs 6ND: forward, gradients of its inputs and of its weights. A frozen
    one costs 4ND where something before it is trained, since gradients pass through it, and 2ND where nothing is. The
    patch embedding's inputs are pixels and need no gradient.

    Args:
        config: shapes.
        trained: the parts that are trained, of `yivl.model.PARTS`.
        work: the samples.
        adapted: the language part's own weights are frozen, and what is trained are low-rank adapters in them, whose
            own FLOPs (under 1 %) are left out.
    """
    vision, projector, language = (part in trained for part in ("vision", "projector", "language"))
    flow = vision or projector or language  # gradients pass through the language part
    return (
        _patch_embedding(config) * work.images * _passes(weights=vision, inputs=False)
        + _vision_blocks(config) * work.images * _passes(weights=vision, inputs=vision)
        + _projector_first(config) * work.images * _passes(weights=projector, inputs=vision)
        + _projector_second(config) * work.images * _passes(weights=projector, inputs=vision or projector)
        + _language_layers(config) * work.tokens * _passes(weights=language and not adapted, inputs=flow)
        + _language_attention(config) * work.squares * (3 if flow else 1)
        + _head(config) * work.supervised * _passes(weights=language and not adapted, inputs=flow)
    )


def forward_flops(config: YiVLConfig, tokens: int, images: int) -> dict[str, float]:
    """Of the vision and the language part's blocks, in one forward pass; what recomputing them all would cost."""
    return {"vision": float(_vision_blocks(config) * images), "language": float(_language_layers(config) * tokens)}


def peak_tflops(stage: Stage, device: torch.device) -> float | None:
    """Dense peak of one device at the stage's precision, in TFLOP/s: what the stage says, else the data sheet's.

    Returns:
        None for the CPU and for devices that are not known.
    """
    if stage.peak_tflops:
        return stage.peak_tflops
    known = named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return known.peak(stage.precision) if known else None


def _passes(*, weights: bool, inputs: bool) -> int:
    """How often a product's FLOPs count: forward, and once for each gradient that is formed."""
    return 1 + weights + inputs


def _patch_embedding(config: YiVLConfig) -> int:
    """Forward of one image."""
    vision = config.vision_config
    return 2 * config.patches * 3 * int(vision["patch_size"]) ** 2 * int(vision["width"])


def _vision_blocks(config: YiVLConfig) -> int:
    """Forward of one image through all blocks but the last; each attends fully over the patches and the class token."""
    vision, tokens = config.vision_config, config.patches + 1
    width, mlp = int(vision["width"]), int(vision["width"] * vision["mlp_ratio"])
    linear = 2 * tokens * (4 * width * width + 2 * width * mlp)
    attention = 4 * tokens * tokens * width
    return (int(vision["layers"]) - 1) * (linear + attention)


def _projector_first(config: YiVLConfig) -> int:
    """Forward of one image."""
    return 2 * config.patches * int(config.vision_config["width"]) * int(config.text_config.hidden_size)


def _projector_second(config: YiVLConfig) -> int:
    """Forward of one image."""
    return 2 * config.patches * int(config.text_config.hidden_size) ** 2


def _language_layers(config: YiVLConfig) -> int:
    """Forward of one token through all layers, without the attention's scores."""
    text = config.text_config
    queries = text.num_attention_heads * text.head_dim
    keys = text.num_key_value_heads * text.head_dim
    layer = text.hidden_size * (2 * queries + 2 * keys + 3 * text.intermediate_size)
    return int(2 * layer * text.num_hidden_layers)


def _language_attention(config: YiVLConfig) -> float:
    """Forward of all layers' causal attention, per squared token of a sample: half of 4 L^2 times the width."""
    text = config.text_config
    return float(2 * text.num_attention_heads * text.head_dim * text.num_hidden_layers)


def _head(config: YiVLConfig) -> int:
    """Forward of one supervised position."""
    return int(2 * config.text_config.hidden_size * config.text_config.vocab_size)
