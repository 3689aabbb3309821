"""The quickstart's page: that it stands alone, says what it was given, and shows whatever text as text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from page_case import Page, assert_loads_nothing
from PIL import Image

from stages.quickstart.report import Example, write_report

KINDS = ("colour", "shape", "count", "side", "label", "choice")
FALLING = [(step, 8.0 * 0.97**step) for step in range(1, 201)]


def jpeg(colour: str = "red") -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (112, 112), colour).save(file, "JPEG")
        return file.getvalue()


def example(**changes: Any) -> Example:
    fields = {"picture": jpeg(), "question": "Which?", "answer": "red", "truth": "red", "language": "en"}
    return Example(**{**fields, "correct": True, **changes})


def summary(stages: int = 3) -> dict[str, Any]:
    names = [f"stage{number}" for number in range(1, stages + 1)]
    accuracy = {
        name: {**{kind: (10 * row + place + 0.5) / 100 for place, kind in enumerate(KINDS)}, "all": row / 10 + 0.091}
        for row, name in enumerate(names, 3)
    }
    return {
        "accuracy": accuracy,
        "chance": {**dict.fromkeys(KINDS, 0.211), "all": 0.197},
        "seconds": {"data": 12.3, "stage1": 84.0, "stage1, examined": 5.0, "total": 101.3},
        "peak_gib": 1.94,
        "answers": [],
        "mmmu": {"Overall": 0.654, "Art and Design": 0.6, "Tech and Engineering": 0.733},
    }


def page(
    tmp_path: Path,
    told: Mapping[str, Any] | None = None,
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    examples: Sequence[Example] = (),
) -> Page:
    path = tmp_path / "report.html"
    write_report(path, told or summary(), {"text": FALLING} if curves is None else curves, examples)
    return Page(path.read_text(encoding="utf-8"))


def test_page_loads_nothing(tmp_path: Path) -> None:
    assert_loads_nothing(page(tmp_path, examples=[example(), example(language="zh")]))


def test_text_stays_text(tmp_path: Path) -> None:
    hostile = '<em>&"</i>'
    shown = page(
        tmp_path, examples=[example(question=hostile, answer=f"a{hostile}", truth=f"t{hostile}", language='"')]
    )
    assert "<em>" not in shown.source
    assert shown.text.count(hostile) == 3
    assert shown.source.count("&lt;em&gt;&amp;&quot;") == 3


def test_names_from_the_summary_stay_text(tmp_path: Path) -> None:
    told = summary()
    told["mmmu"]["<em>"] = told["seconds"]["<em>"] = 0.5
    told["accuracy"]["<em>"] = {"<em>": 0.5, "all": 0.5}
    shown = page(tmp_path, told, {"<em>": FALLING})
    assert "<em>" not in shown.source


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_every_accuracy_is_shown(tmp_path: Path, stages: int) -> None:
    told = summary(stages)
    shown = page(tmp_path, told)
    for marks in (*told["accuracy"].values(), told["chance"], told["mmmu"]):
        for value in marks.values():
            assert f"{100 * value:.1f}%" in shown.text
    assert f"{100 * told['accuracy'][f'stage{stages}']['all']:.1f}% of held-out questions" in shown.text
    assert all(f"Stage {number}" in shown.text for number in range(1, stages + 1))


def test_a_kind_that_a_stage_was_not_asked_is_a_dash(tmp_path: Path) -> None:
    told = summary()
    del told["accuracy"]["stage1"]["label"]
    assert page(tmp_path, told).source.count("<td>–</td>") == 1


def test_time_and_memory_are_shown(tmp_path: Path) -> None:
    shown = page(tmp_path)
    for text in ("1 min 41 s", "1.9 GiB", "12.3 s", "1 min 24 s", "Stage 1, examined"):
        assert text in shown.text


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_example_is_a_card(tmp_path: Path, count: int) -> None:
    examples = [
        example(picture=jpeg(f"hsl({40 * i}, 80%, 50%)"), question=f"Q{i}?\nA. x", answer=f"a{i}", truth=f"t{i}")
        for i in range(count)
    ]
    shown = page(tmp_path, examples=examples)
    pictures = [(image["src"] or "").partition(",")[2] for image in shown.all("img")]
    assert [base64.b64decode(data) for data in pictures] == [one.picture for one in examples]
    assert all(image["alt"] for image in shown.all("img"))
    for one in examples:
        assert all(text in shown.text for text in (one.question, one.answer, one.truth))


def test_right_and_wrong_are_told_apart_by_more_than_colour(tmp_path: Path) -> None:
    shown = page(tmp_path, examples=[example(), example(correct=False), example(correct=False)])
    assert (shown.text.count("✓ right"), shown.text.count("✗ wrong")) == (1, 2)


def test_chinese_is_marked_as_chinese(tmp_path: Path) -> None:
    shown = page(tmp_path, examples=[example(language="zh", question="图中写着什么？", answer="猫")])
    assert '<p lang="zh">图中写着什么？</p>' in shown.source
    assert '<dd lang="zh">猫</dd>' in shown.source


@pytest.mark.parametrize(
    ("points", "scale"),
    [
        (FALLING, "log"),
        ([(1, 3.0), (2, 2.5), (3, 2.4)], "linear"),
        ([(1, 3.0), (2, 0.0)], "linear"),
        ([(7, 1.5)], "linear"),
        ([(1, 2.0), (2, 2.0)], "linear"),
        ([(1, 9.0), (2, 1e-12)], "log"),
        ([(1, 0.0), (2, 0.0)], "linear"),
    ],
)
def test_curve_stays_in_its_frame(tmp_path: Path, points: list[tuple[int, float]], scale: str) -> None:
    shown = page(tmp_path, curves={"stage1": points})
    assert ("loss, log scale" in shown.text) == (scale == "log")
    (frame,) = (svg for svg in shown.all("svg") if "viewbox" not in svg)
    width, height = float(frame["width"] or ""), float(frame["height"] or "")
    for line in shown.all("polyline"):
        right, _, _, down, x0, y0 = map(
            float, re.findall(r"[-+.\de]+", (line["transform"] or "").removeprefix("matrix"))
        )
        drawn = [tuple(map(float, place.split(","))) for place in (line["points"] or "").split()]
        assert [step for step, _ in dict.fromkeys(drawn)] == [step for step, _ in points]
        assert all(-0.01 <= right * x + x0 <= width + 0.01 for x, _ in drawn)
        assert all(0 <= down * y + y0 <= height for _, y in drawn if scale == "linear" or y > -4)  # four decades
    raw = [tuple(map(float, place.split(","))) for place in (shown.all("polyline")[0]["points"] or "").split()]
    values = [10**y if scale == "log" else y for _, y in dict.fromkeys(raw)]
    assert values == pytest.approx([loss for _, loss in points], rel=1e-4)


@pytest.mark.parametrize("points", [[], [(1, float("nan"))]])
def test_a_curve_without_steps_says_so(tmp_path: Path, points: list[tuple[int, float]]) -> None:
    shown = page(tmp_path, curves={"text": FALLING, "stage1": points})
    assert shown.text.count("No steps recorded.") == 1
    assert len(shown.all("figure")) == 2 and len(shown.all("polyline")) == 2


def test_a_summary_without_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no stage"):
        page(tmp_path, {**summary(), "accuracy": {}})
