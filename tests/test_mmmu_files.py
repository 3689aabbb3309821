"""MMMU scored again without a model, and what is said of files that are not as they should be."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmmu_case import ROOT, TINY, Recorder, contents, judge, read, row, write
from PIL import Image

from eval.mmmu import dataset
from eval.mmmu.__main__ import default_out, main
from eval.mmmu.report import rescore
from eval.mmmu.revision import of_folder
from yivl.conversation import Conversation
from yivl.images import open_image


def test_scoring_alone_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out, Recorder(lambda key: "no idea" if key.endswith("1") else "B"))
    whole = contents(out)
    for name in ("validation_output.json", "submission.json", "result.json", "table.md"):
        (out / name).unlink()
    rescore(data, "validation", out, "model")
    assert contents(out) == whole


def test_scoring_alone_counts_missing_replies_as_wrong(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out)
    path = out / "predictions.jsonl"
    kept = [line for line in path.read_text().splitlines() if "Art_1" not in line and "Math_1" not in line]
    path.write_text("".join(f"{line}\n" for line in kept))
    result = rescore(data, "validation", out, "model")
    assert result.counts.missing == 2
    assert result.official is not None
    assert (result.official.overall.questions, result.official.overall.correct) == (11, 8)
    assert "2 questions have no reply; they count as wrong." in result.text
    assert "validation_Art_1" not in read(out / "submission.json")


def test_scoring_alone_takes_data_with_answers_and_says_so(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write(data, "Art", [row("test_Art_1", answer="?")], split="test")
    assert judge(data, out, split="test").official is None
    write(data, "Art", [row("test_Art_1", answer="B")], split="test")
    result = rescore(data, "test", out, "model")
    assert result.official is not None and result.official.overall.correct == 1
    assert "Asked on data revision" in result.text
    record = read(out / "result.json")
    assert record["data"]["revision"] != record["data"]["revision_asked"]


def test_scoring_alone_of_some_subjects_leaves_the_others_aside(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    assert rescore(data, "validation", tmp_path / "out", "model", ["Music"]).counts.questions == 5


def test_scoring_alone_refuses_another_split_and_replies_to_unknown_questions(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="without --score-only"):
        rescore(data, "validation", out, "model")
    judge(data, out)
    with pytest.raises(ValueError, match="to the split validation, not to dev"):
        rescore(data, "dev", out, "model")
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"id": "validation_Art_99", "reply": "A"}\n')
    with pytest.raises(ValueError, match="a reply to validation_Art_99"):
        rescore(data, "validation", out, "model")


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
        rescore(data, "validation", tmp_path / "out", "model")


def test_scoring_alone_needs_no_torch(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out)
    program = (
        "import sys; from eval.mmmu.__main__ import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'yivl'} & set(sys.modules)))"
    )
    arguments = ["gone", "--data", str(data), "--split", "validation", "--out", str(out), "--score-only"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| Yi-VL-34B" in done.stdout and f"Written to {out}" in done.stdout
    assert done.stdout.endswith("[]\n")


# ------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"options": "['a', "}, "options are no Python list literal"),
        ({"options": "__import__('os')"}, "options are no Python list literal"),
        ({"options": "('a', 'b')"}, "options are a tuple, not a list"),
        ({"options": "[]"}, "a multiple-choice question without options"),
        ({"question": None}, "no question"),
        ({"id": "validation_Art_1"}, "the same id as .*row 0"),
        ({"image_1": {"bytes": b"no image", "path": None}}, "image_1 can't be decoded"),
        ({"image_1": {"bytes": None, "path": "there.png"}}, "image_1 has a path and no bytes: 'there.png'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "data", "Art", [row("validation_Art_1"), row("validation_Art_2", **fields)])
    with pytest.raises(ValueError, match=f"{path}, row 1.*{said}"):
        judge(tmp_path / "data", tmp_path / "out")


def test_an_image_that_only_decoding_finds_cut_off_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    rows = [row("validation_Art_1"), row("validation_Art_2", image_1={"bytes": half, "path": None})]
    path = write(tmp_path / "data", "Art", rows)

    def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        return [str(open_image(conversation.images[0]).size) for conversation in conversations]

    with pytest.raises(ValueError, match=f"{path}, row 1 .validation_Art_2.: image_1 can't be decoded"):
        judge(tmp_path / "data", tmp_path / "out", answer)


def test_missing_columns_and_wrong_types_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "Art", [row("validation_Art_1")])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["options", "image_1"]), path)
    with pytest.raises(ValueError, match=f"{path}: no column options, image_1; it has id, question"):
        dataset.load(tmp_path, "validation")
    pq.write_table(table.set_column(2, "options", pa.array([["a", "b"]])), path)
    with pytest.raises(ValueError, match=r"column options is list.*; it should be string"):
        dataset.load(tmp_path, "validation")
    pq.write_table(table.set_column(4, "image_1", pa.array([b"x"])), path)
    with pytest.raises(ValueError, match="column image_1 is binary; it should be struct"):
        dataset.load(tmp_path, "validation")


def test_missing_files_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        dataset.load(tmp_path / "gone", "validation")
    with pytest.raises(ValueError, match="unknown MMMU split 'val'; there are dev, validation, test"):
        dataset.load(data, "val")
    with pytest.raises(FileNotFoundError, match=r"Art has no test-\*.parquet; it has validation"):
        dataset.load(data, "test")
    with pytest.raises(FileNotFoundError, match="the subject History is not there"):
        dataset.load(data, "validation", ["Art", "History"])
    with pytest.raises(ValueError, match="unknown MMMU subject 'Arts'"):
        dataset.load(data, "validation", ["Arts"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no folder of an MMMU subject"):
        dataset.load(tmp_path / "empty", "validation")


def test_bad_files_are_named(tmp_path: Path, data: Path) -> None:
    write(data, "Design", [])
    with pytest.raises(ValueError, match=r"Design.*no rows, so subject Design is empty"):
        dataset.load(data, "validation")
    path = data / "Design" / "validation-00000-of-00001.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=f"{path}: not a readable parquet file"):
        dataset.load(data, "validation")
    (data / "Design").rename(data / "Desing")
    with pytest.raises(ValueError, match="unknown MMMU subject 'Desing'"):
        dataset.load(data, "validation")


def test_a_missing_shard_is_named(data: Path) -> None:
    (data / "Music" / "validation-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="Music: of 2 validation shards, number 1 is missing"):
        dataset.load(data, "validation")


def test_too_few_replies_and_no_batch_are_errors(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 replies to 4 questions"):
        judge(data, tmp_path / "out", lambda conversations, *, max_new_tokens: ["B"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        judge(data, tmp_path / "out", batch_size=0)


# ------------------------------------------------------------------ revisions, the command


def test_data_revision_tells_contents_and_names_and_not_places(data: Path, tmp_path: Path) -> None:
    revision = dataset.load(data, "validation").revision
    moved = data.rename(tmp_path / "moved")
    assert dataset.load(moved, "validation").revision == revision
    assert dataset.load(moved, "validation", ["Art"]).revision != revision
    write(moved, "Math", [row("validation_Math_1", answer="C")])
    assert dataset.load(moved, "validation").revision != revision


def test_model_revision_leaves_out_hidden_files_and_the_results(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    out = tmp_path / "mmmu"
    revision = of_folder(tmp_path, without=out)
    out.mkdir()
    (out / "run.json").write_text("{}")
    (tmp_path / ".cache").write_text("now")
    assert of_folder(tmp_path, without=out) == revision
    (tmp_path / "weights").write_bytes(b"2")
    assert of_folder(tmp_path, without=out) != revision


def test_results_go_beside_the_model(tmp_path: Path) -> None:
    assert default_out(tmp_path / "stage3" / "model", "test") == tmp_path.resolve() / "stage3" / "mmmu-test"
    assert default_out(tmp_path / "Yi-VL-6B", "dev") == tmp_path.resolve() / "Yi-VL-6B-mmmu-dev"


def test_the_command_says_what_is_wrong_in_one_line(data: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(data), "--split", "validation"]
    with pytest.raises(SystemExit, match=r"error: no model folder .*gone"):
        main([str(tmp_path / "gone"), *arguments])
    with pytest.raises(SystemExit, match="error: unknown MMMU subject 'Arts'"):
        main([str(data), *arguments, "--subjects", "Art,Arts"])


@pytest.mark.skipif(not TINY.is_dir(), reason="needs the tiny model in tests/fixtures")
def test_a_real_model_answers_and_a_second_run_loads_none(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--split", "validation", "--subjects", "Art,Math", "--out", str(out)]
    main([str(TINY), *arguments, "--batch-size", "4"])
    said = capsys.readouterr()
    assert "6 of 6 questions" in said.err
    assert f"| {TINY} " in said.out and "| Yi-VL-6B" in said.out
    assert len(read(out / "validation_output.json")) == 6
    assert read(out / "result.json")["model_revision"] == of_folder(TINY, without=out)
    before = contents(out)
    main([str(TINY), *arguments, "--batch-size", "2"])
    assert "questions," not in capsys.readouterr().err
    assert contents(out) == before
