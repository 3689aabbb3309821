"""Checkpoints: what a run needs to go on, written so that a process killed at any moment leaves a whole one behind.

    RUN/state/step-N/shard-00000-00000.safetensors   tensors, written by process 0; each process writes its share
    RUN/state/step-N/state.json                      the rest, and every file's size and checksum; written last

The folder appears by one rename, after all is on disk; it counts when the files are what state.json says. The newest
two are kept. Nothing is pickled. The folder must lie on storage that all processes see.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yivl.ranks import Ranks
from yivl.weights import sync

log = logging.getLogger("yivl")
_KEPT = 2
_STATE = "state.json"
_FILE_BYTES = 4 * 2**30
"""A file takes no more; so much of the state lies in a process's memory while it is written."""


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the former one is untouched."""


class Stored(Mapping[str, Tensor]):
    """The tensors of files, read one at a time when asked for.

    Args:
        files: safetensors files.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._where: dict[str, Path] = {}
        for file in files:
            with safe_open(file, "pt") as tensors:
                self._where |= dict.fromkeys(tensors.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._where[name], "pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    """Optimiser steps done."""
    facts: Mapping[str, Any]
    """What was saved beside the tensors."""
    tensors: Stored
    """The engine's state."""


class Checkpoints:
    """Those of a run. All processes call every method alike.

    Args:
        path: folder that holds them.
        ranks: the processes, of which each writes and checks a share.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path = path
        self.ranks = ranks

    def save(self, step: int, facts: Mapping[str, Any], state: Iterable[tuple[str, Tensor]]) -> None:
        """Writes a checkpoint, then removes all but the newest two.

        Args:
            step: optimiser steps done.
            facts: what JSON can hold.
            state: whole tensors, the same on all processes, who take each from it together.

        Raises:
            CheckpointError: it could not be written, such as on a full disk; the former one survives.
        """
        unfinished, target = self.path / f".step-{step:09d}", self.path / f"step-{step:09d}"
        self.ranks.by_first(lambda: _make_anew(unfinished))
        writer = _ShareWriter(unfinished, self.ranks)
        for name, tensor in state:
            writer.add(name, tensor)
        told = self.ranks.gather((writer.finish(), writer.error))
        if errors := [error for _, error in told if error]:
            self.ranks.by_first(lambda: shutil.rmtree(unfinished, ignore_errors=True))
            raise self._unsaved(step, errors[0])
        files = {name: digest for written, _ in told for name, digest in written.items()}
        self.ranks.by_first(lambda: self._publish(unfinished, target, {"step": step, "facts": facts, "files": files}))

    def _publish(self, unfinished: Path, target: Path, content: Mapping[str, Any]) -> None:
        try:
            (unfinished / _STATE).write_text(json.dumps(content), encoding="utf-8")
            sync(unfinished / _STATE)
            sync(unfinished)
            if target.exists():  # a damaged one: the newest that was good came before it
                shutil.rmtree(target)
            unfinished.rename(target)
            sync(self.path)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise self._unsaved(content["step"], str(error)) from error
        for old in self._folders()[:-_KEPT]:
            shutil.rmtree(old)

    def _unsaved(self, step: int, reason: str) -> CheckpointError:
        folders = self._folders()
        survivor = f"the checkpoint of step {_step_of(folders[-1])} survives" if folders else "there was none before"
        return CheckpointError(
            f"step {step} could not be saved in {self.path}: {reason}; {survivor}. "
            "Make room and run the same command again"
        )

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are whole, on which all processes agree; None before the first.

        Raises:
            CheckpointError: there are some, and none is whole.
            OSError: a file is there, but can't be read at present.
            OtherProcessFailed: so it is on another process.
        """
        folders = self.ranks.gather(self._folders())[0]
        for folder in reversed(folders):
            content, reason = self.ranks.alike(partial(self._read_share, folder))
            if not (reasons := [one for one in self.ranks.gather(reason) if one]):
                return Checkpoint(content["step"], content["facts"], Stored(folder / name for name in content["files"]))
            log.warning("%s is not used: %s", folder, reasons[0])
        if folders:
            raise CheckpointError(
                f"no checkpoint in {self.path} is whole; restore one ({', '.join(one.name for one in folders)}), or "
                f"delete {self.path}: the run then begins anew"
            )
        return None

    def _read_share(self, folder: Path) -> tuple[dict[str, Any], str]:
        """A checkpoint's state.json, and what is wrong with it or with this process's share of the files."""
        content, reason = _read(folder)
        mine = sorted(content["files"])[self.ranks.rank :: self.ranks.count] if not reason else []
        return content, next(filter(None, (_damage(folder / name, content["files"][name]) for name in mine)), reason)

    def remove_after(self, step: int) -> None:
        """Removes what lies after the step that a run goes on from: it is damaged."""
        for folder in self._folders():
            if _step_of(folder) > step:
                shutil.rmtree(folder)

    def clean(self) -> None:
        """Removes what a killed process left unfinished."""
        for left in self.path.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Removes all: the run is finished."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.path.glob("step-*"))


class _ShareWriter:
    """Writes this process's share of tensors that come one by one; holds back errors until all have come, since the
    processes make each tensor together."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.error = ""
        self._folder = folder
        self._rank = ranks.rank
        self._loads = [0] * ranks.count
        self._held: dict[str, Tensor] = {}
        self._digests: dict[str, dict[str, int]] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes it, if it falls to this process: the one with the fewest elements so far."""
        owner = self._loads.index(min(self._loads))
        self._loads[owner] += tensor.numel()
        if owner == self._rank and not self.error:
            if sum(one.nbytes for one in self._held.values()) + tensor.nbytes > _FILE_BYTES:
                self._write()
            self._held[name] = tensor.detach().to("cpu", copy=True).contiguous()

    def finish(self) -> dict[str, dict[str, int]]:
        """Writes the rest; the digests of the files."""
        self._write()
        return self._digests

    def _write(self) -> None:
        file = self._folder / f"shard-{self._rank:05d}-{len(self._digests):05d}.safetensors"
        try:
            if self._held and not self.error:
                save_file(self._held, file)
                sync(file)
                self._digests[file.name] = _digest(file)
        except (OSError, SafetensorError) as error:
            self.error = str(error)
        self._held = {}


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"no checkpoint can be written: {error}") from error


def _read(folder: Path) -> tuple[dict[str, Any], str]:
    try:
        content: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if not {"step", "facts", "files"} <= content.keys():
            raise ValueError("keys are missing")
        return content, ""
    except (FileNotFoundError, ValueError) as error:
        return {}, f"{_STATE}: {error}"


def _damage(file: Path, expected: Mapping[str, int]) -> str:
    try:
        return "" if _digest(file) == expected else f"{file.name} is damaged"
    except FileNotFoundError:
        return f"{file.name} is missing"


def _digest(file: Path) -> dict[str, int]:
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(1 << 24):
            checksum = zlib.crc32(chunk, checksum)
    return {"size": file.stat().st_size, "crc32": checksum}


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
