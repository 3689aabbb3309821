"""Low-rank adapters of the language part (LoRA, QLoRA), through peft.

    add_adapter(model, Adapter(rank=16), seed=0)      beside every linear layer of the decoder
    …                                                 train what `adapter_parameters` names
    write_adapter(model, folder)                      as peft's, for the plain language model
    merge(model, torch.bfloat16)                      into the weights: an ordinary model again

peft and bitsandbytes come with the extra `adapters`, and are imported where they are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from yivl.model import YiVLForConditionalGeneration
from yivl.weights import read_file, sync

_NAME = "default"
"""peft's name of the only adapter."""
_LAYERS = "model.layers"
"""Where the decoder's layers are in the language model."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before the language model's own names in a file."""
_BASE = "base"
"""Key in the file's metadata: what `_fingerprint` gave of the weights that the adapter belongs to."""
_SAMPLED = 4096
"""Most numbers of a weight that its fingerprint reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What is trained instead of the language part's weights (LoRA, arXiv:2106.09685)."""

    rank: int = 16
    """Of the added matrices."""
    alpha: float = 32.0
    """Their product is scaled by alpha / rank."""
    dropout: float = 0.0
    """Of what goes into them, while training."""
    four_bit: bool = False
    """Keep the language part's own weights in 4 bits (QLoRA, arXiv:2305.14314); needs bitsandbytes."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; from 0 to below 1")


def add_adapter(model: YiVLForConditionalGeneration, adapter: Adapter, seed: int) -> None:
    """Puts a new adapter beside every linear layer of the language part's decoder; the model computes what it did.

    These layers' own weights get a `.base_layer` in their names. With `four_bit` they are packed by the next
    `model.to(device)`, there (NF4 in blocks of 64 that share a scale, the scales in 8 bits), and can't be used before;
    embeddings, norms and head stay as they are.

    Args:
        model: without an adapter, its weights as they were read, on the CPU; or on the meta device.
        adapter: rank, scale, dropout.
        seed: of the first matrices' random numbers (the second ones are zero); the same on all processes.

    Raises:
        ImportError: peft or, for 4 bits, bitsandbytes is not installed.
    """
    language, linear = model.language, _linear_layers(model.language)
    base = "" if model.device.type == "meta" else _fingerprint(linear)
    if adapter.four_bit:
        for name, layer in linear.items():
            language.set_submodule(name, _to_be_packed(layer))
    config = _optional("peft").LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in linear}),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=()), model.device:
        torch.manual_seed(seed)
        _inject(config, language, base)


def adapter_parameters(model: YiVLForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The adapter's matrices by their full names in the model; empty without an adapter."""
    return {f"language.{name}": parameter for name, parameter in _matrices(model.language).items()}


def write_adapter(model: YiVLForConditionalGeneration, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, which peft loads onto the plain language model.

    Args:
        model: with an adapter.
        folder: made if need be.

    Raises:
        OSError: the files could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_in_file(name): matrix.detach().cpu() for name, matrix in _matrices(model.language).items()}
    try:
        save_file(tensors, folder / _WEIGHTS, {"format": "pt", _BASE: model.language.adapter_base})
    except SafetensorError as error:
        raise OSError(f"the adapter could not be written to {folder}: {error}") from error
    sync(folder / _WEIGHTS)
    model.language.peft_config[_NAME].save_pretrained(str(folder))


def read_adapter(model: YiVLForConditionalGeneration, folder: Path) -> None:
    """Puts the adapter in a folder, written here or by peft for the plain language model, beside the model's weights.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: peft is not installed.
        ValueError: it is no plain LoRA of the decoder's linear layers, has other shapes, or was trained on other
            weights. The model is of no use then.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an adapter's folder: it has no {name}")
    config, tensors = _optional("peft").PeftConfig.from_pretrained(str(folder)), read_file(folder / _WEIGHTS)
    if config.peft_type != "LORA":
        raise ValueError(f"{folder} holds an adapter of kind {config.peft_type.value}; only LoRA can be merged")
    language, base = model.language, _fingerprint(_linear_layers(model.language))
    try:
        _inject(config, language, base)
    except ValueError as error:  # the layers that it names are not there
        raise ValueError(f"{folder} does not fit the language part: {error}") from error
    if any(getattr(module, "lora_variant", None) for module in language.modules()):  # DoRA, aLoRA, …
        raise ValueError(f"{folder} holds a variant of LoRA; only LoRA itself can be merged")
    matrices = {_in_file(name): matrix for name, matrix in _matrices(language).items()}
    problems = [f"missing: {name}" for name in sorted(matrices.keys() - tensors.keys())]
    problems += [f"no matrix beside a decoder's layer: {name}" for name in sorted(tensors.keys() - matrices.keys())]
    for name in sorted(matrices.keys() & tensors.keys()):
        found, expected = list(tensors[name].shape), list(matrices[name].shape)
        if found != expected:
            problems.append(f"{name} is {found}, but the model makes it {expected}")
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ValueError(f"{folder} does not fit the language part:\n  {shown}")
    with safe_open(folder / _WEIGHTS, "pt") as file:
        trained_on = (file.metadata() or {}).get(_BASE, base)  # peft's own files don't say
    if trained_on != base:
        raise ValueError(
            f"{folder} was trained on other weights of the language part than these. "
            "Merge it into the model that its run started from: start_from in its stage.yaml"
        )
    for name, matrix in matrices.items():
        matrix.data = tensors[name].to(matrix.device)


@torch.no_grad()
def merge(model: YiVLForConditionalGeneration, dtype: torch.dtype) -> None:
    """Adds the adapter to the weights and takes it away: the model is an ordinary one again, names included.

    Sums are fp32 and then rounded to `dtype`. To weights in 4 bits it is added as they are, unpacked: that is the model
    that was trained, while the original weights are not.

    Args:
        model: with an adapter.
        dtype: of the merged weights.
    """
    language = model.language
    for name in [name.removesuffix(".lora_A") for name, _ in language.named_modules() if name.endswith(".lora_A")]:
        layer: Any = language.get_submodule(name)  # peft's
        low_rank = layer.lora_B[_NAME].weight.float() @ layer.lora_A[_NAME].weight.float() * layer.scaling[_NAME]
        own = layer.get_base_layer()
        merged = nn.Linear(layer.in_features, layer.out_features, bias=own.bias is not None, device="meta")
        merged.weight = nn.Parameter((_unpacked(own.weight).float() + low_rank).to(dtype), requires_grad=False)
        merged.bias = own.bias
        language.set_submodule(name, merged)
    del language.peft_config, language.adapter_base


def _linear_layers(language: nn.Module) -> dict[str, nn.Linear]:
    """Those of the decoder's layers, by name; the head is none of them."""
    modules = language.get_submodule(_LAYERS).named_modules(prefix=_LAYERS)
    return {name: module for name, module in modules if isinstance(module, nn.Linear)}


def _fingerprint(layers: Mapping[str, nn.Linear]) -> str:
    """Tells these layers' weights from others: a digest of some numbers of each, in bf16 whatever the file's dtype."""
    digest = hashlib.sha256()
    for name, layer in layers.items():
        weight = layer.weight.detach().flatten()
        some = weight[:: -(-len(weight) // _SAMPLED)].cpu().bfloat16()
        digest.update(name.encode() + some.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _to_be_packed(linear: nn.Linear) -> nn.Module:
    bnb = _optional("bitsandbytes").nn
    layer: nn.Module = bnb.Linear4bit(linear.in_features, linear.out_features, bias=False, device="meta")
    layer.weight = bnb.Params4bit(linear.weight.detach(), quant_type="nf4", module=layer)
    layer.bias = linear.bias
    # on a CPU with AVX512-BF16 it would pack anew in eval mode, in a form that gradients don't pass through
    layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return layer


def _unpacked(weight: Any) -> Tensor:
    state = getattr(weight, "quant_state", None)
    unpacked: Tensor = weight if state is None else _optional("bitsandbytes").functional.dequantize_4bit(weight, state)
    return unpacked


def _inject(config: Any, language: Any, base: str) -> None:
    _optional("peft").inject_adapter_in_model(config, language, _NAME)
    language.adapter_base = base


def _matrices(language: nn.Module) -> dict[str, nn.Parameter]:
    kinds = tuple(f".lora_{which}.{_NAME}.weight" for which in "AB")
    named = language.get_submodule(_LAYERS).named_parameters(prefix=_LAYERS)
    return {name: parameter for name, parameter in named if name.endswith(kinds)}


def _in_file(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".")


def _optional(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"adapters need {package}: pip install 'yivl[adapters]'") from error
