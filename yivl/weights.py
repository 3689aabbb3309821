"""Weights in files: reading, writing, and building a model with every tensor accounted for."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from yivl.configuration import YiVLConfig
from yivl.model import YiVLForConditionalGeneration

_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where weights may be, in the order of preference."""
RECOMPUTED = ("embeddings.position_ids", "rotary_emb.inv_freq")
"""Ends of the names of buffers that old transformers versions saved and nobody needs."""
_PIECES, _PIECE = 1024, 65536
LANGUAGE = "language."
"""Begins the names of the language part's weights."""
_HEAD = f"{LANGUAGE}lm_head.weight"
"""Not stored where it is tied to the embeddings."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors or (without unpickling code) `pytorch_model*.bin` files, but `RECOMPUTED`.

    Raises:
        FileNotFoundError: there are none, or a shard that the index names is missing.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            continue
        shards = [name]
        if name.endswith(".index.json"):
            shards = sorted(set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()))
        weights: dict[str, Tensor] = {}
        for shard in shards:
            weights |= read_file(folder / shard)
        return {name: tensor for name, tensor in weights.items() if not name.endswith(RECOMPUTED)}
    raise FileNotFoundError(f"no weights in {folder}: none of {', '.join(_FILES)}")


def read_file(file: Path) -> dict[str, Tensor]:
    """All tensors of one file; `ValueError` when it is damaged."""
    if not file.is_file():
        raise FileNotFoundError(f"the weights of {file.parent} are incomplete: {file.name} is missing")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return content
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} is damaged or cut off ({error}); download or write it again") from error


def write_weights(weights: dict[str, Tensor], folder: Path, max_shard_size: str = "5GB") -> None:
    """Writes `model.safetensors`, or shards with an index where that would exceed `max_shard_size`.

    Raises:
        OSError: the files could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_torch_state_dict(weights, folder, max_shard_size=max_shard_size)
    except SafetensorError as error:
        raise OSError(f"the weights could not be written to {folder}: {error}") from error
    for file in folder.glob("model*.safetensors"):
        sync(file)


def stored_weights(model: YiVLForConditionalGeneration) -> dict[str, Tensor]:
    """What is written of a model: its state dict, without the head where that is tied to the embeddings; of a language
    model alone with the names that transformers has for them."""
    weights = model.state_dict()
    if model.config.text_config.tie_word_embeddings:
        weights.pop(_HEAD)
    if not model.config.has_vision:
        return {name.removeprefix(LANGUAGE): tensor for name, tensor in weights.items()}
    return weights


def sync(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(folder: Path) -> str:
    """Tells the weights of a folder from others: the names and sizes of its files, and their content.

    Of a file over 64 MiB, 1,024 pieces of 64 KiB are read, so it takes no longer for large models.
    """
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}\n".encode())
        with file.open("rb") as content:
            step = max(_PIECE, size // _PIECES)
            for start in range(0, size, step):
                content.seek(start)
                digest.update(content.read(_PIECE))
    return digest.hexdigest()


def build(
    config: YiVLConfig, weights: dict[str, Tensor], dtype: torch.dtype | None, where: str | Path
) -> YiVLForConditionalGeneration:
    """A model of `config` with exactly these weights, by default in their own dtypes. `weights` is used up.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the message lists them and says, for
            position embeddings, how to resize.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in YiVLForConditionalGeneration(config).state_dict().items()}
    if config.text_config.tie_word_embeddings:
        weights.pop(_HEAD, None)
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
    if dtype is not None:
        weights = {name: weights.pop(name).to(dtype) for name in list(weights)}
    model.load_state_dict(weights, strict=False, assign=True)  # all names and shapes were compared above
    model.tie_weights()
    rotary = model.language.model.rotary_emb
    model.language.model.rotary_emb = type(rotary)(config=config.text_config)  # computed, not stored
    model.eval()  # type: ignore[no-untyped-call]
    return model
