"""Text benchmarks: the report's tables, and lm-evaluation-harness itself on tiny local files."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import programs_case
import pyarrow.parquet as pq
import pytest
import text_case
import torch
import yaml
from conftest import TINY
from language_case import as_llama

from eval.benchmark import BadData
from eval.programs.humaneval import HumanEval
from eval.programs.mbpp import MBPP
from eval.programs.sandbox import Sandbox
from eval.text.__main__ import main
from eval.text.paper import TABLE_6, TABLE_8, Table, of_tasks
from eval.text.report import Result
from eval.text.run import evaluate
from yivl import YiVL, language_model

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed; make test-harness")
slow = pytest.mark.slow


# ------------------------------------------------------------------ the report's tables


def test_the_average_of_table_6_is_over_questions() -> None:
    # MMLU's test split has 4705 questions of humanities, 3153 of STEM, 3077 of social sciences and 3107 others.
    sizes = dict(zip(("Humanity", "STEM", "Social Science", "Other"), (4705, 3153, 3077, 3107), strict=True))
    titles = [column.title for column in TABLE_6.columns]
    for row in TABLE_6.rows.values():
        figures = dict(zip(titles, row, strict=True))
        mean = sum(size * (figures[title] or 0) for title, size in sizes.items()) / sum(sizes.values())
        assert figures["Average"] == pytest.approx(mean, abs=0.01)


def test_both_tables_agree_on_yi_6b() -> None:
    assert TABLE_8.rows["Yi-6B"][2] == round(TABLE_6.rows["Yi-6B 4K"][0] or 0, 1)
    assert list(TABLE_8.tasks.values()) == [25, 10, 5, 5, 5, 4, 0, 3]
    assert {len(row) for row in TABLE_8.rows.values()} == {len(TABLE_8.columns)} == {8}


def test_any_tasks_stand_beside_the_rows_that_have_them() -> None:
    table = of_tasks(("gsm8k", "boolq"), None)
    assert table.rows["Yi-9B"] == (52.3, None)
    assert dict(table.tasks) == {"gsm8k": 5, "boolq": None}
    assert [column.title for column in table.columns] == ["GSM8K", "boolq"]
    assert of_tasks(("mbpp", "humaneval"), None).rows["Yi-9B Init"] == (25.8, 12.8)
    assert not of_tasks(("boolq",), None).rows
    assert not of_tasks(("gsm8k",), 8).rows  # the report's are at five
    assert dict(of_tasks(("gsm8k",), 8).tasks) == {"gsm8k": 8}


def test_the_table_has_the_model_its_standard_errors_and_the_reports_rows() -> None:
    scores: dict[str, Any] = {
        "gsm8k": {
            "metrics": {
                "exact_match,strict-match": {"value": 0.32451, "stderr": 0.0129},
                "exact_match,flexible-extract": {"value": 0.4, "stderr": None},
            },
            "questions": 1319, "shots": 5, "version": 3.0,
        },
        "boolq": {"metrics": {"acc,none": {"value": 0.5, "stderr": None}}, "questions": 9, "shots": 0, "version": 2.0},
    }  # fmt: skip
    result = Result(
        folder=Path("out"),
        model="Yi",
        model_revision="",
        data="",
        table=of_tasks(("gsm8k", "boolq"), None),
        scores=scores,
    )
    assert result.text == (
        "| Model            | GSM8K | boolq |\n"
        "| ---------------- | ----: | ----: |\n"
        "| Yi               |  32.5 |  50.0 |\n"
        "| ± standard error |   1.3 |     - |\n"
        "| Yi-6B            |  32.5 |     - |\n"
        "| Yi-9B Init       |  31.3 |     - |\n"
        "| Yi-9B            |  52.3 |     - |\n"
        "\n"
        "- GSM8K: `gsm8k`, 5 shots, exact_match,strict-match, 1,319 questions.\n"
        "- boolq: `boolq`, 0 shots, acc, 9 questions.\n"
        "- The other rows: Yi technical report, Table 8.\n"
    )


def test_a_missing_harness_is_told_with_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in ("eval.text.harness", "eval.text.local"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'yivl\[harness\]'"):
        main([str(TINY), "--data", "nowhere", "--table6"])


# ------------------------------------------------------------------ a bare language model


def test_the_language_part_is_the_language_model_it_was_taken_from(tmp_path: Path) -> None:
    ours, bare = (language_model.load(folder, "cpu") for folder in (TINY, as_llama(TINY, tmp_path)))
    ids = torch.tensor([ours.tokenizer("Which of the two 猫 is older?", add_special_tokens=False).input_ids])
    assert torch.equal(ours.model(ids).logits, bare.model(ids).logits)
    assert bare.tokenizer("Which of the two 猫 is older?", add_special_tokens=False).input_ids == ids[0].tolist()
    assert language_model.position_limit(TINY) == language_model.position_limit(tmp_path) == 4096
    assert language_model.is_ours(TINY) and not language_model.is_ours(tmp_path)


# ------------------------------------------------------------------ the harness itself


@pytest.fixture(scope="module")
def harness() -> TaskManager:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 (installed for slow tests alone)

    return TaskManager()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's copies of the data go with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table(harness: TaskManager, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs tasks on the folder `data` in the test's own, with the harness's thousands of tasks listed once."""
    from eval.text import harness as asked  # noqa: PLC0415

    monkeypatch.setattr(asked, "TaskManager", lambda: harness)

    def evaluated(folder: Path, tasks: Table | str, tmp_path: Path, out: str = "out") -> Result:
        wanted = of_tasks(tuple(tasks.split(",")), None) if isinstance(tasks, str) else tasks
        return evaluate(folder, tmp_path / "data", wanted, tmp_path / out, batch_size=1, device="cpu")

    return evaluated


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All but MMLU and MATH."""
    folder = tmp_path / "data"
    for benchmark in (text_case.arc, text_case.hellaswag, text_case.winogrande, text_case.gsm8k):
        benchmark(folder)
    return folder


@slow
@needs_harness
def test_a_vision_language_model_scores_as_its_bare_language_model(table: Any, data: Path, tmp_path: Path) -> None:
    text_case.mmlu(data, ("virology", "philosophy"), (6,))
    tasks = "arc_challenge,hellaswag,mmlu_virology,mmlu_philosophy,winogrande,gsm8k"
    bare = table(as_llama(TINY, tmp_path / "llama"), tasks, tmp_path, "bare")
    ours = table(TINY, tasks, tmp_path, "ours")
    assert ours.scores == bare.scores
    assert {name: scores["shots"] for name, scores in ours.scores.items()} == {
        "arc_challenge": 25, "hellaswag": 10, "mmlu_virology": 0, "mmlu_philosophy": 0, "winogrande": 5, "gsm8k": 5,
    }  # fmt: skip
    assert {name: scores["questions"] for name, scores in ours.scores.items()} == {
        "arc_challenge": 6, "hellaswag": 5, "mmlu_virology": 6, "mmlu_philosophy": 6, "winogrande": 5, "gsm8k": 2,
    }  # fmt: skip


def likeliest(model: YiVL, context: str, letters: str) -> int:
    """The letter to which the model gives most, each tokenised with the whole context."""
    found = []
    start = len(model.tokenizer(context, add_special_tokens=False).input_ids)
    for letter in letters:
        ids = torch.tensor([model.tokenizer(f"{context} {letter}", add_special_tokens=False).input_ids])
        with torch.no_grad():
            logits = model.model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        found.append(float(logits.gather(1, ids[0, start:, None]).sum()))
    return max(range(len(letters)), key=found.__getitem__)


def mmlu_right(model: YiVL, data: Path, subject: str) -> list[bool]:
    """The slow way: five examples in order, then the question, as the data set's own code puts them."""
    about = subject.replace("_", " ")

    def asked(row: dict[str, Any]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row["choices"], strict=True))
        return f"{row['question']}\n{choices}Answer:"

    dev, test = (
        pq.read_table(next((data / "mmlu" / subject).glob(f"{split}-*"))).to_pylist() for split in ("dev", "test")
    )
    context = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    context += "".join(f"{asked(row)} {'ABCD'[row['answer']]}\n\n" for row in dev)
    return [likeliest(model, context + asked(row), "ABCD") == row["answer"] for row in test]


def mmlu_subjects(harness: TaskManager) -> dict[str, list[str]]:
    """By category, in the harness's order."""
    index = harness.task_index
    return {
        category: [(index[name].cfg or {})["dataset_name"] for name in sorted(index[f"{category}_tasks"].tags)]
        for category in ("mmlu_humanities", "mmlu_stem", "mmlu_social_sciences", "mmlu_other")
    }


@slow
@needs_harness
def test_mmlu_by_category_is_what_the_slow_way_finds(
    table: Any, harness: TaskManager, tiny: YiVL, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    subjects = mmlu_subjects(harness)
    everything = tuple(subject for members in subjects.values() for subject in members)
    assert len(everything) == 57
    text_case.mmlu(data, everything, sizes=(2, 3))
    found = table(TINY, TABLE_6, tmp_path)
    right = {subject: mmlu_right(tiny, data, subject) for subject in everything}
    all_right = [one for subject in everything for one in right[subject]]
    assert 0 < sum(all_right) < len(all_right) == 142
    assert found.scores["mmlu"]["metrics"]["acc,none"]["value"] == pytest.approx(sum(all_right) / 142)
    assert found.scores["mmlu"]["metrics"]["acc,none"]["stderr"] > 0
    assert found.scores["mmlu"]["questions"] == 142
    for category, members in subjects.items():
        of_category = [one for subject in members for one in right[subject]]
        score = found.scores[category]["metrics"]["acc,none"]["value"]
        assert score == pytest.approx(sum(of_category) / len(of_category))
    assert "- Average: `mmlu`, 5 shots, acc, 142 questions." in found.text
    assert "| Yi-34B 200K" in found.text


@slow
@needs_harness
def test_math_at_four_shots(table: Any, tmp_path: Path) -> None:
    text_case.math(tmp_path / "data")
    found = table(TINY, "minerva_math", tmp_path)
    assert found.scores["minerva_math"]["questions"] == 7
    assert "- MATH: `minerva_math`, 4 shots, exact_match, 7 questions." in found.text


@slow
@needs_harness
def test_missing_math_packages_are_told_before_anything_is_asked(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_case.math(tmp_path / "data")
    monkeypatch.setattr("eval.text.harness._MATH", ("math_verify", "no_such_package"))
    with pytest.raises(ValueError, match=r"needs no_such_package: pip install 'lm-eval\[math\]'"):
        table(TINY, "minerva_math", tmp_path)


@slow
@needs_harness
def test_what_is_done_is_kept_and_other_data_are_refused(
    table: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = table(TINY, "winogrande", tmp_path)
    both = table(TINY, "winogrande,hellaswag", tmp_path)
    assert both.scores["winogrande"] == first.scores["winogrande"]
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["scores"] == both.scores and record["tasks"] == {"winogrande": 5, "hellaswag": 10}
    assert record["versions"]["lm_eval"] == "0.4.13"
    assert (tmp_path / "out" / "table.md").read_text() == both.text

    def never(*arguments: Any) -> None:
        raise AssertionError("no model is needed")

    monkeypatch.setattr(language_model, "load", never)
    assert table(TINY, "winogrande,hellaswag", tmp_path).scores == both.scores
    text_case.winogrande(data, validation=6)
    with pytest.raises(ValueError, match=r"winogrande\.json is the result of another run: data was '.*', now '"):
        table(TINY, "winogrande", tmp_path)


@slow
@needs_harness
def test_json_lines_serve_as_well(table: Any, data: Path, tmp_path: Path) -> None:
    parquet = table(TINY, "winogrande", tmp_path, "parquet")
    for file in (data / "winogrande" / "winogrande_xl").glob("*.parquet"):
        lines = "".join(json.dumps(row) + "\n" for row in pq.read_table(file).to_pylist())
        file.with_name(f"{file.name.split('-')[0]}.jsonl").write_text(lines)
        file.unlink()
    assert table(TINY, "winogrande", tmp_path, "lines").scores == parquet.scores


@slow
@needs_harness
def test_wrong_files_are_named(table: Any, data: Path, tmp_path: Path) -> None:
    folder = data / "winogrande" / "winogrande_xl"
    validation = next(folder.glob("validation-*"))
    whole = validation.read_bytes()

    def fails(kind: type[Exception], message: str, task: str = "winogrande") -> None:
        with pytest.raises(kind, match=message):
            table(TINY, task, tmp_path)

    fails(ValueError, "no task or group 'winogrand'", "winogrand")
    fails(
        FileNotFoundError,
        r"no folder .*mmlu/virology; task mmlu_virology wants the files of the hub's cais/mmlu",
        "mmlu_virology",
    )
    validation.write_bytes(whole[:-9])
    fails(BadData, r"validation-00000-of-00001\.parquet: not a readable parquet file")
    rows = pq.read_table(next(folder.glob("train-*")))
    pq.write_table(rows.drop(["option2"]), validation)
    fails(BadData, r"validation-00000-of-00001\.parquet: no column option2; it has sentence, option1, answer")
    pq.write_table(rows[:0], validation)
    fails(BadData, r"validation-00000-of-00001\.parquet has no rows")
    validation.unlink()
    fails(FileNotFoundError, r"winogrande_xl has no validation-\*\.parquet; it has train")
    lines = folder / "validation.jsonl"
    lines.write_text('{"sentence": "a _", "option1": "b", "option2": "c", "answer": "1"}\n')
    fails(BadData, "splits both as .jsonl and as .parquet")
    with lines.open("a") as file:
        file.write('{"sentence": "a _", "option1"')
    fails(BadData, r"validation\.jsonl, row 1: not a JSON object")


@slow
@needs_harness
def test_the_command_line(data: Path, own_cache: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(data), "--tasks", "winogrande", "--device", "cpu", "--out", str(tmp_path / "out")]
    main([str(TINY), *arguments])
    said = capsys.readouterr().out
    assert "| Yi-6B" in said and "- Winogrande: `winogrande`, 5 shots, acc, 5 questions." in said
    with pytest.raises(SystemExit, match="no model folder nowhere"):
        main(["nowhere", *arguments])


@slow
@needs_harness
def test_table_8_is_one_command(
    harness: TaskManager, data: Path, own_cache: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text_case.mmlu(data, tuple(chain.from_iterable(mmlu_subjects(harness).values())), (2,))
    text_case.math(data)
    programs_case.humaneval(data)
    programs_case.mbpp(data)
    main([str(TINY), "--data", str(data), "--table8", "--allow-code", "--batch-size", "4", "--device", "cpu", "--out",
          str(tmp_path / "out")])  # fmt: skip
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[:7]]
    assert cells[0] == ["Model", "Arc-C", "HellaSwag", "MMLU", "Winogrande", "GSM8K", "MATH", "HumanEval", "MBPP"]
    assert cells[2][0] == str(TINY) and all(0 <= float(cell) <= 100 for cell in cells[2][1:])
    assert cells[4] == ["Yi-6B", "50.3", "74.4", "63.2", "71.3", "32.5", "4.6", "15.9", "26.3"]
    assert cells[5] == ["Yi-9B Init", "52.1", "73.3", "63.0", "69.4", "31.3", "4.1", "12.8", "25.8"]
    assert cells[6] == ["Yi-9B", "55.6", "76.4", "68.4", "73.0", "52.3", "15.9", "39.0", "54.4"]
    kept = sorted(path.name for path in (tmp_path / "out" / "tasks").iterdir())
    assert kept == ["arc_challenge.json", "gsm8k.json", "hellaswag.json", "humaneval", "mbpp", "minerva_math.json",
                    "mmlu.json", "winogrande.json"]  # fmt: skip


@slow
@needs_harness
def test_what_is_asked_for_programs_is_what_the_harness_asks(tmp_path: Path) -> None:
    import jinja2  # noqa: PLC0415 (comes with the harness)

    tasks = Path(str((find_spec("lm_eval") or pytest.fail()).origin)).parent / "tasks"
    theirs = {
        name: yaml.safe_load((tasks / name / f"{name}.yaml").read_text().replace("!function", ""))
        for name in ("humaneval", "mbpp")
    }
    sandbox = Sandbox()
    programs_case.humaneval(tmp_path)
    programs_case.mbpp(tmp_path)
    assert list(HumanEval(tmp_path, sandbox).stops) == theirs["humaneval"]["generation_kwargs"]["until"]
    ours = MBPP(tmp_path, sandbox)
    assert list(ours.stops) == theirs["mbpp"]["generation_kwargs"]["until"]
    asked, answered = (jinja2.Template(theirs["mbpp"][key]) for key in ("doc_to_text", "doc_to_target"))
    shots = [row for row in programs_case.EXAMPLES if row["task_id"] in (2, 3, 4)]
    given = [asked.render(row) + "\n" + answered.render({**row, "is_fewshot": True}) for row in shots]
    for question, row in zip(ours.questions, programs_case.MBPP, strict=True):
        # the harness's templates keep the line break at their end, which jinja2 alone takes away
        assert question.prompt == "\n\n".join([*given, asked.render(row) + "\n"])
