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
from mmmu_case import ROOT, TINY, Recorder, asked, contents, judge, read, row, write
from PIL import Image

from eval.benchmark import BadData
from eval.command import default_out, run
from eval.results import rescore
from eval.revision import of_folder
from yivl.conversation import Conversation
from yivl.images import open_image


def test_scoring_alone_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out, Recorder(lambda key: "no idea" if key.endswith("1") else "B"))
    whole = contents(out)
    for name in ("validation_output.json", "submission.json", "result.json", "answers.jsonl", "table.md"):
        (out / name).unlink()
    rescore(asked(data), out)
    assert contents(out) == whole


def test_scoring_alone_takes_another_fallback(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out, Recorder(lambda key: "no idea"))
    drawn, expected, wrong = (rescore(asked(data, fallback=name), out) for name in ("official", "expected", "wrong"))
    # Ten choices of four; the open question is wrong.
    assert expected.overall is not None and expected.overall.value == pytest.approx(10 / 4 / 11)
    assert wrong.overall is not None and wrong.overall.value == 0.0
    assert drawn.overall is not None and list(drawn.scores) == ["accuracy", "accuracy, drawn as wrong"]
    assert list(wrong.scores) == ["accuracy"]
    assert read(out / "result.json")["fallback"] == "wrong"
    assert "In 10 replies no answer was found: they count as wrong." in wrong.text


def test_scoring_alone_counts_missing_replies_as_wrong(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out)
    path = out / "predictions.jsonl"
    kept = [line for line in path.read_text().splitlines() if "Art_1" not in line and "Math_1" not in line]
    path.write_text("".join(f"{line}\n" for line in kept))
    result = rescore(asked(data), out)
    assert read(out / "result.json")["counts"]["missing"] == 2
    assert result.overall is not None and (result.overall.questions, result.overall.value) == (11, 8 / 11)
    assert "2 questions have no reply; they count as wrong." in result.text
    assert "validation_Art_1" not in read(out / "submission.json")


def test_scoring_alone_takes_data_with_answers_and_says_so(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write(data, "Art", [row("test_Art_1", answer="?")], split="test")
    assert judge(data, out, split="test").overall is None
    write(data, "Art", [row("test_Art_1", answer="B")], split="test")
    result = rescore(asked(data, split="test"), out)
    assert result.overall is not None and result.overall.value == 1.0
    assert "Asked on data revision" in result.text
    record = read(out / "result.json")
    assert record["data"]["revision"] != record["data"]["revision_asked"]


def test_scoring_alone_of_some_subjects_leaves_the_others_aside(data: Path, tmp_path: Path) -> None:
    judge(data, tmp_path / "out")
    result = rescore(asked(data, subjects=("Music",)), tmp_path / "out")
    assert len(result.verdicts) == 5
    assert "Only Music: not comparable" in result.text


def test_scoring_alone_refuses_another_split_and_replies_to_unknown_questions(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="without --score-only"):
        rescore(asked(data), out)
    judge(data, out)
    for subject in ("Art", "Math", "Music"):
        write(data, subject, [row(f"dev_{subject}_1")], split="dev")
    with pytest.raises(ValueError, match="to the split validation, not to dev"):
        rescore(asked(data, split="dev"), out)
    with pytest.raises(ValueError, match="to the protocol yi, not to official"):
        rescore(asked(data, protocol="official"), out)
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"id": "validation_Art_99", "reply": "A"}\n')
    with pytest.raises(ValueError, match="a reply to validation_Art_99"):
        rescore(asked(data), out)


def test_scoring_alone_needs_no_torch(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    judge(data, out)
    # None stands for a module that is not installed.
    program = "import sys; sys.modules |= {'torch': None, 'transformers': None}; "
    program += "from eval.command import run; run('mmmu', sys.argv[1:])"
    arguments = ["gone", "--data", str(data), "--out", str(out), "--score-only"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| Yi-VL-34B" in done.stdout and f"Written to {out}" in done.stdout
    assert (out / "index.html").is_file()


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
    with pytest.raises(BadData, match=f"{path}, row 1.*{said}"):
        judge(tmp_path / "data", tmp_path / "out")


def test_an_image_that_only_decoding_finds_cut_off_is_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "JPEG")
    half = whole.getvalue()[: len(whole.getvalue()) // 2]
    rows = [row("validation_Art_1"), row("validation_Art_2", image_1={"bytes": half, "path": None})]
    path = write(tmp_path / "data", "Art", rows)

    def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        return [str(open_image(conversation.images[0]).size) for conversation in conversations]

    with pytest.raises(BadData, match=f"{path}, row 1 .validation_Art_2.: the picture can't be decoded"):
        judge(tmp_path / "data", tmp_path / "out", answer)


def test_missing_columns_and_wrong_types_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "Art", [row("validation_Art_1")])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["options", "image_1"]), path)
    with pytest.raises(BadData, match=f"{path}: no column options, image_1; it has id, question"):
        asked(tmp_path)
    pq.write_table(table.set_column(2, "options", pa.array([["a", "b"]])), path)
    with pytest.raises(BadData, match=r"column options is list.*; it should be string"):
        asked(tmp_path)
    pq.write_table(table.set_column(4, "image_1", pa.array([b"x"])), path)
    with pytest.raises(BadData, match="column image_1 is binary; it should be struct"):
        asked(tmp_path)


def test_missing_files_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*gone; MMMU wants the hub's MMMU/MMMU"):
        asked(tmp_path / "gone")
    with pytest.raises(ValueError, match="unknown split 'val'; there are validation, dev, test"):
        asked(data, split="val")
    with pytest.raises(FileNotFoundError, match=r"Art has no test-\*.parquet; it has validation"):
        asked(data, split="test")
    with pytest.raises(FileNotFoundError, match="so History is not there"):
        asked(data, subjects=("Art", "History"))
    with pytest.raises(ValueError, match="unknown MMMU subject 'Arts'"):
        asked(data, subjects=("Arts",))
    with pytest.raises(ValueError, match="no subject is named"):
        asked(data, subjects=())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no folder of an MMMU subject"):
        asked(tmp_path / "empty")


def test_bad_files_are_named(tmp_path: Path, data: Path) -> None:
    write(data, "Design", [])
    with pytest.raises(BadData, match=r"Design.*no rows, so subject Design is empty"):
        asked(data)
    path = write(data, "Design", [row("validation_Design_1")])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadData, match=f"{path}: not a readable parquet file"):
        asked(data)
    (data / "Design").rename(data / "Desing")
    with pytest.raises(ValueError, match="unknown MMMU subject 'Desing'"):
        asked(data)


def test_a_missing_shard_is_named(data: Path) -> None:
    (data / "Music" / "validation-00001-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="Music: of 2 validation shards, number 1 is missing"):
        asked(data)


# ------------------------------------------------------------------ revisions, the command


def test_data_revision_tells_contents_and_names_and_not_places(data: Path, tmp_path: Path) -> None:
    revision = asked(data).revision
    moved = data.rename(tmp_path / "moved")
    assert asked(moved).revision == revision
    assert asked(moved, subjects=("Art",)).revision != revision
    write(moved, "Math", [row("validation_Math_1", answer="C")])
    assert asked(moved).revision != revision


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


def test_results_go_beside_the_model(data: Path, tmp_path: Path) -> None:
    place = tmp_path.resolve()
    assert default_out(tmp_path / "stage3" / "model", "mmmu", asked(data)) == place / "stage3" / "mmmu-validation"
    official = asked(data, protocol="official")
    assert default_out(tmp_path / "Yi-VL-6B", "mmmu", official) == place / "Yi-VL-6B-mmmu-validation-official"


def test_the_command_says_what_is_wrong_in_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: no model folder .*gone"):
        run("mmmu", [str(tmp_path / "gone"), "--data", str(data)])
    with pytest.raises(SystemExit, match="error: unknown MMMU subject 'Arts'"):
        run("mmmu", [str(data), "--data", str(data), "--subjects", "Art,Arts"])


@pytest.mark.skipif(not TINY.is_dir(), reason="needs the tiny model in tests/fixtures")
def test_a_real_model_answers_and_a_second_run_loads_none(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--subjects", "Art,Math", "--out", str(out)]
    run("mmmu", [str(TINY), *arguments, "--batch-size", "4"])
    said = capsys.readouterr()
    assert "6 of 6 questions" in said.err
    assert f"| {TINY} " in said.out and "| Yi-VL-6B" in said.out
    assert len(read(out / "validation_output.json")) == 6
    assert read(out / "result.json")["model_revision"] == of_folder(TINY, without=out)
    before = contents(out)
    run("mmmu", [str(TINY), *arguments, "--batch-size", "2"])
    assert "questions," not in capsys.readouterr().err
    assert contents(out) == before
