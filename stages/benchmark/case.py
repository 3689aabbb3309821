"""What `python -m stages.benchmark` trains: model shapes, and samples made for them.

The desk's are a ViT of width 384 and a language model of width 512 with Yi's vocabulary, which two cores can train;
Yi-6B's are those of the model file; the toy's show that the command runs. The stage files of Yi-VL-6B say the rest:
what is trained, with which optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.configuration import YiVLConfig
from yivl.encoder import IGNORE, IMAGE_ID, Example
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import Ranks
from yivl.settings import read

PRECISIONS = ("fp32", "bf16")
_CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Lengths of the samples' text, in tokens: log-normal."""

    median: int
    sigma: float
    least: int
    most: int


_SHORT = _Texts(median=45, sigma=0.5, least=8, most=160)
_TEXTS = {1: _SHORT, 2: _SHORT, 3: _Texts(median=220, sigma=0.8, least=24, most=1500)}
"""Captions, short answers, conversations, by stage."""
_SUPERVISED = 0.6
"""Of a sample's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """A model, and what it is given at a time."""

    config: Callable[[], YiVLConfig]
    overrides: tuple[str, ...]
    """Of the stage files."""
    tokens: dict[int, int]
    """Of a row of ours, by stage."""
    precisions: tuple[str, ...]
    """What they are measured in, unless asked otherwise."""
    sides: dict[int, int]
    """Of the images, in pixels, by stage."""
    padded: dict[int, int]
    """Samples of a padded micro-batch, by stage."""
    recomputed: dict[int, dict[str, int]]
    """By stage what our step can't keep in memory, as in `Stage.checkpointing`."""


def _desk() -> YiVLConfig:
    vision = {"width": 384, "layers": 12, "heads": 6}  # the last layer is never run
    text = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 2, "vocab_size": 64_000}  # fmt: skip
    return YiVLConfig(vision_config=vision, text_config=text)


def _toy() -> YiVLConfig:
    vision = {"width": 32, "layers": 3, "heads": 2}
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 500}  # fmt: skip
    return YiVLConfig(vision_config=vision, text_config=text)


SHAPES = {
    "desk": _Shapes(
        config=_desk,
        overrides=("global_batch=32",),
        tokens={1: 2600, 2: 2600, 3: 2600},
        precisions=PRECISIONS,
        sides={1: 224, 2: 448, 3: 224},
        padded={1: 4, 2: 4, 3: 4},
        recomputed={1: {}, 2: {}, 3: {}},
    ),
    "yi-6b": _Shapes(
        config=lambda: read(ModelSource, _CONFIGS / "model" / "yi-vl-6b.yaml").config(),
        overrides=("global_batch=128",),
        tokens={1: 8192, 2: 8192, 3: 4096},
        precisions=("bf16",),  # in fp32 its weights alone leave no room
        sides={1: 224, 2: 448, 3: 448},
        padded={1: 32, 2: 8, 3: 4},
        recomputed={1: {}, 2: {}, 3: {"language": 2}},  # beside 107 GB of weights, gradients and moments
    ),
    "toy": _Shapes(
        config=_toy,
        overrides=("global_batch=6",),
        tokens={1: 2600, 2: 2600, 3: 2600},
        precisions=PRECISIONS,
        sides={1: 28, 2: 56, 3: 28},
        padded={1: 2, 2: 2, 3: 2},
        recomputed={1: {}, 2: {}, 3: {}},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table: a model, samples, a stage and a precision. The same in every process."""

    shapes: str
    """One of `SHAPES`."""
    stage: int
    """1, 2 or 3."""
    precision: str
    """fp32 or bf16."""

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return Ranks().device

    @property
    def padded(self) -> int:
        """Samples of a padded micro-batch."""
        return SHAPES[self.shapes].padded[self.stage]

    @property
    def recomputed(self) -> dict[str, int]:
        """What our step can't keep in memory, as in `Stage.checkpointing`."""
        return SHAPES[self.shapes].recomputed[self.stage]

    def settings(self) -> Stage:
        """The stage file, adapted to the shapes."""
        shapes = SHAPES[self.shapes]
        overrides = [
            *shapes.overrides, f"tokens_per_micro_batch={shapes.tokens[self.stage]}",
            f"resolution={shapes.sides[self.stage]}", f"precision={self.precision}",
        ]  # fmt: skip
        return read(Stage, _CONFIGS / "yi-vl-6b" / f"stage{self.stage}.yaml", overrides)

    def config(self) -> YiVLConfig:
        """The model's shapes."""
        config = SHAPES[self.shapes].config()
        config.vision_config["image_size"] = SHAPES[self.shapes].sides[self.stage]
        return config

    def model(self) -> YiVLForConditionalGeneration:
        """The model with random weights, on the device."""
        torch.manual_seed(0)
        with self.device:
            return YiVLForConditionalGeneration(self.config())

    def examples(self) -> list[Example]:
        """The samples of an optimiser step: a picture of noise and random words each."""
        settings, config, texts = self.settings(), self.config(), _TEXTS[self.stage]
        rng = np.random.default_rng(0)
        lengths = np.exp(rng.normal(np.log(texts.median), texts.sigma, settings.batch))
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
