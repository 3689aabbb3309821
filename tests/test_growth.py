"""Text stages: a language model alone, batches counted in tokens, and their growth."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from processes import trains
from rows_case import mixture_of, shards_of, texts
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from data.mixture import Mixture
from stages.growth import Growth, Plateau
from stages.planning.plan import plan
from stages.report.__main__ import write_report
from stages.report.log import read_run
from stages.stage import Stage
from stages.train import train
from yivl import YiVL
from yivl.assembly import ModelSource
from yivl.folder import read_model
from yivl.settings import SettingsError, read
from yivl.tokenizer import load_tokenizer, save_tokenizer

ROOT = Path(__file__).resolve().parent.parent
ROW = 64
SHAPES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


def grown_at(losses: list[float], **settings: Any) -> list[int]:
    """After which losses (counted from 1) the rule lets the batch grow."""
    plateau = Plateau(Growth(**{"window": 10, "tolerance": 0.01, "ceiling": 10**9} | settings))
    return [number for number, loss in enumerate(losses, 1) if plateau.took(loss)]


def test_a_falling_loss_grows_nothing_and_a_flat_one_does() -> None:
    falling = [4 * 0.99**step for step in range(200)]
    assert grown_at(falling) == []
    # flat from step 50 on: the window that ends at 60 is the first that is no lower than the one before it
    flat = [max(4 - 0.05 * step, 1.5) for step in range(60)] + [1.5] * 40
    assert grown_at(flat) == [70, 80, 90, 100]
    assert grown_at(flat, patience=2) == [80, 100]
    assert grown_at(flat, window=25) == [100]


def test_the_tolerance_is_what_separates_falling_from_flat() -> None:
    slow = [4.0 - 0.002 * (step // 10) for step in range(100)]  # each window 0.05 % below the one before
    assert grown_at(slow, tolerance=0.0) == []
    assert grown_at(slow, tolerance=0.001) == [20, 30, 40, 50, 60, 70, 80, 90, 100]


def test_a_rise_is_flat_until_it_is_below_what_was_reached_before() -> None:
    levels = [2.0, 3.0, 2.5, 2.1, 1.9, 1.8]
    assert grown_at([level for level in levels for _ in range(10)]) == [20, 30, 40]
    assert grown_at([level for level in levels for _ in range(10)], patience=2) == [30]


def test_noise_that_windows_average_out_is_not_taken_for_a_plateau() -> None:
    noisy = [4 * 0.995**step + 0.2 * (-1) ** step for step in range(100)]
    assert grown_at(noisy) == [] and grown_at(noisy, window=1, tolerance=0.0) != []


def test_the_rule_goes_on_from_its_state() -> None:
    losses = [2 + math.sin(step / 7) + 10 / (step + 1) for step in range(300)]
    rule = Growth(window=7, tolerance=0.01, patience=2, ceiling=10**9)
    whole = [bool(Plateau.took(one, loss)) for one in [Plateau(rule)] for loss in losses]
    for cut in (0, 1, 100, 101, 299):
        first, second = Plateau(rule), Plateau(rule)
        parts = [bool(first.took(loss)) for loss in losses[:cut]]
        second.load_state(json.loads(json.dumps(first.state())))
        assert parts + [bool(second.took(loss)) for loss in losses[cut:]] == whole
    assert any(whole)


def test_a_batch_grows_by_whole_rows_up_to_the_ceiling() -> None:
    plateau = Plateau(Growth(window=1, tolerance=0, factor=1.5, ceiling=4096 * 10))
    batches = [4]
    while (batch := plateau.grown(batches[-1], 4096)) > batches[-1]:
        batches.append(batch)
    assert batches == [4, 6, 9, 10]
    assert Plateau(Growth(window=1, tolerance=0, factor=1.1, ceiling=99 * 64)).grown(1, 64) == 2


@pytest.fixture
def text_stage(tmp_path: Path) -> Any:
    """Writes a text stage over two sources of rows; keywords replace its settings."""
    shards_of(tmp_path, "web", texts(300, seed=1), ROW)
    shards_of(tmp_path, "code", texts(100, seed=2), ROW)
    mixture_of(tmp_path, {"web": {"weight": 3.0}, "code": {"weight": 1.0}}, ROW, tokens=ROW * 160)
    tokenizer = tmp_path / "tokenizer"
    save_tokenizer(load_tokenizer(TINY), tokenizer)
    config = SHAPES | {"vocab_size": read_model(TINY).config.text_config.vocab_size}
    model = {"name": "small", "language": {"tokenizer": str(tokenizer), "config": config}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))

    def write(**settings: Any) -> Path:
        stage = {
            "name": "text", "run": str(tmp_path / "run"), "model": "model.yaml", "mixture": "mixture.yaml",
            "data": str(tmp_path / "shards"), "learning_rate": {"language": 3e-3}, "batch_tokens": 4 * ROW,
            "max_length": ROW, "tokens_per_micro_batch": 4 * ROW, "epochs": 1, "clip_norm": 1.0, "precision": "fp32",
            "schedule": "constant", "warmup": 0.0, "save_every": 3,
        }  # fmt: skip
        file = tmp_path / "stage.yaml"
        file.write_text(yaml.safe_dump(stage | settings))
        return file

    return write


GROWTH = {"window": 2, "tolerance": 0.9, "patience": 2, "factor": 2.0, "ceiling": 16 * ROW}
"""Nothing falls by nine tenths, so the batch doubles every four steps."""


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_language_model_alone_is_trained_and_written_as_a_llama(text_stage: Any, tmp_path: Path) -> None:
    folder = train(read(Stage, text_stage()))
    found = records(tmp_path / "run")
    assert [(line["samples"], line["tokens"], line["images"]) for line in found] == [(4, 4 * ROW, 0)] * 40
    shares = {name: sum(name in line["source_losses"] for line in found) for name in ("web", "code")}
    assert shares["web"] == 40 and shares["code"] > 30  # three to one, in every few rows
    assert found[-1]["loss"] < found[0]["loss"] - 0.3
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is LlamaForCausalLM
    ids = torch.arange(5, 25)[None]
    ours = read_model(folder)
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    assert len(load_tokenizer(folder)) == len(load_tokenizer(TINY))
    again = train(read(Stage, text_stage(start_from=str(folder), run=str(tmp_path / "second"))))
    assert records(tmp_path / "second")[0]["loss"] < found[0]["loss"] - 0.2
    assert load_file(again / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


def test_the_batch_grows_when_the_loss_does_not_fall(text_stage: Any, tmp_path: Path) -> None:
    train(read(Stage, text_stage(growth=GROWTH)))
    found = records(tmp_path / "run")
    # the first window is always lower than nothing; then two flat ones of two steps each for every doubling
    assert [line["samples"] for line in found] == [4] * 6 + [8] * 4 + [16] * 6
    assert sum(line["samples"] for line in found) == 152  # of 160: the last batch would not be whole
    growth = [json.loads(line) for line in (tmp_path / "run" / "growth.jsonl").read_text().splitlines()]
    assert [(line["step"], line["tokens"]) for line in growth] == [(6, 8 * ROW), (10, 16 * ROW)]


@pytest.mark.parametrize("workers", [0, 2])
def test_growth_takes_every_row_once_and_a_killed_run_ends_the_same(
    text_stage: Any, tmp_path: Path, workers: int
) -> None:
    settings = {"growth": GROWTH, "workers": workers, "save_every": 1}
    train(read(Stage, text_stage(**settings)))
    whole = records(tmp_path / "run")
    file = text_stage(**settings, run=str(tmp_path / "killed"))
    command = [sys.executable, "-m", "stages.train", str(file)]
    for least in (5, 9):  # the second time where it has grown already
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log, deadline = tmp_path / "killed" / "log.jsonl", time.monotonic() + 90
        while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= least):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(read(Stage, file))
    killed = records(tmp_path / "killed")
    assert [(line["step"], line["samples"], line["loss"]) for line in killed] == [
        (line["step"], line["samples"], line["loss"]) for line in whole
    ]
    one, other = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("run", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "run" / "growth.jsonl").read_text() == (tmp_path / "killed" / "growth.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_two_processes_grow_as_one(text_stage: Any, tmp_path: Path, zero: int) -> None:
    train(read(Stage, text_stage(growth=GROWTH)))
    alone = records(tmp_path / "run")
    trains(2, text_stage(growth=GROWTH, zero=zero, run=str(tmp_path / "two")))
    together = records(tmp_path / "two")
    assert [line["samples"] for line in together] == [line["samples"] for line in alone]
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "two" / "model").iterdir()) == sorted(
        path.name for path in (tmp_path / "run" / "model").iterdir()
    )


def test_the_report_draws_the_batch_and_where_it_grew(text_stage: Any, tmp_path: Path) -> None:
    train(read(Stage, text_stage(growth=GROWTH)))
    run = read_run(tmp_path / "run")
    assert run.total_steps == 16 == len(run.steps)
    write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count('class="grown"') == 3 * 2  # on loss, gradient norm and batch
    assert "the loss stopped falling" in page and "Tokens of a step" in page


def test_the_plan_counts_tokens(text_stage: Any) -> None:
    stage = read(Stage, text_stage(growth=GROWTH))
    made = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture))
    assert made.samples == 160 and made.steps == 40 and made.patches == 0
    assert {one.name: one.taken for one in made.sources} == {"web": 120, "code": 40}
    told = str(made)
    assert "text alone" in told and f"{4 * ROW:,} tokens" in told and f"{16 * ROW:,}" in told


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"global_batch": 4}, "either global_batch"),
        ({"batch_tokens": 0}, "either global_batch"),
        ({"batch_tokens": 100}, "multiple of max_length"),
        ({"growth": GROWTH, "schedule": "cosine"}, "schedule: constant"),
        ({"growth": GROWTH | {"ceiling": 1}}, "growth.ceiling"),
        ({"growth": GROWTH | {"factor": 1.0}}, "factor is 1.0"),
        ({"tokens_per_micro_batch": 32}, "at least a row"),
        ({"growth": GROWTH | {"windw": 3}}, "did you mean 'window'"),
    ],
)
def test_a_stage_that_can_not_be_is_refused(text_stage: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        read(Stage, text_stage(**settings))


def test_what_a_language_model_alone_can_not_do_is_said(text_stage: Any) -> None:
    for settings, problem in (
        ({"resolution": 56}, "resolution is of images"),
        ({"benchmarks": {"mmmu": {"data": "nowhere"}}}, "benchmarks is of images"),
        ({"learning_rate": {"vision": 1e-3}}, "names the part vision"),
        ({"max_length": 32, "batch_tokens": 64}, "rows of max_length, 32"),
    ):
        with pytest.raises((SettingsError, ValueError), match=problem):
            train(read(Stage, text_stage(**settings)))


def test_a_language_model_alone_chats_and_refuses_pictures(text_stage: Any) -> None:
    model = YiVL.load(train(read(Stage, text_stage())), device="cpu")
    assert isinstance(model.ask(None, "What is a bit?", max_new_tokens=4), str)
    with pytest.raises(ValueError, match="no vision part"):
        model.ask(np.zeros((8, 8, 3), dtype=np.uint8), "What is it?", max_new_tokens=4)


def test_a_llama_of_an_old_transformers_version_is_read(text_stage: Any, tmp_path: Path) -> None:
    folder = train(read(Stage, text_stage()))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors")
    old = read_model(folder).state_dict()
    assert all(torch.equal(old[f"language.{name}"], tensor) for name, tensor in weights.items())
