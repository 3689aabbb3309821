"""MMMU from parquet files to a table: which batches are asked, what is written, and what stands beside the score."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mmmu_case import Recorder, asked, judge, read, row, write

from eval.mmmu.subjects import DISCIPLINES


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


REPLIES = {
    "validation_Art_1": "(B)",
    "validation_Art_2": "no idea",  # a random letter: A, so wrong
    "validation_Art_3": "C",
    "validation_Math_1": "?",  # the stream's second letter, A: right by luck
    "validation_Math_2": "It is 3.43",
}
"""To the others it is B."""


def test_files_of_a_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = judge(data, out, Recorder(lambda key: REPLIES.get(key, "B")))

    submission = read(out / "submission.json")
    assert submission["validation_Art_1"] == "B"
    assert submission["validation_Art_2"] == "A"
    assert submission["validation_Math_1"] == "A"
    assert submission["validation_Math_2"] == "It is 3.43"
    assert read(out / "validation_output.json")["validation_Art_1"] == "(B)"
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 11 and all(line.keys() == {"id", "reply"} for line in lines)

    record = read(out / "result.json")
    assert (record["benchmark"], record["split"], record["protocol"]) == ("MMMU", "validation", "yi")
    assert (record["fallback"], record["metric"], record["model"]) == ("official", "accuracy", "model")
    assert record["data"]["revision"] == asked(data).revision
    assert record["decoding"] == {"do_sample": False, "num_beams": 1, "max_new_tokens": 64, "batch_size": 4}
    assert record["counts"] == {"questions": 11, "missing": 0, "drawn": 2, "withheld": 0}
    overall = {metric: levels["Overall"]["Overall"] for metric, levels in record["scores"].items()}
    assert {metric: (one["value"], one["questions"]) for metric, one in overall.items()} == {
        "accuracy": (9 / 11, 11),
        "accuracy, drawn as wrong": (8 / 11, 11),
    }
    assert record["scores"]["accuracy"]["subject"]["Art"]["value"] == 0.5
    assert record["scores"]["accuracy"]["discipline"]["Science"]["value"] == 1.0
    assert record["scores"]["accuracy, drawn as wrong"]["discipline"]["Science"]["value"] == 0.5
    assert (out / "table.md").read_text() == result.text
    assert "10 multiple-choice and 1 open" in result.text
    assert "In 2 replies no answer was found: one was drawn at random." in result.text


def test_a_line_for_every_question_says_why_it_counts_so(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out", Recorder(lambda key: REPLIES.get(key, "B")), fallback="expected")
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    told = {line["id"]: (line["answer"], line["score"], line["why"]) for line in lines}
    assert len(told) == 11
    assert told["validation_Art_1"] == ("B", 1.0, "(B) in brackets")
    assert told["validation_Art_2"] == ("", 0.25, "nothing found: what a draw from 4 gives on average")
    assert told["validation_Art_3"] == ("C", 0.0, "C between spaces")
    assert told["validation_Math_2"] == ("3.43", 1.0, "3.43 was read from it")
    assert lines[0]["truth"] == "B" and lines[0]["subject"] == "Art" and lines[0]["discipline"] == "Art and Design"
    # The leaderboard takes letters only: what is not drawn is handed in as nothing.
    assert read(tmp_path / "out" / "submission.json")["validation_Art_2"] == ""


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_of_validation(data: Path, tmp_path: Path) -> None:
    result = judge(data, tmp_path / "out", model_name="mine")
    head, _, *rows = cells(result.text)
    assert head == ["Model", "Overall", *DISCIPLINES]
    assert rows == [
        ["mine", "81.8", "100.0", "-", "0.0", "-", "-", "-"],
        ["mine (accuracy, drawn as wrong)", "81.8", "100.0", "-", "0.0", "-", "-", "-"],
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
@pytest.mark.parametrize("protocol", ["yi", "lmms-eval", "vlmevalkit"])
def test_without_public_answers_there_is_a_submission_and_no_accuracy(
    tmp_path: Path, answer: str | None, protocol: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    opened = row("test_Art_2", answer=answer, question_type="open", options="[]")
    write(data, "Art", [row("test_Art_1", answer=answer), opened], split="test")
    result = judge(data, out, split="test", protocol=protocol)
    assert result.overall is None and result.scores == {}
    assert "No score: 2 of 2 questions have no answer" in result.text
    assert read(out / "submission.json") == {"test_Art_1": "B", "test_Art_2": "B"}
    assert read(out / "result.json")["scores"] == {}
    assert not (out / "table.md").exists()


def test_a_file_without_the_answer_column_has_no_public_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "data", "Art", [row("test_Art_1")], split="test")
    pq.write_table(pq.read_table(path).drop_columns(["answer"]), path)
    judge(tmp_path / "data", tmp_path / "out", split="test")
    assert read(tmp_path / "out" / "result.json")["counts"]["withheld"] == 1
