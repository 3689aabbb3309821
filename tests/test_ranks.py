"""Several processes make the run that one makes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import captions
from processes import SEEN, log, ranks_of, training, wait_until, weights

from data.shards import write_shards
from stages.stage import Stage
from stages.train import train
from yivl.settings import read

ALL = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}


def assert_same_run(found: Path, expected: Path) -> None:
    assert len(log(found)) == len(log(expected)) > 0
    for a, b in zip(log(found), log(expected), strict=True):
        assert [a[key] for key in SEEN] == [b[key] for key in SEEN]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    ours = weights(found)
    for name, tensor in weights(expected).items():
        assert torch.allclose(ours[name], tensor, rtol=0, atol=2e-4), name  # Adam turns tiny gradients into whole steps


@pytest.mark.parametrize(("ranks", "tokens"), [(2, 400), pytest.param(4, 400, marks=pytest.mark.slow)])
def test_losses_and_weights_are_those_of_one_process(
    stage_file: Callable[..., Path], tmp_path: Path, ranks: int, tokens: int
) -> None:
    """With 7 samples a step, some of text alone, and rows so short that ranks differ in how many they have."""
    stage = stage_file(global_batch=7, learning_rate=ALL, tokens_per_micro_batch=1024, max_length=400)
    train(read(Stage, stage, [f"run={tmp_path / 'one'}"]))
    process = training(ranks, stage, f"run={tmp_path / 'many'}", f"tokens_per_micro_batch={tokens}")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("samples\nsource") == 1  # one process tells
    assert_same_run(tmp_path / "many", tmp_path / "one")


def test_a_killed_run_goes_on_with_another_number_of_processes(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage = stage_file(epochs=2, learning_rate=ALL, save_every=3)
    train(read(Stage, stage, [f"run={tmp_path / 'one'}"]))
    run = tmp_path / "many"
    process = training(2, stage, f"run={run}")
    wait_until(lambda: len(log(run)) >= 7, process)
    for pid in ranks_of(run).values():
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert 7 <= len(log(run)) < 18
    train(read(Stage, stage, [f"run={run}"]))
    assert_same_run(run, tmp_path / "one")


@pytest.mark.slow
def test_broken_samples_and_what_one_process_meets_are_told_by_all(
    stage_file: Callable[..., Path], tmp_path: Path
) -> None:
    samples = captions(60, np.random.default_rng(3))
    for number in (7, 30):
        samples[number]["jpg"] = b"not an image"
    write_shards(tmp_path / "broken" / "captions", samples, per_shard=20)
    stage = stage_file(data=str(tmp_path / "broken"), broken_limit=0.2)
    (tmp_path / "mixture.yaml").write_text(json.dumps({"catalogue": "sources.yaml", "sources": {"captions": {}}}))
    train(read(Stage, stage, [f"run={tmp_path / 'one'}"]))
    process = training(2, stage, f"run={tmp_path / 'many'}")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    one, many = ((tmp_path / run / "quarantine.jsonl").read_text() for run in ("one", "many"))
    assert one == many and one.count("not a readable image") >= 2
    assert_same_run(tmp_path / "many", tmp_path / "one")

    stopped = training(2, stage, f"run={tmp_path / 'strict'}", "broken_limit=0.001", "epochs=3")
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode != 0
    assert "more than broken_limit 0.001 allows" in said


@pytest.mark.slow
def test_a_request_to_end_saves_and_the_run_goes_on(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage = stage_file(epochs=6, save_every=1000)
    run = tmp_path / "run"
    process = training(2, stage)
    wait_until(lambda: len(log(run)) >= 3, process)
    process.terminate()  # torchrun hands it on
    _, said = process.communicate(timeout=60)
    assert "the same command continues from there" in said
    done = len(log(run))
    assert 3 <= done < 54
    train(read(Stage, stage))
    assert [entry["step"] for entry in log(run)] == list(range(1, 55))
