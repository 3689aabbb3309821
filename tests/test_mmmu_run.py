"""MMMU from parquet files to a table: what the model is asked, what is written, and what happens after a stop."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.mmmu import dataset
from eval.mmmu.__main__ import default_out, main
from eval.mmmu.dataset import Sample
from eval.mmmu.protocol import PROTOCOLS, YI, Protocol, find, register
from eval.mmmu.report import Result, rescore
from eval.mmmu.revision import of_folder
from eval.mmmu.run import evaluate
from eval.mmmu.subjects import DISCIPLINES, SUBJECTS
from yivl.conversation import Conversation
from yivl.images import ZERO, open_image

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "fixtures" / "yi-vl-tiny"

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [("id", pa.string()), ("question", pa.string()), ("options", pa.string()), ("explanation", pa.string())]
    + [(f"image_{n}", IMAGE) for n in range(1, 8)]
    + [("img_type", pa.string()), ("answer", pa.string()), ("topic_difficulty", pa.string())]
    + [("question_type", pa.string()), ("subfield", pa.string())]
)
"""The hub's."""


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 3), (colour % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def row(id: str, /, **fields: Any) -> dict[str, Any]:
    """A multiple-choice question with one image, `fields` apart."""
    return {
        "id": id,
        "question": "<image 1> What is it?",
        "options": "['w', 'x', 'y', 'z']",
        "image_1": {"bytes": png(), "path": f"{id}_1.png"},
        "img_type": "['Diagrams']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Anything",
    } | fields


def write(folder: Path, subject: str, rows: list[dict[str, Any]], split: str = "validation", shards: int = 1) -> Path:
    """`rows` in the hub's layout, in row groups of two; the last shard's path."""
    (folder / subject).mkdir(parents=True, exist_ok=True)
    step = -(-len(rows) // shards)
    path = folder
    for shard in range(shards):
        path = folder / subject / f"{split}-{shard:05}-of-{shards:05}.parquet"
        part = rows[shard * step : (shard + 1) * step]
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), path, row_group_size=2)
    return path


class Recorder:
    """A model that says "B" (or what `reply` makes of a question's key) and keeps what it was asked."""

    def __init__(self, reply: Any = lambda key: "B") -> None:
        self.reply = reply
        self.batches: list[list[Conversation]] = []

    def __call__(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        assert max_new_tokens == 64
        self.batches.append(list(conversations))
        return [self.reply(conversation.key) for conversation in conversations]

    @property
    def asked(self) -> dict[str, Conversation]:
        return {conversation.key: conversation for batch in self.batches for conversation in batch}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven questions: five of Music in two shards, four of Art and two of Math, one of these open."""
    folder = tmp_path / "MMMU"
    write(folder, "Music", [row(f"validation_Music_{n}", question="?" * (9 - n)) for n in range(1, 6)], shards=2)
    write(folder, "Art", [row(f"validation_Art_{n}", image_1={"bytes": png(n), "path": None}) for n in range(1, 5)])
    opened = row("validation_Math_2", question_type="open", options="[]", answer="['24/7', '3.429']")
    write(folder, "Math", [row("validation_Math_1", answer="A"), opened])
    return folder


def judge(folder: Path, out: Path, model: Any = None, **options: Any) -> Result:
    arguments: dict[str, Any] = {"split": "validation", "batch_size": 4, "model_name": "model"} | options
    return evaluate(model or Recorder(), folder, out=out, **arguments)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------ what the model is asked


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


# ------------------------------------------------------------------ scoring alone


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
