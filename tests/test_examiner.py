"""Benchmarks that are put to a model while it trains: the same as afterwards, and training does not notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import assert_bit_equal, log, trains

from eval.benchmark import BadData, Choices
from eval.mmmu import MMMU
from eval.predictions import read_replies
from eval.runner import evaluate_model
from stages.checkpoint import CheckpointError
from stages.report.__main__ import main as report
from stages.stage import Stage
from stages.train import train
from yivl.settings import SettingsError, read

ALL = {"vision": 1e-3, "projector": 1e-3, "language": 1e-3}
EVERY = 4


def examined(stage_file: Callable[..., Path], data: Path, **settings: Any) -> Path:
    benchmarks = {"mmmu": {"data": str(data), "batch_size": 3}}
    return stage_file(learning_rate=ALL, benchmarks=benchmarks, benchmarks_every=EVERY, **settings)


def scores(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "benchmarks.jsonl").read_text().splitlines()]


def assert_last_is_as_afterwards(run: Path, data: Path) -> None:
    """The last examination gave what the command gives on the finished model."""
    last = len(log(run))
    result = evaluate_model(run / "model", MMMU(data, Choices()), run / "afterwards", batch_size=3)
    assert result.overall is not None
    assert read_replies(run / "benchmarks" / f"step-{last:09d}" / "mmmu") == result.replies
    assert scores(run)[-1]["step"] == last
    assert scores(run)[-1]["scores"]["accuracy"] == result.overall.value


def test_training_does_not_notice(stage_file: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    without, run = tmp_path / "without", tmp_path / "with"
    train(read(Stage, stage_file(learning_rate=ALL), [f"run={without}"]))
    train(read(Stage, examined(stage_file, data), [f"run={run}"]))
    assert_bit_equal(run, without)
    steps = len(log(run))
    assert [line["step"] for line in scores(run)] == [*range(EVERY, steps, EVERY), steps]
    assert_last_is_as_afterwards(run, data)
    result = json.loads((run / "benchmarks" / f"step-{EVERY:09d}" / "mmmu" / "result.json").read_text())
    assert (result["model"], result["protocol"], result["counts"]["questions"]) == (f"step {EVERY}", "yi", 11)
    assert report([str(run)]) == 0
    assert "mmmu" in (run / "report.html").read_text()


def test_a_resume_examines_again_what_it_did_not_finish(stage_file: Callable[..., Path], data: Path) -> None:
    stage = read(Stage, examined(stage_file, data, save_every=EVERY))
    run = Path(stage.run)
    run.mkdir()
    (run / "model").write_text("in the way")
    with pytest.raises(CheckpointError):
        train(stage)
    before = scores(run)
    (run / "model").unlink()
    train(stage)  # goes on after the last step
    assert scores(run) == before
    assert [line["step"] for line in before] == sorted({line["step"] for line in before})


@pytest.mark.parametrize("zero", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_the_questions(stage_file: Callable[..., Path], data: Path, tmp_path: Path, zero: int) -> None:
    run = tmp_path / "run"
    trains(2, examined(stage_file, data, zero=zero), f"run={run}")
    last = run / "benchmarks" / f"step-{len(log(run)):09d}" / "mmmu"
    each = [len(file.read_text().splitlines()) for file in sorted(last.glob("predictions*.jsonl"))]
    assert sum(each) == 11 and min(each) >= 5
    assert_last_is_as_afterwards(run, data)


def test_bad_data_and_settings_end_the_run_before_it_trains(
    stage_file: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    for wrong, said in (
        ({"mmmu": {"data": str(tmp_path / "gone")}}, "gone"),
        ({"mmlu": {"data": str(data)}}, "unknown benchmark 'mmlu'; there are mmmu"),
        ({"mmmu": {"data": str(data), "protocol": "own"}}, "unknown protocol 'own'"),
    ):
        with pytest.raises((BadData, FileNotFoundError, ValueError), match=said):
            train(read(Stage, stage_file(benchmarks=wrong)))
        assert not log(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"unknown key 'benchmarks\.mmmu\.datta'"):
        read(Stage, stage_file(benchmarks={"mmmu": {"datta": str(data)}}))
