"""Runs of several processes, started as a user starts them, and what is done to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent


class Launched(subprocess.Popen[str]):
    """What it says goes to a file: a pipe that nobody reads stops whoever writes to it once it is full."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        super().__init__(command, stderr=self._said, text=True, **options)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; nothing, and what it said."""
        self.wait(timeout)
        self._said.seek(0)
        return "", self._said.read()


def torchrun(ranks: int, *command: str, restarts: int = 0) -> Launched:
    """Starts `command` (module or file, and its arguments) in so many processes of this machine."""
    return Launched(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d",
         "--rdzv-endpoint", "127.0.0.1:0", "--max-restarts", str(restarts), *command],
        cwd=ROOT, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def training(ranks: int, stage: Path, *overrides: str, restarts: int = 0) -> Launched:
    """Starts a stage."""
    return torchrun(ranks, "-m", "stages.train", str(stage), *overrides, restarts=restarts)


def trains(ranks: int, stage: Path, *overrides: str) -> str:
    """Runs a stage to its end; what it said."""
    process = training(ranks, stage, *overrides)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def ranks_of(run: Path) -> dict[int, int]:
    """The processes that train in a folder at this moment: process number of each rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        named = dict(one.split(b"=", 1) for one in environment.split(b"\0") if b"=" in one)
        if str(run).encode() in command and b"RANK" in named:
            found.setdefault(int(named[b"RANK"]), int(process.name))
    return found


def wait_until(
    happened: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120, every: float = 0.1
) -> Any:
    """Waits for something while a run goes on, looking every so many seconds; what it was."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert process.poll() is None, f"the run ended: {process.communicate()[1][-2000:]}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(every)
    return found


def log(run: Path) -> list[dict[str, Any]]:
    """The steps that a run has logged."""
    file = run / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


SEEN = ("step", "samples", "tokens", "supervised", "images", "dropped_turns")
"""What of a step depends on its samples alone."""


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those that a run ended with."""
    return load_file(run / "model" / "model.safetensors")


def assert_bit_equal(found: Path, expected: Path) -> None:
    """Two runs whose losses and weights do not differ by a bit."""
    ours, theirs = ([[entry[key] for key in (*SEEN, "loss", "grad_norm")] for entry in log(run)]
                    for run in (found, expected))  # fmt: skip
    assert ours == theirs and ours
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
