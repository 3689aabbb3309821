"""A GGUF file as a model folder: packed weights written out, so that everything else reads folders alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from yivl.depth.expand import whole_folder

_SUFFIX = ".gguf"


def check_unpacked(model: Path) -> None:
    """Raises a `ValueError` for a GGUF file, which says how it becomes a folder."""
    if model.suffix == _SUFFIX:
        raise ValueError(f"{model} holds packed weights; write a folder first: yivl depth unpack {model} OUT")


def unpack(file: Path, out: Path) -> None:
    """Writes a folder with the weights that a GGUF file stands for, in float32, which holds them exactly.

    Args:
        file: of an architecture that transformers reads.
        out: the folder, which appears when all is written.

    Raises:
        ImportError: the package gguf is missing.
        FileNotFoundError: there is no such file.
        ValueError: `out` is there already and not empty, or transformers does not read the file.
        OSError: it could not be written.
    """
    if find_spec("gguf") is None:
        raise ImportError("reading GGUF files needs the package gguf: pip install 'yivl[depth]'")
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    packed = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**packed), dtype=torch.float32)
    unpacked = AutoModelForCausalLM.from_pretrained(**packed, dtype=torch.float32)
    plain.load_state_dict(unpacked.state_dict(), assign=True)  # `unpacked` itself refuses to be written
    plain.tie_weights()
    with whole_folder(out, 4 * plain.num_parameters()) as folder:
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**packed).save_pretrained(folder)
