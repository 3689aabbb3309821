"""What all benchmarks share: intervals, runs that stop and go on, several processes, and the page of a result."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmmu_case import ROOT, TINY, Recorder, asked, contents, judge, png, read, row, write
from page_case import Page, assert_loads_nothing
from processes import torchrun

from eval import page
from eval.benchmark import OVERALL, Part, Question, Verdict
from eval.command import run
from eval.registry import BENCHMARKS, find
from eval.results import rescore
from eval.scores import RESAMPLES, SEED, scores
from yivl import YiVL

# ------------------------------------------------------------------ intervals


def verdicts(parts: Sequence[tuple[float, float]], **groups: Sequence[str]) -> list[Verdict]:
    return [
        Verdict(
            question=Question(id=str(n), prompt="", truth="x", groups={name: of[n] for name, of in groups.items()}),
            reply="", answer="", parts={"metric": Part(amount, of)}, why="",
        )
        for n, (amount, of) in enumerate(parts)
    ]  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    """By linear interpolation between the sorted values."""
    place = share * (len(values) - 1)
    below, above = sorted(values)[math.floor(place)], sorted(values)[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


@pytest.mark.parametrize(
    "parts",
    [
        [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.25, 1.0), (0.0, 1.0)],
        # Precision: most questions claim nothing.
        [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)],
        [(2.0, 3.0), (1.0, 7.0), (5.0, 5.0)],
    ],
)
def test_the_interval_is_the_percentile_bootstrap(parts: list[tuple[float, float]]) -> None:
    drawn = np.random.default_rng(SEED).integers(0, len(parts), (RESAMPLES, len(parts)))
    values = []
    for chosen in drawn.tolist():
        amount, of = sum(parts[n][0] for n in chosen), sum(parts[n][1] for n in chosen)
        values.append(amount / of if of else 0.0)
    score = scores(verdicts(parts))["metric"][OVERALL][OVERALL]
    assert score.value == pytest.approx(sum(a for a, _ in parts) / sum(b for _, b in parts))
    assert score.low == pytest.approx(percentile(values, 0.025))
    assert score.high == pytest.approx(percentile(values, 0.975))
    assert score.questions == len(parts)


def test_the_interval_is_that_of_a_coin() -> None:
    """Of 900 questions half are right: the normal approximation is 1.96 * sqrt(0.25 / 900) to either side."""
    score = scores(verdicts([(n % 2, 1.0) for n in range(900)]))["metric"][OVERALL][OVERALL]
    half = 1.96 * math.sqrt(0.25 / 900)
    assert (score.low, score.high) == (pytest.approx(0.5 - half, abs=0.005), pytest.approx(0.5 + half, abs=0.005))


def test_each_group_is_averaged_by_itself_and_withheld_answers_are_left_out() -> None:
    judged = verdicts([(1, 1), (0, 1), (1, 1), (1, 1)], subject=["b", "b", "a", "a"])
    withheld = Verdict(question=Question(id="w", prompt=""), reply="", answer="", parts={}, why="")
    levels = scores([*judged, withheld])["metric"]
    assert {name: (one.value, one.questions) for name, one in levels["subject"].items()} == {"b": (0.5, 2), "a": (1, 2)}
    assert levels[OVERALL][OVERALL].questions == 4


# ------------------------------------------------------------------ after a stop

KILLED = """
import os, signal, sys
from pathlib import Path
from eval.benchmark import Choices
from eval.mmmu import MMMU
from eval.runner import evaluate

def answer(conversations, *, max_new_tokens):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ["B"] * len(conversations)

calls = 0
evaluate(answer, MMMU(Path(sys.argv[1]), Choices()), Path(sys.argv[2]), batch_size=4, model_name="model")
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_files(data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    judge(data, whole)
    command = [sys.executable, "-c", KILLED, str(data), str(killed)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -9
    assert sorted(path.name for path in killed.iterdir()) == ["predictions.jsonl", "run.json"]
    assert len((killed / "predictions.jsonl").read_text().splitlines()) == 8

    model = Recorder()
    judge(data, killed, model)
    assert len(model.batches) == 1
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize("cut", [1, 2, 20, 60, 200, 10_000])
def test_wherever_the_file_was_cut_the_rest_is_asked_again_in_the_same_batches(
    data: Path, tmp_path: Path, cut: int
) -> None:
    out = tmp_path / "out"
    first = Recorder(lambda key: f"Antwort “B” für {key}\n")
    judge(data, out, first)
    whole = contents(out)
    path = out / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])

    again = Recorder(first.reply)
    judge(data, out, again)
    assert again.batches and all(batch in first.batches for batch in again.batches)
    assert contents(out) == whole


def test_a_last_line_of_rubbish_is_asked_again(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    whole = contents(tmp_path / "out")
    path = tmp_path / "out" / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + b"\0\0\0\n")
    judge(data, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "line 12: not a prediction"),
        ('{"id": "a"}', "line 12: not a prediction"),
        ('{"id": "a", "reply": 3}', "should be strings"),
        ('{"id": "validation_Art_1", "reply": "A"}', "line 12: validation_Art_1 was answered before"),
    ],
)
def test_a_bad_line_is_named(data: Path, tmp_path: Path, line: str, said: str) -> None:
    judge(data, tmp_path / "out")
    with (tmp_path / "out" / "predictions.jsonl").open("a") as file:
        file.write(line + '\n{"id": "b", "reply": "c"}\n')
    with pytest.raises(ValueError, match=said):
        rescore(asked(data), tmp_path / "out")


def test_a_finished_run_asks_nothing(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    model = Recorder()
    judge(data, tmp_path / "out", model, batch_size=3)
    assert not model.batches


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_name": "other"}, "model was 'model', now 'other'"),
        ({"model_revision": "abc"}, "model was 'model', now 'abc'"),
        ({"split": "dev"}, "split was 'validation', now 'dev'"),
        ({"subjects": ("Art",)}, "subjects was None, now \\['Art'\\]"),
        ({"protocol": "official"}, "protocol was 'yi', now 'official'.*max_new_tokens was 64, now 128"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    data: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    for subject in ("Art", "Math", "Music"):
        write(data, subject, [row(f"dev_{subject}_1")], split="dev")
    judge(data, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=f"replies of another run.*{said}.*Use another --out"):
        judge(data, tmp_path / "out", **change)
    assert contents(tmp_path / "out") == before


def test_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    write(data, "Math", [row("validation_Math_1", answer="C")])
    with pytest.raises(ValueError, match="data was '"):
        judge(data, tmp_path / "out")


def test_replies_without_a_description_are_not_added_to(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is not"):
        judge(data, tmp_path / "out")


def test_too_few_replies_and_no_batch_are_errors(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 replies to 4 questions"):
        judge(data, tmp_path / "out", lambda conversations, *, max_new_tokens: ["B"])
    with pytest.raises(ValueError, match="batch size 0"):
        judge(data, tmp_path / "out", batch_size=0)


# ------------------------------------------------------------------ batches and processes


@pytest.fixture
def various(tmp_path: Path) -> Path:
    """Eleven questions of very unlike length, with pictures of unlike shape; one of them sees zeros."""
    rows = [
        row(
            f"validation_Art_{n}",
            question="<image 1> " + "What is it, and why? " * (n * n % 7),
            image_1={"bytes": png(40 * n, (20 + 7 * n, 60 - 5 * n)), "path": None},
        )
        for n in range(1, 11)
    ]
    write(tmp_path / "various", "Art", [*rows, row("validation_Art_11", options="['<image 1>', '<image 2>']")])
    return tmp_path / "various"


@pytest.mark.skipif(not TINY.is_dir(), reason="needs the tiny model in tests/fixtures")
def test_replies_do_not_depend_on_the_size_of_batches(various: Path, tmp_path: Path, tiny: YiVL) -> None:
    replies = {}
    for size in (1, 3, 8):
        out = tmp_path / str(size)
        judge(various, out, tiny.answer, batch_size=size)
        replies[size] = read(out / "validation_output.json")
    assert replies[1] == replies[3] == replies[8]
    assert len(set(replies[1].values())) > 1, "all replies are the same, so this shows nothing"


@pytest.mark.skipif(not TINY.is_dir(), reason="needs the tiny model in tests/fixtures")
def test_two_processes_give_what_one_gives(various: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    arguments = [str(TINY), "--data", str(various), "--batch-size", "2"]
    run("mmmu", [*arguments, "--out", str(alone)])
    process = torchrun(2, "-m", "eval.mmmu", *arguments, "--out", str(shared))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said

    # Both have worked, and the first has put everything together.
    answered = {name: (shared / name).read_text().splitlines() for name in ("predictions.jsonl", "predictions-1.jsonl")}
    assert [len(lines) for lines in answered.values()] == [6, 5]
    for name in ("validation_output.json", "submission.json", "result.json", "answers.jsonl", "table.md", "index.html"):
        assert (shared / name).read_bytes() == (alone / name).read_bytes(), name


# ------------------------------------------------------------------ the page


@pytest.fixture
def told(data: Path, tmp_path: Path) -> Path:
    """A result whose texts are full of HTML."""
    rows = [row(f"validation_Design_{n}", question=f"<b>Is {n} < 3 & > 1?</b>") for n in range(3)]
    rows[1] |= {"answer": "</article><i>", "question_type": "open", "options": "[]"}
    write(data, "Design", rows)
    judge(
        data,
        tmp_path / "out",
        Recorder(lambda key: f"<script>alert('{key}')</script> (B)" if "Design" in key else "B"),
        model_name="<u>mine</u>",
    )
    return tmp_path / "out"


def test_the_page_has_every_question_and_no_text_of_a_model_becomes_html(told: Path, data: Path) -> None:
    shown = Page(page.redraw(told).read_text(encoding="utf-8"))
    assert_loads_nothing(shown)
    assert len(shown.all("article")) == 14
    assert len(shown.all("img")) == 14
    for question in asked(data).questions:
        assert question.id in shown.text and question.prompt in shown.text
    assert "<script>alert('validation_Design_1')</script> (B)" in shown.text
    assert "</article><i>" in shown.text and "<u>mine</u>" in shown.text
    assert all("style" in attrs for attrs in [*shown.all("u"), *shown.all("b")])  # those of the bars
    assert len(shown.all("script")) == 1


def test_the_page_says_why_and_can_be_filtered(told: Path) -> None:
    shown = Page(page.redraw(told).read_text(encoding="utf-8"))
    assert "(B) in brackets" in shown.text and "B between spaces" in shown.text
    cards = shown.all("article")
    assert {card["data-outcome"] for card in cards} == {"right", "wrong"}
    assert {"Design\nArt and Design", "Art and Design\nDesign"} & {card["data-groups"] for card in cards}
    # The table beside the published rows, and bars with their intervals.
    assert "Yi-VL-34B" in shown.text and "By discipline" in shown.text and "By subject" in shown.text
    widths = [float(width) for width in re.findall(r'<b style="width:([\d.]+)%', shown.source)]
    assert len(widths) == 2 + 4 and all(0 <= width <= 100 for width in widths)


def test_a_page_is_drawn_again_from_its_folder_with_the_fallback_it_was_scored_with(told: Path, data: Path) -> None:
    rescore(asked(data, fallback="expected"), told)
    page.redraw(told)
    assert read(told / "result.json")["fallback"] == "expected"
    assert page.main([str(told)]) == 0
    assert page.main([str(told.parent)]) == 1


# ------------------------------------------------------------------ all benchmarks


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_needs_no_torch_and_says_what_data_it_wants(name: str, tmp_path: Path) -> None:
    kind = find(name)
    assert kind.splits and kind.protocols and kind.layout
    with pytest.raises(SystemExit, match=r"error: no .*gone"):
        run(name, ["model", "--data", str(tmp_path / "gone")])
    program = f"import sys, eval.{name}; print(sorted({{'torch', 'transformers', 'yivl'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_lines_of_answers_are_json_with_every_group(told: Path) -> None:
    lines = [json.loads(line) for line in (told / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 14
    assert all({"id", "prompt", "reply", "answer", "truth", "score", "why", "subject"} <= line.keys() for line in lines)
