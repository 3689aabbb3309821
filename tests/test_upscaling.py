"""The experiment of docs/depth.md, with a tenth of its tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.upscaling.__main__ import main
from stages.upscaling.corpus import write_corpus


@pytest.mark.slow
def test_a_deeper_model_starts_near_the_one_it_was_made_of_and_far_ahead_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--before", "400000", "--added", "200000"]) == 0
    curves = json.loads((tmp_path / "runs/upscaling/upscaling.json").read_text())["curves"]
    small, on, scratch = (curves[name] for name in ("small, before", "small, trained on", "deep, from scratch"))
    assert small[-1][0] == on[0][0] == 48 * 8192  # whole steps
    assert on[-1][0] == (48 + 24) * 8192
    assert small[-1][1] == pytest.approx(on[0][1])
    expanded = [points for name, points in curves.items() if name.startswith("expanded")]
    assert len(expanded) == 2
    for points in expanded:
        assert points[0][0] == on[0][0] and points[-1][0] == on[-1][0]
        assert small[-1][1] <= points[0][1] < small[0][1] - 1  # it knows most of what the small one knows
        assert points[-1][1] < points[0][1]
        same = min(scratch, key=lambda point: abs(point[0] - 200_000))
        assert points[-1][1] < same[1] - 0.3
    assert "expanded by Yi's block, 3:7" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "runs/upscaling/upscaling.svg").read_text()


def test_nothing_held_out_is_trained_on_as_another_document(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    texts = {
        name: [json.loads(line)["text"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("english", "code", "held_out_english", "held_out_code")
    }
    assert sum(map(len, texts["english"])) > 1_000_000 and sum(map(len, texts["code"])) > 5_000_000
    for name in ("english", "code"):
        assert 0.02 < len(texts[f"held_out_{name}"]) / len(texts[name]) < 0.1
    trained = "\0".join(texts["english"] + texts["code"])
    leaked = [text for text in texts["held_out_english"] + texts["held_out_code"] if text in trained]
    assert not leaked
