"""MMMU from parquet files to a table: what the model is asked, what is written, and what happens after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mmmu_case import ROOT, Recorder, contents, judge, png, read, row, write

from eval.mmmu import dataset
from eval.mmmu.dataset import Sample
from eval.mmmu.protocol import PROTOCOLS, YI, Protocol, find, register
from eval.mmmu.subjects import DISCIPLINES, SUBJECTS
from yivl.images import ZERO, open_image


def test_multiple_choice_prompt_of_yi() -> None:
    sample = Sample(
        id="i", subject="Art", question="<image 1> Look at <image 2>. Which?", options=("a {0}", "see <image 3>")
    )
    assert YI.prompt(sample) == (
        " Look at . Which?\nA. a {0}\nB. see <image 3>\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_open_prompt_of_yi() -> None:
    sample = Sample(id="i", subject="Art", question="How much? <image 1>", question_type="short-answer", options=("a",))
    assert YI.prompt(sample) == "How much? \nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("question", "options", "sees"),
    [
        ("<image 1> Which?", ("a", "b"), True),
        ("Which?", ("a", "b"), True),
        ("Which?", (), True),
        ("<image 1> Which?", ("<image 2>", "b"), True),
        ("<image 1> <image 2> Which?", ("a", "b"), True),
        ("<image 1> Which?", ("<image 2>", "<image 3>"), False),
        ("<image 1> Which?", ("<image 2> or <image 3>", "b"), False),
        # Without a tag in the question the options' tags count twice.
        ("Which?", ("<image 1>", "b"), False),
        ("Which?", ("<image 1>", "<image 2>"), False),
    ],
)
def test_yi_shows_no_image_where_the_options_have_several(question: str, options: tuple[str, ...], sees: bool) -> None:
    assert YI.sees_image(Sample(id="i", subject="Art", question=question, options=options)) is sees


def test_images_go_to_the_model_as_their_bytes_and_zeros_where_there_is_none(tmp_path: Path) -> None:
    rows = [
        row("validation_Art_1", image_1={"bytes": png(7), "path": None}, image_2={"bytes": png(9), "path": None}),
        row("validation_Art_2", options="['<image 1>', '<image 2>']"),
        row("validation_Art_3", image_1=None),
        row("validation_Art_4", image_1={"bytes": png(8), "path": "x.png"}, question_type="open", options="[]"),
    ]
    write(tmp_path / "data", "Art", rows)
    model = Recorder()
    judge(tmp_path / "data", tmp_path / "out", model)
    images = {key: conversation.images for key, conversation in model.asked.items()}
    assert images["validation_Art_1"] == (png(7),)
    assert images["validation_Art_2"][0] is ZERO
    assert images["validation_Art_3"][0] is ZERO
    assert images["validation_Art_4"] == (png(8),)
    turn = model.asked["validation_Art_1"].turns[0]
    assert (turn.role, turn.images, turn.text[:14]) == ("human", 1, " What is it?\nA")


def test_batches_are_full_and_of_like_length_and_each_reply_goes_to_its_question(data: Path, tmp_path: Path) -> None:
    model = Recorder(lambda key: key)
    judge(data, tmp_path / "out", model)
    assert [len(batch) for batch in model.batches] == [4, 4, 3]
    lengths = [len(conversation.turns[0].text) for batch in model.batches for conversation in batch]
    assert lengths == sorted(lengths)
    raw = read(tmp_path / "out" / "validation_output.json")
    assert raw == {id: id for id in raw}
    # Subjects in the official order, rows as in the files.
    assert list(raw) == [
        *(f"validation_Art_{n}" for n in range(1, 5)),
        *(f"validation_Math_{n}" for n in range(1, 3)),
        *(f"validation_Music_{n}" for n in range(1, 6)),
    ]


def test_a_whole_split_in_several_windows(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        rows = [row(f"dev_{subject}_{n}", image_1={"bytes": png(n), "path": None}) for n in range(1, 6)]
        write(tmp_path / "data", subject, rows, split="dev")
    model = Recorder()
    result = judge(tmp_path / "data", tmp_path / "out", model, split="dev", batch_size=60)
    assert [len(batch) for batch in model.batches] == [60, 60, 30]
    assert all(
        key.endswith(f"_{open_image(asked.images[0]).getpixel((0, 0))[0]}") for key, asked in model.asked.items()
    )  # type: ignore[index]
    assert result.official is not None and result.official.overall.accuracy == 1.0
    assert not any("comparable" in note for note in result.notes)


def test_protocols_are_found_by_exact_name() -> None:
    assert find("yi") is YI
    assert (YI.max_new_tokens, next(iter(PROTOCOLS))) == (64, "yi")
    with pytest.raises(ValueError, match="unknown MMMU protocol 'Yi'; there are yi"):
        find("Yi")
    with pytest.raises(ValueError, match="two MMMU protocols are called 'yi'"):
        register(YI)


# ------------------------------------------------------------------ what is written


def test_files_of_a_run(data: Path, tmp_path: Path) -> None:
    replies = {
        "validation_Art_1": "(B)",
        "validation_Art_2": "no idea",  # a random letter: A, so wrong
        "validation_Art_3": "C",
        "validation_Math_1": "?",  # the stream's second letter, A: right by luck
        "validation_Math_2": "It is 3.43",
    }
    out = tmp_path / "out"
    result = judge(data, out, Recorder(lambda key: replies.get(key, "B")))

    submission = read(out / "submission.json")
    assert submission["validation_Art_1"] == "B"
    assert submission["validation_Art_2"] == "A"
    assert submission["validation_Math_1"] == "A"
    assert submission["validation_Math_2"] == "It is 3.43"
    assert read(out / "validation_output.json")["validation_Art_1"] == "(B)"
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 11 and all(line.keys() == {"id", "reply"} for line in lines)

    record = read(out / "result.json")
    assert record["protocol"] == "yi"
    assert record["model"] == "model"
    assert record["data"]["revision"] == dataset.load(data, "validation").revision
    assert record["data"]["subjects"] == ["Art", "Math", "Music"]
    assert record["decoding"] == {"do_sample": False, "num_beams": 1, "max_new_tokens": 64, "batch_size": 4}
    assert record["counts"] == {
        "questions": 11,
        "multiple_choice": 10,
        "open": 1,
        "answered": 11,
        "missing": 0,
        "random_fallbacks": 2,
        "withheld_answers": 0,
    }
    assert record["official"]["overall"] == {"questions": 11, "correct": 9, "accuracy": 9 / 11}
    assert record["strict"]["overall"]["correct"] == 8
    assert record["official"]["subjects"]["Art"]["correct"] == 2
    assert record["official"]["disciplines"]["Science"] == {"questions": 2, "correct": 2, "accuracy": 1.0}
    assert record["strict"]["disciplines"]["Science"]["correct"] == 1
    assert (out / "table.md").read_text() == result.text
    assert result.official is not None and result.official.overall.correct == 9


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_of_validation(data: Path, tmp_path: Path) -> None:
    result = judge(data, tmp_path / "out", model_name="mine")
    head, _, *rows = cells(result.text)
    assert head == ["Model", "Overall", *DISCIPLINES]
    assert rows == [
        ["mine", "81.8", "100.0", "-", "0.0", "-", "-", "-"],
        ["mine (random letters wrong)", "81.8", "100.0", "-", "0.0", "-", "-", "-"],
        ["Yi-VL-34B", "45.9", "59.2", "36.0", "33.3", "51.3", "62.5", "41.0"],
        ["Yi-VL-6B", "39.1", "52.5", "30.7", "31.3", "38.0", "53.3", "35.7"],
    ]
    assert "Only 11 of the split's 900 questions, in 3 of 30 subjects" in result.text


def test_table_of_test_has_the_rows_of_table_7(tmp_path: Path) -> None:
    write(tmp_path / "data", "Art", [row("test_Art_1")], split="test")
    rows = cells(judge(tmp_path / "data", tmp_path / "out", split="test").text)[4:]
    assert len(rows) == 17
    assert rows[0] == ["GPT-4V", "55.7", "65.3", "64.3", "48.4", "63.5", "76.3", "41.7"]
    assert rows[1] == ["Yi-VL-34B", "41.6", "56.1", "33.3", "32.9", "45.9", "66.5", "36.0"]
    assert rows[4] == ["Yi-VL-6B", "37.8", "53.4", "30.3", "30.0", "39.3", "58.5", "34.1"]
    assert rows[-1] == ["CogVLM", "30.1", "38.0", "25.6", "25.1", "31.2", "41.5", "28.9"]


@pytest.mark.parametrize("answer", ["?", "", None])
def test_without_public_answers_there_is_a_submission_and_no_accuracy(tmp_path: Path, answer: str | None) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write(data, "Art", [row("test_Art_1", answer=answer), row("test_Art_2", answer=answer)], split="test")
    result = judge(data, out, split="test")
    assert result.official is None and result.strict is None
    assert "No accuracy: 2 of 2 questions have no answer" in result.text
    assert read(out / "submission.json") == {"test_Art_1": "B", "test_Art_2": "B"}
    assert read(out / "result.json")["official"] is None
    assert not (out / "table.md").exists()


def test_a_file_without_the_answer_column_has_no_public_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "data", "Art", [row("test_Art_1")], split="test")
    pq.write_table(pq.read_table(path).drop_columns(["answer"]), path)
    assert judge(tmp_path / "data", tmp_path / "out", split="test").counts.withheld == 1


# ------------------------------------------------------------------ after a stop

KILLED = """
import os, signal, sys
from pathlib import Path
from eval.mmmu.run import evaluate

def answer(conversations, *, max_new_tokens):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ["B"] * len(conversations)

calls = 0
evaluate(answer, Path(sys.argv[1]), "validation", Path(sys.argv[2]), 4, "model")
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
        ({"subjects": ["Art"]}, "subjects was .*, now \\['Art'\\]"),
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


def test_another_protocol_is_refused(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    register(Protocol(name="mine", prompt=YI.prompt, sees_image=YI.sees_image, max_new_tokens=64))
    try:
        with pytest.raises(ValueError, match="protocol was 'yi', now 'mine'"):
            judge(data, tmp_path / "out", protocol_name="mine")
    finally:
        del PROTOCOLS["mine"]


def test_replies_without_a_description_are_not_added_to(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is not"):
        judge(data, tmp_path / "out")
