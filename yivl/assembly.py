"""Putting a model together from its parts: a CLIP ViT, a language model and a new projector.

A model file names the parts and their shapes, so that a run can be planned without any weights:

    vision:   {open_clip: ViT-H-14, weights: laion2b_s32b_b79k}
    language: {weights: 01-ai/Yi-6B-Chat, config: {hidden_size: 4096, ...}}

A file without `vision` is that of a language model alone. Parts without weights are initialised at random.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from yivl.configuration import NO_VISION, YiVLConfig
from yivl.model import YiVLForConditionalGeneration
from yivl.projector import projector
from yivl.tokenizer import load_tokenizer
from yivl.vision import Vision
from yivl.weights import build, read_file, read_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionSource:
    """Where the ViT comes from."""

    open_clip: str = ""
    """Name of an open_clip model, such as ViT-H-14, for its shapes and weights."""
    weights: str = ""
    """A tag of open_clip's for that model, or a file with its weights; empty for random ones."""
    config: dict[str, Any] = field(default_factory=dict)
    """Shapes instead of a name: keys as in `YiVLConfig.vision_config`."""

    def __post_init__(self) -> None:
        if bool(self.open_clip) == bool(self.config):
            raise ValueError("give either 'open_clip' (a model name) or 'config' (shapes)")
        if self.weights and not self.open_clip:
            raise ValueError("'weights' need the 'open_clip' model that they belong to")


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageSource:
    """Where the language model comes from."""

    config: dict[str, Any]
    """Shapes: keys of transformers' LlamaConfig."""
    weights: str = ""
    """A folder or hub name of a Llama-architecture model; empty for random weights."""
    tokenizer: str = ""
    """A folder or hub name; that of `weights` by default."""

    def __post_init__(self) -> None:
        if not (self.weights or self.tokenizer):
            raise ValueError("give 'weights' or 'tokenizer': a model needs a tokenizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """A model file."""

    name: str
    language: LanguageSource
    vision: VisionSource | None = None
    """None: a language model alone."""

    def config(self) -> YiVLConfig:
        """The model's configuration, from the file alone.

        Raises:
            ValueError: a key or value that transformers' LlamaConfig does not have or take.
        """
        given = self.language.config
        known = set(LlamaConfig().to_dict())
        for key in given:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "it is none of LlamaConfig's"
                raise ValueError(f"model {self.name}: unknown key 'language.config.{key}'; {hint}")
        try:
            text = LlamaConfig(**given)
        except StrictDataclassError as error:
            raise ValueError(f"model {self.name}: language.config: {error}") from error
        return YiVLConfig(vision_config=_vision_config(self.vision) if self.vision else NO_VISION, text_config=text)


@dataclass(frozen=True, slots=True)
class Assembled:
    """A model and its tokenizer."""

    model: YiVLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase


def assemble(source: ModelSource, seed: int) -> Assembled:
    """The model of a model file; new weights are drawn from `seed`.

    Raises:
        FileNotFoundError, OSError: weights or tokenizer are not there.
        ValueError: they have other shapes than the file says.
    """
    tokenizer = load_tokenizer(source.language.tokenizer or source.language.weights)
    config = source.config()
    vocabulary = config.text_config.vocab_size
    if len(tokenizer) > vocabulary:
        raise ValueError(f"{source.name}: the tokenizer has {len(tokenizer)} pieces, the model only {vocabulary}")
    torch.manual_seed(seed)
    if not (source.language.weights or (source.vision and source.vision.weights)):
        return Assembled(_scaled(YiVLForConditionalGeneration(config)), tokenizer)
    weights: dict[str, Tensor] = {}
    if source.vision:
        hidden = config.text_config.hidden_size
        weights |= _prefixed("projector.", projector(config.vision_config["width"], hidden).state_dict())
        clip = _clip_weights(source.vision) if source.vision.weights else Vision(config.vision_config).clip.state_dict()
        weights |= _prefixed("vision.clip.", clip)
    if source.language.weights:
        language = read_weights(_local(source.language.weights))
    else:
        language = AutoModelForCausalLM.from_config(config.text_config).state_dict()
    weights |= _prefixed("language.", language)
    return Assembled(_scaled(build(config, weights, None, source.name)), tokenizer)


def _scaled(model: YiVLForConditionalGeneration) -> YiVLForConditionalGeneration:
    """Gives a new projector's output, if there is one, the scale of the language model's words.

    Its last layer norm would otherwise begin with image tokens tens of times as large as words, beside which nothing
    that the language model's layers add to them counts.
    """
    if model.projector is None:
        return model
    words = next(model.get_input_embeddings().parameters())
    nn.init.constant_(cast(nn.LayerNorm, model.projector[-1]).weight, float(words.detach().float().std()))
    return model


def _prefixed(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def _clip_weights(source: VisionSource) -> dict[str, Tensor]:
    """The image tower of open_clip weights as they are: open_clip's own loader would resize them without a word."""
    file = source.weights
    if not Path(file).is_file():
        known = open_clip.get_pretrained_cfg(source.open_clip, file)
        if not known:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(source.open_clip))
            raise FileNotFoundError(
                f"vision weights {file!r}: no such file, and no tag of open_clip's; its tags are {tags}"
            )
        file = open_clip.download_pretrained(known)
    whole = read_file(Path(file))
    # `proj` leads to CLIP's shared space with text, which the model does not use
    tower = {n.removeprefix("visual."): t for n, t in whole.items() if n.startswith("visual.") and n != "visual.proj"}
    if not tower:
        raise ValueError(f"{file} holds no image tower ('visual.…') in open_clip's form")
    return tower


def _local(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1:
        raise FileNotFoundError(f"no model folder {name}")
    return Path(snapshot_download(name))


def _vision_config(source: VisionSource) -> dict[str, Any]:
    if source.config:
        return source.config
    known: dict[str, Any] | None = open_clip.get_model_config(source.open_clip)
    if known is None:
        raise ValueError(f"open_clip has no model {source.open_clip!r}; open_clip.list_models() names them")
    shapes = known["vision_cfg"]
    extra = set(shapes) - {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
    if extra or not isinstance(shapes.get("layers"), int):
        raise ValueError(f"{source.open_clip} is not a plain vision transformer (it has {', '.join(sorted(extra))})")
    return {
        "image_size": shapes["image_size"],
        "patch_size": shapes["patch_size"],
        "width": shapes["width"],
        "layers": shapes["layers"],
        "heads": shapes["width"] // shapes.get("head_width", 64),
        "mlp_ratio": shapes.get("mlp_ratio", 4.0),
        "activation": "quick_gelu" if known.get("quick_gelu") else "gelu",
    }
