"""What `python -m stages.benchmark` trains: model shapes, and samples made for them.

The desk's are a ViT of width 384 and a language model of width 512 with Yi's vocabulary, which two cores can train;
Yi-6B's are those of the model file. Stage files of Yi-VL-6B say what is trained, and at what resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from stages.ranks import Ranks
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.configuration import YiVLConfig
from yivl.encoder import IGNORE, IMAGE_ID, Example
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import read

_CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Lengths of the samples' text, in tokens: log-normal."""

    median: int
    sigma: float
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """A model, and how much of the data each way takes at a time."""

    stage: dict[int, list[str]]
    """Overrides of the stage files."""
    padded: dict[int, int]
    """Samples of a padded micro-batch, by stage."""


_SHORT = _Texts(median=45, sigma=0.5, least=8, most=160)
_TEXTS = {1: _SHORT, 2: _SHORT, 3: _Texts(median=220, sigma=0.8, least=24, most=1500)}
"""Captions, short answers, conversations: much the spread of the stages' sources."""
_SUPERVISED = 0.6
"""Of a sample's text."""
_DESK = ["global_batch=32", "tokens_per_micro_batch=2600"]
_LARGE = ["global_batch=128"]
SHAPES = {
    "desk": _Shapes(
        stage={1: [*_DESK, "resolution=224"], 2: [*_DESK, "resolution=448"], 3: [*_DESK, "resolution=224"]},
        padded={1: 4, 2: 4, 3: 4},
    ),
    "yi-6b": _Shapes(stage={1: _LARGE, 2: _LARGE, 3: _LARGE}, padded={1: 32, 2: 8, 3: 4}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table: a model, samples, a stage and a precision. The same in every process."""

    shapes: str
    """One of `SHAPES`."""
    number: int
    """Of the stage: 1, 2 or 3."""
    precision: str

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return Ranks().device

    @property
    def padded(self) -> int:
        """Samples of a padded micro-batch."""
        return SHAPES[self.shapes].padded[self.number]

    def stage(self) -> Stage:
        """The stage's settings."""
        overrides = [*SHAPES[self.shapes].stage[self.number], f"precision={self.precision}"]
        return read(Stage, _CONFIGS / "yi-vl-6b" / f"stage{self.number}.yaml", overrides)

    def config(self) -> YiVLConfig:
        """The model's shapes."""
        config = _desk() if self.shapes == "desk" else read(ModelSource, _CONFIGS / "model" / "yi-vl-6b.yaml").config()
        config.vision_config["image_size"] = self.stage().resolution
        return config

    def model(self) -> YiVLForConditionalGeneration:
        """The model with random weights, on the device."""
        torch.manual_seed(0)
        with self.device:
            return YiVLForConditionalGeneration(self.config())

    def examples(self) -> list[Example]:
        """The samples of an optimiser step: a picture of noise and random words each."""
        stage, config, texts = self.stage(), self.config(), _TEXTS[self.number]
        rng = np.random.default_rng(0)
        lengths = np.exp(rng.normal(np.log(texts.median), texts.sigma, stage.global_batch))
        lengths = lengths.clip(texts.least, texts.most).round().astype(int)
        return [_example(rng, int(length), config, f"{number}") for number, length in enumerate(lengths)]


def _example(rng: np.random.Generator, length: int, config: YiVLConfig, key: str) -> Example:
    text = rng.integers(3, config.text_config.vocab_size, length)
    question = round(length * (1 - _SUPERVISED))
    return Example(
        input_ids=np.concatenate([np.full(config.patches, IMAGE_ID), text]),
        labels=np.concatenate([np.full(config.patches + question, IGNORE), text[question:]]),
        pixels=rng.integers(0, 256, (1, 3, config.image_side, config.image_side), dtype=np.uint8),
        source=f"{length} tokens",
        key=key,
    )


def _desk() -> YiVLConfig:
    vision: dict[str, Any] = {"width": 384, "layers": 12, "heads": 6}  # of which the last is never run
    text = LlamaConfig(
        vocab_size=64_000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
    )
    return YiVLConfig(vision_config=vision, text_config=text)
