"""What a run tells: files, TensorBoard, Weights & Biases and the terminal say the same, also after a resume."""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_case import record, stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.loader import Broken
from stages.record import Answer, Silent, scalars
from stages.recorder import Recorder
from stages.run_folder import RunFolder
from yivl.settings import SettingsError, plain

BROKEN = Broken(position=7, source="chats", shard="chats/00000.tar", key="k\n猫", reason="not a readable image")
FIGURES = {
    "loss": 1 + 4 * math.exp(-3 / 50), "grad_norm": 3 + math.sin(3), "padding": 0.011, "idle": 0.043, "tflops": 410.0,
    "mfu": 0.415, "tokens": 5000, "samples_per_second": 8.0, "tokens_per_second": 2500.0, "images_per_second": 6.0,
    "rate/vision": 2e-5, "rate/projector": 2e-5, "rate/language": 1e-5, "loss/captions": 2.5, "loss/chats": 1.5,
    "seconds/data": 0.125, "seconds/copy": 0.0625, "seconds/forward": 0.5, "seconds/backward": 1.0,
    "seconds/optimizer": 0.25, "seconds/rest": 0.0625, "seconds/step": 2.0,
}  # fmt: skip
"""Of `record(3)`."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run" / "answers").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def answer(text: str, picture: str | None = None) -> Answer:
    return Answer(source="chats", key="k1", question="多少？", answer=text, truth="two", picture=picture)


def tell(folder: RunFolder, start: int, steps: int, **settings: Any) -> None:
    """Trains `steps` steps after `start`; looks at held-out samples at the last."""
    last = start + steps
    with Recorder(folder, stage(folder.path, **settings), start, 9) as recorder:
        for step in range(start + 1, last + 1):
            recorder.record(record(step))
        recorder.held_out(last, {"chats": 1.75, "new": 3.5}, {"chats": 40, "new": 2})
        recorder.answers(last, [answer(f"{last} cats", "answers/1.png"), answer("none")])


def test_figures_are_those_of_the_record() -> None:
    assert scalars(asdict(record(3))) == pytest.approx(FIGURES)


def test_an_unknown_share_of_the_peak_is_no_figure() -> None:
    assert scalars(asdict(record(3, mfu=None))).keys() == FIGURES.keys() - {"mfu"}


def test_phases_of_different_processes_may_exceed_the_step() -> None:
    assert scalars(asdict(record(3, forward_seconds=1.5)))["seconds/rest"] == 0


def test_a_line_of_an_older_version_gives_the_figures_it_has() -> None:
    new = {"padding", "idle", "source_losses", "copy_seconds", "forward_seconds", "backward_seconds",
           "optimizer_seconds", "tflops", "mfu"}  # fmt: skip
    found = scalars({name: value for name, value in asdict(record(3)).items() if name not in new})
    same = ("loss", "grad_norm", "samples_per_second", "rate/language", "seconds/data", "seconds/step")
    assert {name: found[name] for name in same} == pytest.approx({name: FIGURES[name] for name in same})
    assert found["seconds/rest"] == 2.0 - 0.125 and not {"padding", "mfu", "seconds/forward"} & found.keys()


def test_files_hold_what_was_told(folder: RunFolder) -> None:
    answered = [answer("a\nb"), answer("", "answers/1.png")]
    Image.new("RGB", (9, 9)).save(folder.path / "answers" / "1.png")
    with Recorder(folder, stage(folder.path), 4, 9) as recorder:
        recorder.record(record(5))
        recorder.quarantine(5, [BROKEN, BROKEN])
        recorder.quarantine(6, [])
        recorder.skipped(6, "the loss is not a number", ["chats/k1"])
        recorder.record(record(6, loss=math.nan))
        recorder.held_out(6, {"chats": 1.75}, {"chats": 40})
        recorder.answers(6, answered)
    first, second = lines(folder.log)
    assert first == asdict(record(5)) and math.isnan(second["loss"])
    assert lines(folder.quarantine) == [{"step": 5, **asdict(BROKEN)}] * 2
    assert lines(folder.skipped) == [{"step": 6, "reason": "the loss is not a number", "keys": ["chats/k1"]}]
    assert lines(folder.held_out) == [{"step": 6, "losses": {"chats": 1.75}, "tokens": {"chats": 40}}]
    assert lines(folder.answers) == [{"step": 6, **asdict(one)} for one in answered]
    (start,) = lines(folder.path / "starts.jsonl")
    assert start["step"] == 4 and start["time"].endswith("+00:00")


def test_a_line_is_there_at_once(folder: RunFolder) -> None:
    with Recorder(folder, stage(folder.path), 0, 9) as recorder:
        recorder.record(record(1))
        assert len(lines(folder.log)) == 1  # as a process that is killed now leaves it


def test_silence_writes_nothing(tmp_path: Path) -> None:
    with Silent() as recorder:
        recorder.record(record(1))
        recorder.quarantine(1, [BROKEN])
        recorder.skipped(1, "reason", ["k"])
        recorder.held_out(1, {"chats": 1.0}, {"chats": 1})
        recorder.answers(1, [answer("yes")])
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_figures_answers_and_each_picture_once(folder: RunFolder) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (28, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder.path / "answers" / "1.png")
    with Recorder(folder, stage(folder.path), 0, 9) as recorder:
        recorder.record(record(3))
        recorder.skipped(4, "the loss is not a number", ["chats/k1", "chats/k2"])
        for step in (5, 6):
            recorder.held_out(step, {"chats": 1.75}, {"chats": 40})
            recorder.answers(step, [answer(f"{step} cats", "answers/1.png")])
    board = EventAccumulator(str(folder.tensorboard)).Reload()
    found = {name: [(one.step, one.value) for one in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert found.pop("held_out/chats") == [(5, 1.75), (6, 1.75)]
    assert {name: value for name, ((_, value),) in found.items()} == pytest.approx(FIGURES)
    assert {step for ((step, _),) in found.values()} == {3}
    (image,) = board.Images("answers/chats/k1")
    assert (image.step, image.width, image.height) == (5, 56, 28)
    told = [one.tensor_proto.string_val[0].decode() for one in board.Tensors("answers/chats/k1/text_summary")]
    assert len(told) == 2 and "多少？" in told[0] and "5 cats" in told[0] and "two" in told[0] and "6 cats" in told[1]
    (said,) = board.Tensors("skipped/text_summary")
    assert said.step == 4 and b"the loss is not a number: chats/k1, chats/k2" in said.tensor_proto.string_val[0]


def test_tensorboard_drops_what_a_resume_does_again(folder: RunFolder) -> None:
    Image.new("RGB", (9, 9)).save(folder.path / "answers" / "1.png")
    tell(folder, 0, 5)
    tell(folder, 3, 3)
    board = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [one.step for one in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(folder.path / "starts.jsonl")] == [0, 3]


def test_a_log_file_gets_lines_of_figures_and_of_what_happens(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recorder(folder, stage(folder.path), 0, 9) as recorder:
        recorder.record(record(1, loss=2.34567))
        recorder.quarantine(1, [BROKEN, BROKEN])
        recorder.record(record(2))  # too soon for another line
        recorder.skipped(3, "the loss is nan", ["chats/k1", "new/k2"])
        recorder.held_out(3, {"chats": 1.75, "new": 3.5}, {"chats": 40, "new": 2})
        recorder.answers(3, [answer("two\ncats")])
        recorder.benchmark(3, "mmmu", {"accuracy": 0.25})
        recorder.record(record(9, mfu=None))
    first, *told, last = capsys.readouterr().err.splitlines()
    for text in ("stage3, step 1 of 9: ", "loss 2.3457", "rate 2.00e-05", "8.0 samples/s", "6.0 images/s",
                 "2,500 tokens/s", "data 6%", "copy 3%", "forward 25%", "backward 50%", "optimizer 12%", "MFU 41.5%",
                 "padding 1.1%", "loss of captions 2.5000, chats 1.5000"):  # fmt: skip
        assert text in first
    assert told == [
        "step 1: 2 unusable samples were replaced; the first is chats/k 猫: not a readable image",
        "step 3 was left out: the loss is nan; chats/k1, new/k2",
        "after step 3, loss of held-out samples: chats 1.7500, new 3.5000",
        "  chats/k1: 多少？ -> two cats (right: two)",
        "after step 3, mmmu: accuracy 0.2500",
    ]
    assert "step 9 of 9" in last and "MFU" not in last


def test_a_terminal_gets_a_bar_as_well(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with Recorder(folder, stage(folder.path), 0, 9) as recorder:
            for step in (1, 2):
                recorder.record(record(step))
        said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.count("step 1 of 9") == 1 and "step 2 of 9" not in said
    assert "2/9" in said


def test_weights_and_biases_gets_the_same_and_a_resume_goes_on_there(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    Image.new("RGB", (9, 9)).save(folder.path / "answers" / "1.png")
    tell(folder, 0, 3, wandb="project")
    tell(folder, 3, 1, wandb="project")
    first, second = map(whole_log, sorted(folder.path.glob("wandb/offline-run-*/*.wandb")))
    runs = [one.run for records in (first, second) for one in records if one.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(folder.path / "wandb.txt").read_text()}
    assert {(run.project, run.display_name) for run in runs} == {("project", "stage3")}
    config = {one.key: json.loads(one.value_json) for one in runs[0].config.update}
    assert {name: config[name] for name in config if name != "_wandb"} == plain(stage(folder.path, wandb="project"))
    steps = {one["_step"]: one for one in map(history, [*first, *second]) if one}
    assert sorted(steps) == [1, 2, 3, 4]
    assert {name: steps[3][name] for name in FIGURES} == pytest.approx(FIGURES)
    assert [steps[step].get("held_out/new") for step in (2, 3, 4)] == [None, 3.5, 3.5]
    assert steps[3]["answers/nrows"] == 2


def whole_log(file: Path) -> list[Any]:
    """All records; W&B's own process may write the last ones a little after the run has finished."""
    deadline = time.monotonic() + 20
    while True:
        records = list(wandb_records(file))
        if (records and records[-1].WhichOneof("record_type") == "exit") or time.monotonic() > deadline:
            return records
        time.sleep(0.05)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of W&B's log: after 7 bytes LevelDB's format, blocks of 32 KiB with parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record as Logged  # noqa: PLC0415 (optional)

    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Logged.FromString(parts)
            parts = b""


def history(logged: Any) -> dict[str, Any]:
    items = logged.history.item if logged.WhichOneof("record_type") == "history" else ()
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_a_missing_package_is_told_of(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what import finds when a package is not there
    with pytest.raises(SettingsError, match="pip install wandb"):
        Recorder(folder, stage(folder.path, wandb="project"), 0, 9)
    assert not folder.tensorboard.exists()
