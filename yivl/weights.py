"""Weights in files: reading, writing, and building a model with every tensor accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor

from yivl.configuration import YiVLConfig
from yivl.model import YiVLForConditionalGeneration

_INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_HEAD = "language.lm_head.weight"
"""Not stored where it is tied to the embeddings."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors or (without unpickling code) `pytorch_model*.bin` files.

    Raises:
        FileNotFoundError: there are none, or a shard that the index names is missing.
    """
    for name in _SINGLE:
        if (folder / name).is_file():
            return _read(folder / name)
    for name in _INDEXED:
        if (folder / name).is_file():
            shards = sorted(set(json.loads((folder / name).read_text())["weight_map"].values()))
            weights: dict[str, Tensor] = {}
            for shard in shards:
                weights |= _read(folder / shard)
            return weights
    raise FileNotFoundError(f"no weights in {folder}: none of {', '.join(_SINGLE + _INDEXED)}")


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"the weights of {file.parent} are incomplete: {file.name} is missing")
    if file.suffix == ".safetensors":
        return load_file(file)
    content: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def write_weights(weights: dict[str, Tensor], folder: Path, max_shard_size: str = "5GB") -> None:
    """Writes `model.safetensors`, or shards with an index where that would exceed `max_shard_size`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, folder, max_shard_size=max_shard_size)


def build(
    config: YiVLConfig, weights: dict[str, Tensor], dtype: torch.dtype | None, where: str | Path
) -> YiVLForConditionalGeneration:
    """A model of `config` with exactly these weights, without holding them twice; by default in their own dtypes.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the message lists them and says, for
            position embeddings, how to resize.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in YiVLForConditionalGeneration(config).state_dict().items()}
    if config.text_config.tie_word_embeddings:
        weights = {name: tensor for name, tensor in weights.items() if name != _HEAD}
        shapes.pop(_HEAD)
    problems = [f"missing: {name} {list(shapes[name])}" for name in sorted(set(shapes) - set(weights))]
    problems += [f"unexpected: {name} {list(weights[name].shape)}" for name in sorted(set(weights) - set(shapes))]
    for name in sorted(set(shapes) & set(weights)):
        if weights[name].shape != shapes[name]:
            problems.append(f"{name} is {list(weights[name].shape)}, but config.json makes it {list(shapes[name])}")
            if name.endswith("positional_embedding"):
                side = round((len(weights[name]) - 1) ** 0.5) * config.vision_config["patch_size"]
                problems[-1] += (
                    f": the weights are for images of {side} pixels. Set image_size to {side} in the configuration, "
                    f"load, and then call model.resize({config.image_side})"
                )
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"{where}: the weights don't fit the configuration:\n  {shown}")
    with torch.device("meta"):
        model = YiVLForConditionalGeneration(config)
    model.load_state_dict(weights, strict=False, assign=True)  # all names and shapes were compared above
    model.tie_weights()
    rotary = model.language.model.rotary_emb
    model.language.model.rotary_emb = type(rotary)(config=config.text_config)  # computed, not stored
    if dtype is not None:
        model.to(dtype)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    return model
