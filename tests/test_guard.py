"""Which steps are left out, and when a run ends because of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import captions
from safetensors.torch import load_file

from data.shards import write_shards
from stages.guard import BadStep, Guard
from stages.stage import Stage
from stages.train import main
from yivl import YiVL
from yivl.folder import write_model


def guard(spike: float = 0.0, skip_limit: int = 0) -> Guard:
    return Guard(
        Stage(
            name="t", run="r", model=Path("m"), resolution=56, learning_rate={"vision": 1.0}, mixture=Path("m"),
            global_batch=8, tokens_per_micro_batch=900, epochs=1, clip_norm=1.0, spike=spike, skip_limit=skip_limit,
        )
    )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused(value: float) -> None:
    assert "the loss is" in guard().objection(value)
    assert "the gradient's norm is" in guard().objection(1.0, value)
    assert guard().objection(1.0, 1e30) == ""


def test_a_spike_lies_so_many_deviations_above_the_last_128_steps() -> None:
    numbers = np.random.default_rng(0).normal(5, 0.1, 300)
    judge = guard(spike=6)
    for seen, value in enumerate(numbers):
        if seen >= 64:
            last = numbers[max(0, seen - 128) : seen]
            edge = last.mean() + 6 * last.std()
            assert judge.objection(1.0, edge - 1e-6) == ""
            assert "the gradient's norm is" in judge.objection(1.0, edge + 1e-6)
        else:
            assert judge.objection(1.0, 1e9) == ""
        assert judge.objection(1.0, value) == ""
        judge.took(1.0 + value / 1000, value)
    assert "a spike" in judge.objection(2.0)
    assert guard().objection(1e9, 1e9) == ""  # off unless asked for


def test_a_run_ends_at_one_more_than_the_limit() -> None:
    judge = guard(skip_limit=2)
    judge.left_out("the loss is nan", ["a/1"])
    judge.left_out("the loss is nan", ["a/2"])
    judge.took(1.0, 1.0)
    judge.left_out("the loss is nan", ["a/3"])
    judge.left_out("the loss is nan", ["a/4"])
    with pytest.raises(BadStep, match="the loss is nan on a/5, a/6; the weights are as before; skip_limit 2"):
        judge.left_out("the loss is nan", ["a/5", "a/6"])
    with pytest.raises(BadStep, match=r"the loss is inf on a/1; the weights are as before$"):
        guard().left_out("the loss is inf", ["a/1"])


def test_a_resume_judges_as_if_nothing_had_happened() -> None:
    numbers = np.random.default_rng(1).normal(5, 0.1, 200)
    whole, first = guard(spike=3, skip_limit=5), guard(spike=3, skip_limit=5)
    for value in numbers[:150]:
        whole.took(value, value)
        first.took(value, value)
    whole.left_out("x", [])
    first.left_out("x", [])
    resumed = guard(spike=3, skip_limit=5)
    resumed.load_state(json.loads(json.dumps(first.state())))
    assert resumed.state() == whole.state()
    assert resumed.objection(6.0) == whole.objection(6.0) != ""


def test_a_step_that_is_not_a_number_is_left_out_and_the_run_goes_on(
    fresh_tiny: YiVL, stage_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that gives NaN for one word, which one caption has."""
    samples, key = captions(60, np.random.default_rng(5)), "captions/000000033"
    samples[33]["txt"] = "猫".encode()
    write_shards(tmp_path / "data" / "captions", samples, per_shard=20)
    rare = set(fresh_tiny.tokenizer("猫")["input_ids"]) - set(
        fresh_tiny.tokenizer("a picture of very odd thing")["input_ids"]
    )
    with torch.no_grad():
        fresh_tiny.model.get_input_embeddings().weight[max(rare)] = math.nan
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, tmp_path / "poisoned")
    stage = stage_file(start_from=str(tmp_path / "poisoned"), data=str(tmp_path / "data"))
    (tmp_path / "mixture.yaml").write_text(json.dumps({"catalogue": "sources.yaml", "sources": {"captions": {}}}))

    assert main([str(stage), "skip_limit=1"]) == 0
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) == 1 and "the loss is nan" in skipped[0]["reason"] and key in skipped[0]["keys"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged if not math.isfinite(entry["loss"])] == [skipped[0]["step"]]
    trained = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for name, tensor in trained.items() if not name.startswith("language."))

    assert main([str(stage), f"run={tmp_path / 'strict'}", "seed=2", "save_every=1000", "save_minutes=1e-9"]) == 1
    said = capsys.readouterr().err
    assert "the loss is nan" in said and key in said and "the weights are as before" in said
    *_, newest = sorted(path.name for path in (tmp_path / "strict" / "state").iterdir())
    steps = len((tmp_path / "strict" / "log.jsonl").read_text().splitlines())
    assert steps > 1 and newest == f"step-{steps - 1:09d}"  # saved by the clock alone
