"""The folder of a run.

    RUN/stage.yaml        the resolved stage
    RUN/manifest.json     which samples were chosen
    RUN/start.txt         fingerprint of the weights it started from
    RUN/starts.jsonl      when a process began to train here, and after which step
    RUN/log.jsonl         a line for each optimiser step
    RUN/quarantine.jsonl  samples that could not be used, with the reason
    RUN/skipped.jsonl     steps that were left out, with the reason
    RUN/growth.jsonl      where the batch grew, with the reason
    RUN/held_out.jsonl    the loss of held-out samples
    RUN/answers.jsonl     the model's answers to some of them; their pictures in RUN/answers/
    RUN/benchmarks.jsonl  scores of benchmarks; their results in RUN/benchmarks/step-N/NAME
    RUN/tensorboard/
    RUN/wandb.txt         the run's id in Weights & Biases
    RUN/hang.txt          where every process stood when the run hung
    RUN/state/            for resuming only (stages/checkpoint.py)
    RUN/model/            the result: what the next stage, inference and evaluation read
    RUN/adapter/          of a stage with an adapter: its matrices, for peft

Nothing is pickled; logs grow by whole lines, settings and the model appear by a rename.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from data.mixture import Manifest, load_manifest
from stages.checkpoint import CheckpointError
from stages.stage import Stage
from yivl.folder import write_model
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import SettingsError, plain
from yivl.weights import stored_weights, sync

_FREE = (
    "run", "data", "cache", "cache_gib", "workers", "save_every", "save_minutes", "broken_limit", "zero", "offload",
    "checkpointing", "device_gib", "skip_limit", "hang_minutes", "held_out", "held_out_samples", "held_out_every",
    "answers", "wandb", "peak_tflops", "benchmarks", "benchmarks_every",
)  # fmt: skip
"""Settings that change nothing of what is computed but rounding, and may differ on a resume."""


_MOMENT = 3
"""Seconds that a run waits for another to let go of its folder."""


class RunFolder:
    """Everything that a run writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.adapter = path / "adapter"
        self.log = path / "log.jsonl"
        self.quarantine = path / "quarantine.jsonl"
        self.skipped = path / "skipped.jsonl"
        self.growth = path / "growth.jsonl"
        self.held_out = path / "held_out.jsonl"
        self.answers = path / "answers.jsonl"
        self.benchmarks = path / "benchmarks.jsonl"
        self.examined = path / "benchmarks"
        self.tensorboard = path / "tensorboard"
        self.state = path / "state"
        self.hang = path / "hang.txt"

    @property
    def begun(self) -> bool:
        """True when `open` was here."""
        return (self.path / "start.txt").is_file()

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
        shutil.rmtree(self.path / ".model.unfinished", ignore_errors=True)
        stage_file, manifest_file, start_file = (self.path / n for n in ("stage.yaml", "manifest.json", "start.txt"))
        way_out = f"Use another 'run' folder, or delete {self.path} to begin anew"
        if start_file.exists() and self.log.exists():  # before its first step it may still change
            before = yaml.safe_load(stage_file.read_text(encoding="utf-8"))
            now = plain(stage)
            for field in fields(Stage):  # settings that came into being after this run began
                if field.default is not MISSING:
                    before.setdefault(field.name, plain(field.default))
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
        replace_file(stage_file, yaml.safe_dump(plain(stage), sort_keys=False, allow_unicode=True))
        replace_file(manifest_file, json.dumps(plain(manifest), indent=1))
        replace_file(start_file, start)

    def _lock(self) -> None:
        """Held until the process ends, however it ends; its loaders' processes outlive a killed one by a moment."""
        self._locked = (self.path / ".lock").open("w")
        deadline = time.monotonic() + _MOMENT
        while True:
            try:
                return fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise SettingsError(f"another process trains in {self.path}; wait for it, or stop it") from error
                time.sleep(0.1)

    def rewind(self, step: int) -> None:
        """Takes what was logged after `step` out of the logs: the run continues from there."""
        self.hang.unlink(missing_ok=True)
        looks = (self.held_out, self.answers, self.benchmarks)
        for file in (self.log, self.quarantine, self.skipped, self.growth, *looks):
            if file.exists():
                lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
                last = step - 1 if file in looks else step  # a look at `step` comes after it
                kept = [line for line in lines if _step_of(line) <= last]
                replace_file(file, "".join(f"{line}\n" for line in kept))

    def finish(self, model: YiVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        """Writes the result, atomically.

        Raises:
            CheckpointError: it could not be written, such as on a full disk.
        """
        temporary = self.path / ".model.unfinished"
        try:
            write_model(model, tokenizer, temporary)
            check_written(model, temporary)
            for file in temporary.rglob("*"):
                sync(file)
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


def replace_file(file: Path, content: str) -> None:
    """Writes a file so that it is there as a whole or not at all."""
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
