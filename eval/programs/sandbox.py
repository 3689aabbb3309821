"""Runs programs that a model wrote, each in a fresh process that can do little harm, several at once.

    sandbox = Sandbox()
    sandbox.run_all(["assert 1 + 1 == 2", "while True: pass"])      [passed, timeout]

A process (`eval.programs.confined`) has limits of time and memory, an empty directory that is deleted afterwards, an
environment without the caller's variables, and no input; what it prints is thrown away. On Linux it has no network,
starts no other process and writes no file. What it may do is read files and use its time and memory. That stops what
models do by mistake and ordinary mischief, not somebody who knows a way through the kernel: that takes a machine of
its own.

A program passes when it ran to its end, with all its tests in it: `confined` then tells a token that is new for every
program. One that leaves early, by whatever way, has not told it. A program that is out to deceive can: the token lies
in its own process, and simpler still, a function may return an object that claims to equal everything.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, NamedTuple

from eval.programs import confined

PASSED, FAILED, TIMEOUT, MEMORY, SYNTAX = "passed", "failed", "timeout", "out of memory", "syntax error"
KINDS = (PASSED, FAILED, TIMEOUT, MEMORY, SYNTAX)

_TOLD = {"error": FAILED, "memory": MEMORY, "syntax": SYNTAX}
_MOST = 2**16
"""Bytes that are read of what a process tells; its own are far fewer."""
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
"""Sets have one order, so that a program does the same each time; numpy takes no memory for a thread on each core."""
_PROBE = """
import bisect, cmath, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq, itertools, math
import operator, random, re, statistics, string, sys, typing
assert math.gcd(4, 6) == 2
"""
"""What many answers import."""


class NoSandbox(ValueError):
    """This machine can't run programs, or not in isolation."""


class Outcome(NamedTuple):
    """What became of a program."""

    kind: str
    """One of `KINDS`."""
    why: str
    """The last line of its traceback with its own line that failed, or what else ended it; empty if it passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may take."""

    processor_seconds: int = 3
    """Python's start included. As the timeout of openai/human-eval and of the metric code_eval, which count by the
    clock, so that there a busy machine makes programs fail."""
    seconds: float = 15.0
    """By the clock."""
    memory_bytes: int = 2**30
    """Of addresses."""

    def __str__(self) -> str:
        """For notes."""
        memory = self.memory_bytes // 2**20
        return f"{self.processor_seconds} s of processor time, {self.seconds:g} s in all, {memory} MiB"


class Sandbox:
    """Runs programs.

    Args:
        limits: of each program.
        unisolated: run programs also where nothing keeps them from the network and from other processes.
        workers: programs at a time; by default as many as there are cores to run on.

    Raises:
        NoSandbox: nothing does, and `unisolated` is false; or a correct program does not pass here.
    """

    def __init__(self, *, limits: Limits | None = None, unisolated: bool = False, workers: int | None = None) -> None:
        self.limits = limits or Limits()
        self._unisolated = unisolated
        self._workers = workers or _cores()
        ended = self._execute(_PROBE)
        self.isolation: dict[str, list[str]] = ended.isolation
        """What keeps programs from the network, from processes and from writing files, by Linux's names."""
        if not (unisolated or confined.isolated(self.isolation)):
            raise NoSandbox(
                "nothing keeps programs from the network and from other processes here (no seccomp filter on "
                f"{platform.system()} {platform.machine()}). Where there is nothing to lose, such as in a virtual "
                "machine, they can be run with --allow-code unisolated"
            )
        if ended.outcome.kind != PASSED:
            raise NoSandbox(f"a correct program does not pass in the sandbox here: {' '.join(ended.outcome)}")

    def run(self, program: str) -> Outcome:
        """Runs a program to its end, or to the end of its limits.

        Raises:
            NoSandbox: its process did not begin.
        """
        return self._execute(program).outcome

    def run_all(self, programs: Sequence[str]) -> list[Outcome]:
        """`run` for each, several at a time, in order."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self.run, programs))

    def _execute(self, program: str) -> _Ended:
        token = secrets.token_hex(16)
        request = {
            "program": program,
            "token": token,
            "processor_seconds": self.limits.processor_seconds,
            "memory_bytes": self.limits.memory_bytes,
            "unisolated": self._unisolated,
        }
        with TemporaryDirectory(prefix="program-") as folder, TemporaryFile() as asked:
            asked.write(json.dumps(request).encode())
            asked.seek(0)
            told, status = _finish(asked, folder, self.limits.seconds)
        return self._ended(told, token, status)

    def _ended(self, told: _Told, token: str, status: int) -> _Ended:
        lines = [line for line in told.content.split(b"\n") if line]
        if not lines:
            raise NoSandbox(f"a program's process did not begin; it ended with {_status(status)}")
        isolation: dict[str, list[str]] = json.loads(lines[0])["isolation"]
        end = _parsed(lines[1]) if len(lines) > 1 else {}
        if secrets.compare_digest(str(end.get("token")).encode(), token.encode()):
            outcome = Outcome(PASSED, "")
        elif kind := _TOLD.get(str(end.get("kind"))):
            outcome = Outcome(kind, str(end.get("error")))
        elif not told.complete:
            outcome = Outcome(TIMEOUT, f"no end after {self.limits.seconds:g} s")
        elif status == -signal.SIGXCPU:
            outcome = Outcome(TIMEOUT, f"no end after {self.limits.processor_seconds} s of processor time")
        else:
            outcome = Outcome(FAILED, f"left before the end of its tests, with {_status(status)}")
        return _Ended(outcome, isolation)


class _Told(NamedTuple):
    content: bytes
    complete: bool
    """False where its writer went on at the deadline, or wrote too much."""


class _Ended(NamedTuple):
    outcome: Outcome
    isolation: dict[str, list[str]]


def _finish(asked: IO[bytes], folder: str, seconds: float) -> tuple[_Told, int]:
    """What the process of a request tells, and its status at the end, which comes in so many seconds."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe:
        try:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", confined.__file__, str(writing)],
                stdin=asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(writing,),
                cwd=folder, env=_ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
        try:
            told = _read(pipe.fileno(), time.monotonic() + seconds)
        finally:
            # Unisolated there may be others in its session. As it was not waited for, its number is still its own.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    return told, status


def _read(descriptor: int, deadline: float) -> _Told:
    """What is written to a pipe, until nobody has it open for writing."""
    content = b""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while len(content) < _MOST and (left := deadline - time.monotonic()) > 0:
        if waiting.poll(1000 * left):
            more = os.read(descriptor, _MOST)
            if not more:
                return _Told(content, complete=True)
            content += more
    return _Told(content, complete=False)


def _parsed(line: bytes) -> dict[str, Any]:
    """Empty for what `confined` does not write: then it was the program."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _status(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status} ({signal.strsignal(-status)})"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
