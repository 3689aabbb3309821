"""What clusters do to runs: the run goes on from its last good state and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import SEEN, assert_bit_equal, log, ranks_of, training, trains, wait_until

ALL = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}


def killed(run: Path, process: subprocess.Popen[str], rank: int, after: int) -> None:
    """SIGKILL for a rank once so many more steps are logged."""
    steps = len(log(run)) + after
    wait_until(lambda: len(log(run)) >= steps, process)
    kill(run, process, ranks_of(run), rank)


def killed_while_saving(run: Path, process: subprocess.Popen[str], rank: int) -> None:
    """SIGKILL for a rank at the moment when an unfinished checkpoint lies there, one step or more from now: a former
    kill may have left another behind, which goes when the run begins again."""
    steps = len(log(run)) + 1
    wait_until(lambda: len(log(run)) >= steps, process)
    pids = ranks_of(run)
    wait_until(lambda: list((run / "state").glob(".step-*")), process, every=0.001)
    kill(run, process, pids, rank)


def kill(run: Path, process: subprocess.Popen[str], pids: dict[int, int], rank: int) -> None:
    """SIGKILL, and waits until the launcher has ended the others too."""
    os.kill(pids[rank], signal.SIGKILL)
    wait_until(lambda: not set(pids.values()) & set(ranks_of(run).values()), process)


def damaged(run: Path) -> None:
    """A bit of the newest checkpoint flips."""
    file = sorted((run / "state").glob("step-*/shard-*"))[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_kill_while_saving_sigterm_and_a_damaged_checkpoint_change_nothing(
    stage_file: Callable[..., Path], tmp_path: Path
) -> None:
    stage = stage_file(epochs=3, save_every=2, learning_rate=ALL, zero=2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    trains(2, stage, f"run={whole}")

    process = training(2, stage, f"run={run}", restarts=1)  # torchrun starts all anew when one dies
    wait_until(lambda: len(log(run)) >= 5, process)
    killed_while_saving(run, process, rank=1)
    wait_until(lambda: len(log(run)) >= 12, process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert "the same command continues from there" in said
    assert 12 <= len(log(run)) < 27
    damaged(run)

    assert "is not used: shard-" in trains(2, stage, f"run={run}")
    assert_bit_equal(run, whole)


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_all_and_loses_nothing(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage = stage_file(epochs=4, save_every=2, learning_rate=ALL, zero=1)
    whole, run = tmp_path / "whole", tmp_path / "run"
    trains(2, stage, f"run={whole}")
    process = training(2, stage, f"run={run}")
    wait_until(lambda: list((run / "state").glob("step-*")), process)
    resource.prlimit(ranks_of(run)[1], resource.RLIMIT_FSIZE, (10_000, 10_000))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "survives. Make room and run the same command again" in said
    trains(2, stage, f"run={run}")
    assert_bit_equal(run, whole)


def test_a_hang_is_told_with_every_process_and_its_samples(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage, run = stage_file(epochs=50, hang_minutes=0.1), tmp_path / "run"
    process = training(2, stage, f"run={run}")
    wait_until(lambda: len(log(run)) >= 3, process)
    time.sleep(2)  # the processes tell each other once a second where they stand
    stopped = ranks_of(run)[1]
    os.kill(stopped, signal.SIGSTOP)
    report = wait_until(lambda: (run / "hang.txt").exists() and (run / "hang.txt").read_text(), process, 60)
    os.kill(stopped, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "process 0 stayed in one phase for more than 6 seconds" in report and report.strip() in said
    (line,) = [line for line in report.splitlines() if line.startswith("  process 1: silent for ")]
    assert re.search(r"before that: [a-z ]+, for \d+ seconds; \w+/\w+", line), line  # a phase and a sample
    (line,) = [line for line in report.splitlines() if line.startswith("  process 0: ")]
    assert re.search(r"process 0: [a-z ]+, for \d+ seconds; \w+/\w+", line), line


@pytest.mark.slow
def test_a_run_that_hung_goes_on_as_if_it_had_not(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage, run, whole = stage_file(epochs=50, hang_minutes=0.1, save_every=3), tmp_path / "run", tmp_path / "whole"
    trains(2, stage, f"run={whole}")
    process = training(2, stage, f"run={run}", restarts=1)
    wait_until(lambda: len(log(run)) >= 20, process)
    stopped = ranks_of(run)[1]
    os.kill(stopped, signal.SIGSTOP)
    wait_until((run / "hang.txt").exists, process, 60)
    os.kill(stopped, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_bit_equal(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_twenty_kills(stage_file: Callable[..., Path], tmp_path: Path, zero: int) -> None:
    stage = stage_file(epochs=12, save_every=1, learning_rate=ALL, zero=zero)
    whole, run = tmp_path / "whole", tmp_path / "run"
    trains(2, stage, f"run={whole}")
    process = training(2, stage, f"run={run}", restarts=20)
    chance = random.Random(zero)
    for number in range(20):
        if number % 2:
            killed_while_saving(run, process, chance.randrange(2))
        else:
            killed(run, process, chance.randrange(2), after=chance.randrange(1, 4))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_bit_equal(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_another_number_of_processes_goes_on_with_the_right_samples(
    stage_file: Callable[..., Path], tmp_path: Path, zero: int
) -> None:
    stage = stage_file(epochs=3, save_every=1, learning_rate=ALL, zero=zero)
    whole, run = tmp_path / "whole", tmp_path / "run"
    trains(2, stage, f"run={whole}")
    for ranks, steps in ((2, 6), (4, 14)):
        process = training(ranks, stage, f"run={run}")
        wait_until(lambda steps=steps: len(log(run)) >= steps, process)
        for pid in ranks_of(run).values():
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    trains(1, stage, f"run={run}")
    assert [[entry[key] for key in SEEN] for entry in log(run)] == [[e[key] for key in SEEN] for e in log(whole)]
    assert [e["loss"] for e in log(run)] == pytest.approx([e["loss"] for e in log(whole)], rel=1e-5)
