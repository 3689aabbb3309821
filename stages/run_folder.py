"""The folder of a run.

    RUN/stage.yaml        the resolved stage
    RUN/manifest.json     which samples were chosen
    RUN/start.txt         fingerprint of the weights it started from
    RUN/log.jsonl         a line for each optimiser step
    RUN/quarantine.jsonl  samples that could not be used, with the reason
    RUN/tensorboard/
    RUN/state/step-N/     for resuming only: trained weights and moments (safetensors), state.json
    RUN/model/            the result: what the next stage, inference and evaluation read

A checkpoint counts when its state.json, written last, fits its files; the whole folder appears by one rename. The last
two are kept. Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.mixture import Manifest, load_manifest
from stages.stage import Stage
from yivl.folder import write_model
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import SettingsError, plain
from yivl.weights import stored_weights, sync

_KEPT = 2
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_FREE = ("run", "data", "cache", "cache_gib", "workers", "save_every", "broken_limit")
"""Settings that change nothing of what is computed, and may differ on a resume."""


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the former one is untouched."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    """Optimiser steps done."""
    broken: int
    """Samples replaced so far."""
    folder: Path

    def tensors(self) -> dict[str, Tensor]:
        """The engine's state."""
        return load_file(self.folder / _TENSORS)


class RunFolder:
    """Everything that a run writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.log = path / "log.jsonl"
        self.quarantine = path / "quarantine.jsonl"
        self.tensorboard = path / "tensorboard"
        self._state = path / "state"

    @property
    def finished(self) -> bool:
        """True when the result is there."""
        return (self.model / "config.json").is_file()

    def open(self, stage: Stage, manifest: Manifest, start: str) -> None:
        """Begins the run, or makes sure that it is the same run that began here.

        Args:
            stage: the resolved stage.
            manifest: the samples it takes.
            start: fingerprint of the weights it starts from, so that a resume does not mix two models.

        Raises:
            SettingsError: another stage, manifest or starting point began here, or a process is at work here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        for left in (*self._state.glob(".step-*"), self.path / ".model.unfinished"):
            shutil.rmtree(left, ignore_errors=True)
        stage_file, manifest_file, start_file = (self.path / n for n in ("stage.yaml", "manifest.json", "start.txt"))
        way_out = f"Use another 'run' folder, or delete {self.path} to begin anew"
        if start_file.exists():
            before = yaml.safe_load(stage_file.read_text(encoding="utf-8"))
            now = plain(stage)
            changed = [k for k in sorted(set(before) | set(now)) if k not in _FREE and before.get(k) != now.get(k)]
            if changed:
                listed = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
                raise SettingsError(f"{self.path} holds a run of other settings: {listed}. {way_out}")
            if load_manifest(manifest_file).fingerprint() != manifest.fingerprint():
                raise SettingsError(
                    f"{self.path} holds a run over other samples: the mixture or its shards changed. {way_out}"
                )
            if start_file.read_text(encoding="utf-8") != start:
                raise SettingsError(f"{self.path} holds a run that started from other weights. {way_out}")
            return
        _replace(stage_file, yaml.safe_dump(plain(stage), sort_keys=False, allow_unicode=True))
        _replace(manifest_file, json.dumps(plain(manifest), indent=1))
        _replace(start_file, start)

    def _lock(self) -> None:
        """Held until the process ends, however it ends."""
        self._locked = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"another process trains in {self.path}; wait for it, or stop it") from error

    def save(self, step: int, broken: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint atomically, then removes all but the newest two.

        Raises:
            CheckpointError: it could not be written, such as on a full disk; the former one survives.
        """
        target = self._state / f"step-{step:09d}"
        temporary = self._state / f".step-{step:09d}.unfinished"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_file(dict(tensors), temporary / _TENSORS)
            sync(temporary / _TENSORS)
            content = {"step": step, "broken": broken, "files": {_TENSORS: _digest(temporary / _TENSORS)}}
            _replace(temporary / _STATE, json.dumps(content))
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            sync(self._state)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            last = self.newest()
            survivor = f"the checkpoint of step {last.step} survives" if last else "there was none before"
            raise CheckpointError(
                f"step {step} could not be saved in {self._state}: {error}; {survivor}. "
                "Make room and run the same command again"
            ) from error
        for old in self._checkpoints()[:-_KEPT]:
            shutil.rmtree(old)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are whole."""
        for folder in reversed(self._checkpoints()):
            try:
                content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
                if all(_digest(folder / name) == digest for name, digest in content["files"].items()):
                    return Checkpoint(content["step"], content["broken"], folder)
            except (OSError, ValueError, KeyError):
                continue
        return None

    def rewind(self, step: int) -> None:
        """Takes what was logged after `step` out of the logs: the run continues from there."""
        for file in (self.log, self.quarantine):
            if file.exists():
                lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
                kept = [line for line in lines if _step_of(line) <= step]
                _replace(file, "".join(f"{line}\n" for line in kept))

    def finish(self, model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        """Writes the result, atomically, and removes the checkpoints that led to it."""
        temporary = self.path / ".model.unfinished"
        try:
            write_model(model, tokenizer, temporary)
            check_written(model, temporary)
            sync(temporary)
            shutil.rmtree(self.model, ignore_errors=True)
            temporary.rename(self.model)
            sync(self.path)
        except Exception as error:  # the tokenizer's writer raises bare ones
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"the trained model could not be written to {self.model}: {error}. The last checkpoint survives; "
                "make room and run the same command again"
            ) from error
        self.clear()

    def clear(self) -> None:
        """Removes the checkpoints of a finished run."""
        shutil.rmtree(self._state, ignore_errors=True)

    def _checkpoints(self) -> list[Path]:
        return sorted(self._state.glob("step-*"))


def _digest(file: Path) -> dict[str, int]:
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(1 << 24):
            checksum = zlib.crc32(chunk, checksum)
    return {"size": file.stat().st_size, "crc32": checksum}


def _replace(file: Path, content: str) -> None:
    temporary = file.with_name(f".{file.name}.unfinished")
    temporary.write_text(content, encoding="utf-8")
    sync(temporary)
    temporary.replace(file)


def check_written(model: YiVLForConditionalGeneration, folder: Path) -> None:
    """Reads back which tensors a folder holds; `OSError` unless they are the model's, by name and shape."""
    written: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            written |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    expected = {name: list(tensor.shape) for name, tensor in stored_weights(model).items()}
    if written != expected:
        raise OSError(f"{folder} holds {len(written)} tensors where {len(expected)} were written")


def _step_of(line: str) -> float:
    try:
        record: dict[str, Any] = json.loads(line)
        return float(record["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line that was cut off by the end of the process
