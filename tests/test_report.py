"""The page of a run: what it says is what the logs say, of runs of any length, finished or cut off anywhere."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from page_case import Page, assert_loads_nothing
from PIL import Image
from run_case import record, stage

from data.loader import Broken
from data.mixture import Chosen, Manifest
from stages.record import Answer
from stages.recorder import Recorder
from stages.report.__main__ import main
from stages.report.chart import MOST_POINTS
from stages.run_folder import RunFolder
from stages.stage import Stage
from stages.train import train
from yivl.settings import plain, read

NEW = ("padding", "idle", "source_losses", "copy_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds",
       "tflops", "mfu")  # fmt: skip
"""Fields that lines of the first version do not have."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as `RunFolder.open` leaves it."""
    folder = tmp_path / "run"
    (folder / "answers").mkdir(parents=True)
    (folder / "stage.yaml").write_text(yaml.safe_dump(plain(stage(folder)), sort_keys=False))
    sources = [
        Chosen(name=name, format="caption", available=available, cap=cap, taken=taken, shards=())
        for name, available, cap, taken in (("captions", 12345, None, 12345), ("chats", 6789, 500, 500))
    ]
    Manifest(seed=0, sources=tuple(sources)).save(folder / "manifest.json")
    return folder


def write_log(run: Path, steps: int, fields: Callable[[int], Mapping[str, Any]] = lambda step: {}) -> None:
    lines = [json.dumps(asdict(record(step, **fields(step)))) for step in range(1, steps + 1)]
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def page(run: Path) -> Page:
    assert main([str(run)]) == 0
    return Page((run / "report.html").read_text(encoding="utf-8"))


class Shape:
    """A curve or layer of a chart: its points as data."""

    def __init__(self, attrs: str, log: bool) -> None:
        (points,) = re.findall(r'points="([^"]*)"', attrs)
        (self.kind,) = re.findall(r'class="([^"]*)"', attrs)
        pairs = [tuple(map(float, one.split(","))) for one in points.split()]
        self.points = [(x, 10**y if log else y) for x, y in pairs]
        self.values = dict(self.points)


def shapes(page: Page, title: str) -> list[Shape]:
    """Those of the figure with this title."""
    (figure,) = (one for one in page.source.split("<figure>")[1:] if one.startswith(f"<figcaption>{title}<"))
    return [Shape(attrs, "data-log" in figure) for attrs in re.findall(r"<(?:polyline|polygon) ([^>]*)/>", figure)]


def sections(page: Page) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.source)


def test_page_of_a_real_run(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    file = stage_file(held_out="held.yaml", held_out_every=4, held_out_samples=8, answers=8)
    held = {"catalogue": "sources.yaml", "cap": 8, "sources": {"chats": {}}}
    (tmp_path / "held.yaml").write_text(yaml.safe_dump(held))
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({"catalogue": "sources.yaml", "sources": {"captions": {}}}))
    train(read(Stage, file))
    shown = page(tmp_path / "run")
    assert_loads_nothing(shown)
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    looks = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert len(steps) == 6 and [look["step"] for look in looks] == [0, 4, 6]
    assert shapes(shown, "Loss")[0].values == pytest.approx({line["step"]: line["loss"] for line in steps}, rel=1e-4)
    found = shapes(shown, "chats")
    assert found[-1].values == pytest.approx({one["step"]: one["losses"]["chats"] for one in looks}, rel=1e-4)
    for text in ("test", "Finished", "of 6 steps", "captions", "tokens_per_micro_batch", "1024"):
        assert text in shown.text
    said = [json.loads(line)["answer"] for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert said and all(one in shown.text for one in said) and shown.all("img")


def full(run: Path, text: str = "plain") -> None:
    """A run of which there is everything to tell, each text with `text` in it."""
    folder = RunFolder(run)
    Image.linear_gradient("L").resize((900, 300)).save(run / "answers" / "1.png")
    for start, steps in ((0, 12), (8, 4), (10, 10)):
        with Recorder(folder, stage(run, name=f"stage {text}"), start, 20) as recorder:
            folder.log.write_text("".join(folder.log.read_text().splitlines(True)[:start]) if start else "")
            for step in range(start + 1, start + steps + 1):
                recorder.record(record(step, source_losses={"captions": 1.5, f"{text} source": 2.5}))
    with Recorder(folder, stage(run), 20, 20) as recorder:
        recorder.skipped(7, f"{text} reason", [f"chats/{text}{number}" for number in range(10)])
        for number in range(3):
            recorder.quarantine(4, [Broken(position=number, source="chats", shard=f"{text}.tar", key=f"{text} key",
                                           reason=f"{text}: cut at byte {number}")])  # fmt: skip
        recorder.held_out(10, {"captions": 1.75, f"held {text}": 2.75}, {"captions": 9, f"held {text}": 9})
        recorder.answers(10, [Answer(source=f"s {text}", key=f"k {text}", question=f"q {text}", answer=f"a {text}",
                                     truth=f"t {text}", picture="answers/1.png")])  # fmt: skip
    (run / "stage.yaml").write_text(yaml.safe_dump(plain(stage(run, name=f"stage {text}"))))


def test_everything_there_is_to_tell_has_its_section(run: Path) -> None:
    full(run)
    shown = page(run)
    assert_loads_nothing(shown)
    assert sections(shown) == [
        "Samples", "Training", "Loss by source", "Speed", "Answers", "Steps left out", "Broken samples", "Starts",
    ]  # fmt: skip
    for text in ("12,345", "6,789", "500", "plain reason", "chats/plain7 and 2 more", "plain key in plain.tar",
                 "Not finished"):  # fmt: skip
        assert text in shown.text
    assert re.search(r"chats</th><td>3</td><td>plain: cut at byte 0</td>", shown.source)
    marks = [
        (attrs["class"], attrs["x1"]) for attrs in shown.all("line") if attrs.get("class") in ("restart", "skipped")
    ]
    assert [kind for kind, _ in marks] == ["restart"] * 3 + ["skipped"] + ["restart"] * 3 + ["skipped"]
    places = [float(x or "") for _, x in marks[:4]]
    assert places[0] < places[1] < places[2] and places[3] < places[0]  # after 8, 10 and 20; step 7


def test_text_stays_text(run: Path) -> None:
    full(run, '<em>&"')
    shown = page(run)
    assert "<em>" not in shown.source
    for text in ("stage", "a", "t", "q", "k", "s"):
        assert f'{text} <em>&"' in shown.text
    for text in ('<em>&" source', 'held <em>&"', '<em>&" reason', '<em>&": cut', '<em>&" key'):
        assert text in shown.text


def test_what_is_not_there_is_left_out(run: Path) -> None:
    write_log(run, 3)
    for name in ("stage.yaml", "manifest.json"):
        (run / name).unlink()
    shown = page(run)
    assert sections(shown) == ["Training", "Loss by source", "Speed"]
    assert "<h1>run</h1>" in shown.source and not shown.all("details") and not shown.all("img")


def test_lines_of_an_older_version_are_shown(run: Path) -> None:
    old = [{name: value for name, value in asdict(record(step)).items() if name not in NEW} for step in (1, 2)]
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*old, asdict(record(3))]))
    shown = page(run)
    assert list(shapes(shown, "Loss")[0].values) == [1, 2, 3]
    assert list(shapes(shown, "chats")[0].values) == [3]
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in old))
    titles = re.findall("<figcaption>(.*?)<", page(run).source)
    assert titles == ["Loss", "Gradient norm", "Learning rate", "Samples", "Tokens", "Time of a step"]


@pytest.mark.parametrize("cut", ["", "{", '{"step": 4, "lo', '{"step": 4, "reason": "\ud83d'])
def test_a_line_that_is_cut_off_does_not_count(run: Path, cut: str) -> None:
    write_log(run, 3)
    for name in ("log", "held_out", "answers", "skipped", "quarantine", "starts"):
        with (run / f"{name}.jsonl").open("ab") as file:
            file.write(cut.encode("utf-8", errors="surrogatepass")[:-1] if "\ud83d" in cut else cut.encode())
    shown = page(run)
    assert list(shapes(shown, "Loss")[0].values) == [1, 2, 3]
    assert sections(shown) == ["Samples", "Training", "Loss by source", "Speed"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no log.jsonl"),
        ("", "has no step yet"),
        ('{"st', "has no step yet"),
        ("\n{}\n", "line 1 is not JSON"),
    ],
)
def test_a_run_without_a_step_is_one_clear_line(
    run: Path, content: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (run / "log.jsonl").write_text(content)
    assert main([str(run)]) == 1
    told = capsys.readouterr()
    assert said in told.err and str(run) in told.err and told.err.count("\n") == 1 and told.out == ""
    assert not (run / "report.html").exists()


def test_a_long_run_is_a_small_page_that_keeps_extremes(run: Path) -> None:
    sources = [f"source{number}" for number in range(14)]
    rng = np.random.default_rng(0)
    losses = 2 + rng.random(6001) / 2
    losses[[777, 3131]] = 3.25, 0.5
    write_log(run, 6000, lambda step: {
        "loss": losses[step], "source_losses": {name: losses[step] for name in sources},
        "data_seconds": 0.5 if step % 2 else 0.0, "seconds": 2.0,
    })  # fmt: skip
    shown = page(run)
    assert len(shown.source) < 600_000
    for title in ("Loss", "source13"):
        raw, mean = shapes(shown, title)
        assert len(raw.points) <= MOST_POINTS and len(mean.points) <= MOST_POINTS
        assert raw.values[777] == 3.25 and raw.values[3131] == 0.5
        assert raw.points[0][0] == 1 and raw.points[-1][0] == 6000
        assert all(value == pytest.approx(losses[int(step)], rel=1e-5) for step, value in raw.points)
        assert all(2.2 < value < 2.3 for _, value in mean.points)
    assert all(len(one.points) <= MOST_POINTS for one in shapes(shown, "Time of a step"))
    assert shapes(shown, "Time of a step")[0].points[5][1] == pytest.approx(0.25, rel=0.02)


def test_curves_show_the_figures_of_each_step(run: Path) -> None:
    write_log(run, 30)
    shown = page(run)
    every = {step: record(step) for step in range(1, 31)}
    raw, mean = shapes(shown, "Gradient norm")
    assert raw.values == pytest.approx({step: one.grad_norm for step, one in every.items()}, rel=1e-4)
    around = [every[step].grad_norm for step in (9, 10, 11)]
    assert mean.values[10] == pytest.approx(sum(around) / 3, rel=1e-4)
    assert mean.values[1] == pytest.approx((every[1].grad_norm + every[2].grad_norm) / 2, rel=1e-4)
    for title, value in {"Samples": 8, "Tokens": 2500, "TFLOP/s": 410, "MFU": 41.5}.items():
        assert set(shapes(shown, title)[0].values.values()) == {value}
    padding, idle = shapes(shown, "Waste")
    assert padding.values[7] == pytest.approx(1.1) and idle.values[7] == pytest.approx(4.3)
    equal, other = shapes(shown, "Learning rate")
    assert equal.values[7] == 2e-5 and other.values[7] == 1e-5 and "vision, projector" in shown.text
    (tiles,) = re.findall('<dl class="tiles">(.*?)</dl>', shown.source)
    found = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", tiles))
    loss = (every[29].loss + every[30].loss) / 2
    assert found == {"of 1,605 steps": "30", "loss": f"{loss:.4g}", "time in steps": "1 min 00 s", "samples/s": "8.0",
                     "tokens/s": "2,500", "waiting for data": "6.2%", "MFU": "41.5%"}  # fmt: skip


def test_layers_add_up_to_the_step(run: Path) -> None:
    write_log(run, 50, lambda step: {"forward_seconds": step / 100, "seconds": 2.0 + step / 100})
    layers = shapes(page(run), "Time of a step")
    assert len(layers) == 6
    floor = dict.fromkeys(range(1, 51), 0.0)
    for layer, height in zip(layers, (0.125, 0.0625, None, 1.0, 0.25, 0.5625), strict=True):
        top, bottom = dict(layer.points[:50]), dict(layer.points[50:])
        assert bottom == pytest.approx(floor, abs=1e-4)
        grown = {step: floor[step] + (step / 100 if height is None else height) for step in floor}
        assert top == pytest.approx(grown, abs=1e-4)
        floor = grown
    assert floor == pytest.approx({step: 2.0 + step / 100 for step in floor})


def test_steps_that_are_not_numbers_leave_no_trace_in_curves(run: Path) -> None:
    write_log(run, 9, lambda step: {"loss": math.nan, "grad_norm": math.inf} if step in (1, 5, 9) else {})
    shown = page(run)
    assert list(shapes(shown, "Loss")[0].values) == [2, 3, 4, 6, 7, 8]
    assert list(shapes(shown, "Gradient norm")[0].values) == [2, 3, 4, 6, 7, 8]
    assert not re.search(r"\b(nan|inf)\b", shown.source, re.IGNORECASE)
    write_log(run, 1, lambda step: {"loss": math.nan})
    assert "No steps recorded." in page(run).text


def answers(run: Path, looks: Sequence[tuple[int, str]], picture: str | None = None) -> None:
    lines = [
        {
            "step": step,
            **asdict(Answer(source="chats", key="k", question="Q?", answer=text, truth="T", picture=picture)),
        }
        for step, text in looks
    ]
    (run / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_answers_stand_in_order_with_the_first_and_the_last(run: Path) -> None:
    write_log(run, 3)
    answers(run, [(0, "killed"), *((100 * look, f"answer {look}") for look in range(40))])
    shown = page(run)
    told = re.findall("<dt>step (.*?)</dt><dd>answer (.*?)</dd>", shown.source)
    assert told[0] == ("0", "0") and told[-1] == ("3,900", "39") and len(told) == 8
    assert [int(look) for _, look in told] == sorted(int(look) for _, look in told)
    assert all(step == f"{100 * int(look):,}" for step, look in told)
    assert "killed" not in shown.text  # the step was looked at again


def test_pictures_of_answers_lie_in_the_page(run: Path) -> None:
    write_log(run, 3)
    wide = Image.linear_gradient("L").resize((900, 300)).convert("RGB")
    wide.save(run / "answers" / "7.png")
    answers(run, [(1, "a")], "answers/7.png")
    (image,) = page(run).all("img")
    with Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(",")[2]))) as found:
        assert found.format == "JPEG" and found.size == (448, 149)
        assert np.abs(np.asarray(found).astype(int) - np.asarray(wide.resize(found.size))).mean() < 2
    for content in (None, b"no picture"):
        (run / "answers" / "7.png").unlink()
        if content:
            (run / "answers" / "7.png").write_bytes(content)
        shown = page(run)
        assert not shown.all("img") and "Q?" in shown.text
        (run / "answers" / "7.png").touch()


def test_the_page_is_written_where_it_is_wanted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(run, 2)
    assert main([str(run), "--out", str(tmp_path / "other.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'other.html'}\n"
    assert Page((tmp_path / "other.html").read_text()).all("svg") and not (run / "report.html").exists()


def test_more_than_can_be_listed_is_counted(run: Path) -> None:
    write_log(run, 99)
    lines = [{"step": step, "reason": "spike", "keys": []} for step in range(1, 61)]
    (run / "skipped.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shown = page(run)
    assert "60 steps; the last 50." in shown.text
    assert re.findall(r'row">(\d+)</th><td>spike', shown.source) == [str(step) for step in range(11, 61)]
