"""The deeper model's folder, written from the model's own without loading it.

Weights are copied bit by bit and at most a few MiB of them are in memory, so the largest model needs no more than the
smallest. Of a vision-language model the language part is expanded and the rest copied.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yivl.configuration import YiVLConfig
from yivl.depth.expansion import Expansion, changed_settings
from yivl.depth.parameters import Parameters, parameters
from yivl.depth.stored import StoredTensor, Told, stored_tensors, write_tensors
from yivl.folder import check_folder
from yivl.released import is_released
from yivl.weights import LANGUAGE, sync

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}
"""Files that are not copied: weights in any form, and what a trainer keeps for resuming."""
_PROJECTOR = "model.mm_projector."
"""Begins names of the released layout that lie among the language part's."""


class Original:
    """A model folder whose language part can be expanded.

    Raises:
        FileNotFoundError: there is no such folder, or no safetensors in it.
        ValueError: its weights are damaged or those of another architecture.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = check_folder(folder)
        self.settings: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._ours = self.settings.get("model_type") == YiVLConfig.model_type
        self._prefix = LANGUAGE if self._ours else ""
        self._layer = re.compile(re.escape(f"{self._prefix}model.layers.") + r"(\d+)\.(.+)")
        """A layer's tensor: its number, and the rest of its name."""
        self.tensors = stored_tensors(folder)
        numbers = {int(match[1]) for match in map(self._layer.match, self.tensors) if match}
        self.depth = len(numbers)
        if not numbers or numbers != set(range(self.depth)):
            raise ValueError(
                f"{folder}: no Llama-architecture model; its layers' tensors would be called "
                f"{self._prefix}model.layers.0.… and so on, without a gap"
            )

    def parameters(self, tensors: Mapping[str, StoredTensor]) -> Parameters:
        """Those of the language part, with its tensors or those of an expansion."""
        return parameters(
            {
                name.removeprefix(self._prefix): tensor.shape
                for name, tensor in tensors.items()
                if name.startswith(self._prefix) and not name.startswith(_PROJECTOR)
            }
        )

    def expanded(self, expansion: Expansion) -> dict[str, StoredTensor]:
        """The deeper model's tensors by their new names, in the model's order, layers one behind the other."""
        layers: list[dict[str, StoredTensor]] = [{} for _ in range(self.depth)]
        before: dict[str, StoredTensor] = {}
        behind: dict[str, StoredTensor] = {}
        for name, tensor in self.tensors.items():
            if match := self._layer.match(name):
                layers[int(match[1])][match[2]] = tensor
            else:
                (behind if name.endswith(("model.norm.weight", "lm_head.weight")) else before)[name] = tensor
        named = {
            f"{self._prefix}model.layers.{place}.{rest}": tensor
            for place, layer in enumerate(expansion.layers)
            for rest, tensor in layers[layer].items()
        }
        return before | named | behind

    def expanded_settings(self, expansion: Expansion) -> dict[str, Any]:
        """The deeper model's configuration."""
        text = self.settings["text_config"] if self._ours else self.settings
        deeper = {**text, **changed_settings(text, expansion)}
        return {**self.settings, "text_config": deeper} if self._ours else deeper

    def other_files(self) -> Iterator[Path]:
        """What the deeper model has as the model has it, relative to its folder."""
        for path in sorted(self.folder.iterdir()):
            weights = path.suffix in _WEIGHTS or path.name.endswith(".index.json")
            if path.is_file() and path.name != "config.json" and not weights:
                yield Path(path.name)
        if is_released(self.folder):
            tower = self.folder / self.settings["mm_vision_tower"]
            yield from (path.relative_to(self.folder) for path in sorted(tower.rglob("*")) if path.is_file())


def expand(original: Original, expansion: Expansion, out: Path, *, shard_bytes: int, told: Told) -> None:
    """Writes the deeper model's folder.

    Args:
        original: the model.
        expansion: of as many layers as it has.
        out: the folder, which appears when all is written.
        shard_bytes: most bytes of weights in a file.
        told: see `Told`.

    Raises:
        ValueError: `out` is there already and not empty, or config.json and weights don't fit each other.
        OSError: it could not be written, such as on a full disk; then nothing is left of it.
    """
    tensors, settings = original.expanded(expansion), original.expanded_settings(expansion)
    with whole_folder(out, sum(tensor.size for tensor in tensors.values())) as folder:
        for name in original.other_files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original.folder / name, folder / name)
        write_tensors(tensors, folder, shard_bytes, told)
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def check_empty(out: Path) -> None:
    """Raises a `ValueError` where there is something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not empty; choose another folder")


@contextmanager
def whole_folder(out: Path, size: int) -> Iterator[Path]:
    """A folder to write in that becomes `out` at the end, and is removed if anything goes wrong before.

    Args:
        out: must not be there yet, or be empty.
        size: about how many bytes will be written.

    Raises:
        ValueError: see `check_empty`.
        OSError: there is no room for `size`, or writing failed.
    """
    check_empty(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(out.parent).free) < size:
        raise OSError(f"{out} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed
    unfinished.mkdir()
    try:
        yield unfinished
        for path in [*unfinished.rglob("*"), unfinished]:
            sync(path)
        unfinished.rename(out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
