"""Stages: what they train, how they survive, what they refuse."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, captions
from safetensors.torch import load_file

from data.loader import Loader, Samples
from data.mixture import Chosen, Manifest, Shard
from data.order import Order
from data.shards import write_shards
from data.store import Store
from stages.checkpoint import Checkpoints
from stages.schedule import rate_factor
from stages.stage import Stage
from stages.train import main, starting_model, train
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.folder import read_model, write_model
from yivl.ranks import Ranks
from yivl.settings import SettingsError, read

ROOT = Path(__file__).resolve().parent.parent
PREFIX = {"vision": "vision.", "projector": "projector.", "language": "language."}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def losses(run: Path) -> list[tuple[int, float, float]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"], r["grad_norm"]) for r in map(json.loads, lines)]


@pytest.mark.parametrize("trained", [("vision", "projector"), ("language",), ("vision", "projector", "language")])
def test_exactly_the_named_parts_change(stage_file: Callable[..., Path], trained: tuple[str, ...]) -> None:
    stage = read(Stage, stage_file(learning_rate=dict.fromkeys(trained, 1e-3)))
    before, after = read_model(TINY).state_dict(), weights(train(stage))
    assert before.keys() == after.keys()
    unused = ("vision.clip.transformer.resblocks.3.", "vision.clip.ln_post.")  # no feature depends on them
    for name, tensor in after.items():
        should = name.startswith(tuple(PREFIX[part] for part in trained)) and not name.startswith(unused)
        if name.endswith("in_proj_bias"):
            continue  # a key's bias shifts all scores alike: its gradient is zero but for rounding
        assert torch.equal(tensor, before[name]) != should, name


def test_frozen_parts_stay_bit_identical_in_bf16(stage_file: Callable[..., Path]) -> None:
    after = weights(train(read(Stage, stage_file(precision="bf16"))))
    before = read_model(TINY, torch.bfloat16).state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith(("vision.", "projector.")) for name in changed)


def command(stage: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "stages.train", str(stage), *overrides]


def start(stage: Path, *overrides: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(stage, *overrides), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        log = run / "log.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in {run}")


def test_a_killed_run_ends_as_if_it_had_never_stopped(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage = stage_file(epochs=2, learning_rate=dict.fromkeys(PREFIX, 1e-3), save_every=3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(stage, f"run={whole}")
    for step in (1, 11):  # before the first checkpoint; the log ahead of the checkpoint
        process = start(stage, f"run={killed}")
        wait_for_step(killed, step)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(stage, f"run={killed}", "workers=1").wait() == 0
    assert undisturbed.wait() == 0
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 18
    a, b = weights(whole / "model"), weights(killed / "model")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_sigterm_saves_and_the_run_continues(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage, run = stage_file(epochs=4, save_every=1000), tmp_path / "run"
    process = start(stage)
    wait_for_step(run, 3)
    process.terminate()
    _, message = process.communicate()
    assert process.returncode == 143
    assert b"the same command continues" in message
    done = len(losses(run))
    saved = Checkpoints(run / "state", Ranks()).newest()
    assert saved is not None and saved.step == done < 36
    assert main([str(stage)]) == 0
    assert [step for step, _, _ in losses(run)] == list(range(1, 37))


def test_a_signal_to_the_whole_process_group_saves_too(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    stage, run = stage_file(epochs=8, save_every=1000, workers=2), tmp_path / "run"
    process = subprocess.Popen(
        command(stage),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for_step(run, 3)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    saved = Checkpoints(run / "state", Ranks()).newest()
    assert saved is not None and saved.step == len(losses(run))


def test_a_model_that_cannot_be_written_loses_nothing(
    stage_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = stage_file(save_every=1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))  # enough for a checkpoint, not for the model
    try:
        assert main([str(stage)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "The last checkpoint survives" in capsys.readouterr().err
    saved = Checkpoints(tmp_path / "run" / "state", Ranks()).newest()
    assert saved is not None and saved.step == 9
    assert main([str(stage)]) == 0
    assert len(losses(tmp_path / "run")) == 9
    assert not (tmp_path / "run" / "state").exists()


def test_two_processes_cannot_train_in_one_folder(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    file = stage_file()
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="another process trains in"):
            train(read(Stage, file))


def test_a_resume_from_other_weights_is_refused(
    stage_file: Callable[..., Path], fresh_tiny: YiVL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, start)
    file = stage_file(start_from=str(start))
    assert main([str(file)]) == 0
    with torch.no_grad():
        fresh_tiny.model.projector[0].weight += 1
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, start)
    assert main([str(file)]) == 1
    assert "started from other weights" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(stage_file: Callable[..., Path]) -> None:
    stage = read(Stage, stage_file())
    model = train(stage)
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert train(stage) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == written


def test_another_stage_or_other_samples_are_refused(
    stage_file: Callable[..., Path], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stage_file()
    train(read(Stage, file))
    with pytest.raises(SettingsError, match=r"other settings: clip_norm was 1\.0 and is 2\.0\. Use another 'run'"):
        train(read(Stage, file, ["clip_norm=2.0"]))
    assert main([str(file), "save_every=7"]) == 0  # changes nothing of what is computed
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(mixture.read_text().replace("cap: 50", "cap: 40"))
    assert main([str(file)]) == 1
    assert "a run over other samples: the mixture or its shards changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "runs/nowhere/model"}, "start_from: no model folder runs/nowhere/model"),
        ({"model": "wide.yaml"}, "its language part is not that of"),
        ({"data": "/nowhere"}, "source 'captions' has no shards"),
        ({"resolution": 60}, "60 pixels are not a multiple of the patch size 14"),
        ({"global_batch": 1000}, "fewer than one global batch of 1000"),
    ],
)
def test_what_cannot_run_says_why(
    stage_file: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = stage_file(**changes)
    wide = (tmp_path / "model.yaml").read_text().replace("hidden_size: 64", "hidden_size: 128")
    (tmp_path / "wide.yaml").write_text(wide)
    assert main([str(file)]) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def some_broken(tmp_path: Path) -> Path:
    """Three shards of captions; the images of two samples can't be decoded, the text of a third is missing."""
    samples = captions(60, np.random.default_rng(3))
    samples[7]["jpg"] = samples[7]["jpg"][:100]
    samples[30]["jpg"] = b"not an image"
    del samples[44]["txt"]
    write_shards(tmp_path / "broken" / "captions", samples, per_shard=20)
    return tmp_path / "broken"


def test_broken_samples_are_replaced_alike_for_any_number_of_workers(
    stage_file: Callable[..., Path], some_broken: Path, tmp_path: Path
) -> None:
    mixture = {"catalogue": "sources.yaml", "sources": {"captions": {}}}
    runs = []
    for workers in (0, 2):
        file = stage_file(data=str(some_broken), broken_limit=0.2, workers=workers, run=str(tmp_path / f"w{workers}"))
        (tmp_path / "mixture.yaml").write_text(json.dumps(mixture))
        train(read(Stage, file))
        runs.append(tmp_path / f"w{workers}")
    quarantined = [json.loads(line) for line in (runs[0] / "quarantine.jsonl").read_text().splitlines()]
    assert {"000000007", "000000030", "000000044"} <= {entry["key"] for entry in quarantined}
    reasons = {entry["key"]: entry["reason"] for entry in quarantined}
    assert "not a readable image" in reasons["000000007"] and "no txt member" in reasons["000000044"]
    assert losses(runs[0]) == losses(runs[1])
    assert len(losses(runs[0])) == 6
    assert (runs[0] / "quarantine.jsonl").read_text() == (runs[1] / "quarantine.jsonl").read_text()


def test_a_source_of_another_format_is_named(
    stage_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stage_file()
    catalogue = tmp_path / "sources.yaml"
    catalogue.write_text(catalogue.read_text().replace("format: conversation", "format: caption"))
    assert main([str(file)]) == 1
    assert "20 samples of source 'chats' in a row can't be used" in capsys.readouterr().err
    assert (tmp_path / "run" / "quarantine.jsonl").read_text().count("no txt member") == 20


def test_too_many_broken_samples_stop_the_run(
    stage_file: Callable[..., Path], some_broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stage_file(data=str(some_broken), epochs=3, broken_limit=0.01)
    (tmp_path / "mixture.yaml").write_text(json.dumps({"catalogue": "sources.yaml", "sources": {"captions": {}}}))
    assert main([str(file)]) == 1
    message = capsys.readouterr().err
    assert "more than broken_limit 0.01 allows" in message and "are from 'captions'" in message


def test_the_rate_warms_up_and_falls_along_a_cosine(stage_file: Callable[..., Path]) -> None:
    stage = read(Stage, stage_file(warmup=0.1))
    rates = [rate_factor(stage, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.5) and 0 < rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = read(Stage, stage_file(warmup=0.1, schedule="constant"))
    assert [rate_factor(constant, step, 100) for step in (0, 9, 10, 99)] == [0.1, 1, 1, 1]


def test_a_stage_at_another_resolution_resizes(stage_file: Callable[..., Path]) -> None:
    model = starting_model(read(Stage, stage_file(resolution=112))).model
    assert (model.config.image_side, model.config.resized_from) == (112, [56])


def test_the_table_of_parts_is_shown_before_the_first_step(
    stage_file: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="yivl"):
        train(read(Stage, stage_file()))
    table = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("parts"))
    rows = [line.split() for line in table.splitlines()[2:]]
    sizes = {row[0].rstrip(","): row for row in rows}
    assert sizes["projector"][1:] == ["7,552", "trained", "0.001"]  # 48 * 64 + 64 + 64 * 64 + 64 + 4 * 64
    assert sizes["language"][2:] == ["frozen", "-"]
    total = sum(p.numel() for p in read_model(TINY).parameters())
    assert (
        sum(int(next(cell for cell in row if cell.replace(",", "").isdigit()).replace(",", "")) for row in rows)
        == total
    )


def test_headroom_trains_on_the_first_step_over_and_over(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    ordinary, headroom = tmp_path / "ordinary", tmp_path / "headroom"
    train(read(Stage, stage_file(run=str(ordinary))))
    train(read(Stage, stage_file(run=str(headroom), headroom=True, workers=1)))
    usual, same = (
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (ordinary, headroom)
    )
    assert [entry["step"] for entry in same] == [entry["step"] for entry in usual]
    assert {entry["tokens"] for entry in same} == {usual[0]["tokens"]} != {entry["tokens"] for entry in usual}
    assert same[0]["loss"] == usual[0]["loss"] and same[1]["loss"] != usual[1]["loss"]


def test_the_workers_of_a_loader_end_with_it(shards: Path, tiny: YiVL) -> None:
    others = multiprocessing.active_children()
    store = Store(shards)
    names = [f"captions/{number:05d}.tar" for number in range(3)]
    headers = store.headers("captions", names)
    chosen = Chosen(
        name="captions", format="caption", available=60, cap=None, taken=60,
        shards=tuple(
            Shard(path=name, samples=20, taken=20, digest=header.digest)
            for name, header in zip(names, headers, strict=True)
        ),
    )  # fmt: skip
    encoder = Encoder(tiny.tokenizer, patches=16, image_side=56)
    samples = Samples(Order(Manifest(seed=0, sources=(chosen,)), 0), store, encoder)
    steps = Loader(samples, global_batch=4, tokens_per_micro_batch=500, epochs=1, workers=2).steps()
    next(steps)
    assert len(multiprocessing.active_children()) == len(others) + 2
    steps.close()
    assert multiprocessing.active_children() == others


def test_the_stage_says_how_images_become_pixels(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    firsts = {}
    for pixels in ("exact", "fast", "scaled"):
        train(read(Stage, stage_file(run=str(tmp_path / pixels), pixels=pixels)))
        firsts[pixels] = losses(tmp_path / pixels)[0]
    assert firsts["exact"] == pytest.approx(firsts["fast"], rel=1e-3)
    assert firsts["exact"] != firsts["fast"]
