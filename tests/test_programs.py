"""HumanEval and MBPP: what is asked, what is executed, and the whole command on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import programs_case
import pytest
import torch
from conftest import TINY
from language_case import as_llama
from programs_case import HUMANEVAL, MBPP, SANITIZED
from tokenizers import decoders

from eval import predictions, results
from eval.benchmark import BadData
from eval.completion import complete
from eval.predictions import Predictions, Run
from eval.programs import mbpp
from eval.programs.benchmark import PASS_AT_1, CodeBenchmark
from eval.programs.humaneval import HumanEval
from eval.programs.sandbox import Limits, Sandbox
from eval.results import Result
from eval.text.__main__ import main
from yivl import language_model
from yivl.language_model import LanguageModel


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(limits=Limits(processor_seconds=1, seconds=20))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    programs_case.humaneval(folder)
    programs_case.mbpp(folder)
    return folder


def scored(benchmark: CodeBenchmark, completions: dict[str, str], out: Path) -> Result:
    """The result of completions that a run left."""
    run = Run(
        benchmark=benchmark.title, protocol=benchmark.protocol, split=benchmark.split, subjects=None, model="known",
        model_revision="known", data=str(benchmark.data), data_revision=benchmark.revision, max_new_tokens=512,
        batch_size=1,
    )  # fmt: skip
    predictions.begin(out, run)
    with Predictions(out) as kept:
        kept.add(completions.items())
    return results.rescore(benchmark, out)


# ------------------------------------------------------------------ what is asked and executed


def test_humanevals_solutions_pass_in_every_form_of_its_file(data: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    programs_case.humaneval_lines(tmp_path / "lines", packed=False)
    programs_case.humaneval_lines(tmp_path / "packed", packed=True)
    solutions = {row["task_id"]: row["canonical_solution"] for row in HUMANEVAL}
    for folder in (data, tmp_path / "lines", tmp_path / "packed"):
        benchmark = HumanEval(folder, sandbox)
        assert [question.prompt for question in benchmark.questions] == [row["prompt"] for row in HUMANEVAL]
        result = scored(benchmark, solutions, tmp_path / f"out-{folder.name}")
        assert result.metric == PASS_AT_1 and result.overall and result.overall.value == 1, result.verdicts


def test_mbpps_solutions_pass(data: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    full, by_hand = mbpp.MBPP(data, sandbox), mbpp.MBPP(data, sandbox, "sanitized")
    for benchmark, rows in ((full, MBPP), (by_hand, SANITIZED)):
        solutions = {str(row["task_id"]): row["code"] for row in rows}
        result = scored(benchmark, solutions, tmp_path / benchmark.split)
        assert result.overall and (result.overall.value, result.overall.questions) == (1, len(rows)), result.verdicts


def test_known_completions_get_the_score_that_one_counts(data: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    completions = {
        "HumanEval/0": "    return [n + n for n in numbers]\n\n\ndef other():\n    syntax error",
        "HumanEval/1": "    while True:\n        pass\n",
        "HumanEval/2": "    return helper(x",
        "HumanEval/3": '    return f"Hello {name}"\nprint("never runs")',
    }
    benchmark = HumanEval(data, sandbox)
    result = scored(benchmark, completions, tmp_path / "out")
    assert [verdict.score for verdict in result.verdicts] == [1, 0, 0, 0]
    assert [verdict.why for verdict in result.verdicts] == [
        "passed",
        "timeout: no end after 1 s of processor time",
        "syntax error: SyntaxError: '(' was never closed",
        "failed: AssertionError at: assert candidate('Yi') == '你好, Yi!'",
    ]
    assert result.verdicts[0].answer == "    return [n + n for n in numbers]\n\n"
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["scores"][PASS_AT_1]["Overall"]["Overall"]["value"] == 0.25
    # of 1000 means of four draws from one right and three wrong answers: (3/4)^4 = 32 % are 0, 0.4 % are 1
    assert record["scores"][PASS_AT_1]["Overall"]["Overall"]["low"] == 0
    assert record["scores"][PASS_AT_1]["Overall"]["Overall"]["high"] == 0.75
    assert (
        "0 shots, greedy, up to 512 tokens: 1 passed, 1 failed, 1 timeout, 0 out of memory, 1 syntax error."
        in (record["notes"])
    )
    by = " and ".join(sandbox.isolation["network"])
    assert f"Kept from programs: network by {by}, processes by seccomp, files by seccomp." in str(record["notes"])
    again = (tmp_path / "out" / "answers.jsonl").read_bytes()
    results.rescore(benchmark, tmp_path / "out")
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == again


def test_a_completion_ends_at_the_first_stop_wherever_it_stands(data: Path, sandbox: Sandbox) -> None:
    benchmark = HumanEval(data, sandbox)
    body = "    if x:\n        print(x)  # class\n    return x"
    for stop in ("\nclass A:", "\ndef f():", "\n# done", "\nif x:", "\nprint(1)"):
        assert benchmark.cut(f"{body}{stop}\n    return\ndef g():") == body
    assert benchmark.cut(body) == body and benchmark.cut("\n#") == ""
    assert mbpp.MBPP(data, sandbox).cut("def f():\n  pass\n[DONE]\n\nYou are") == "def f():\n  pass\n"


def test_a_missing_completion_is_wrong(data: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    result = scored(mbpp.MBPP(data, sandbox), {"11": MBPP[0]["code"]}, tmp_path / "out")
    assert [verdict.score for verdict in result.verdicts] == [1, 0, 0]
    assert result.overall and result.overall.value == pytest.approx(1 / 3)


def test_mbpps_prompt_is_the_papers(data: Path, sandbox: Sandbox) -> None:
    # google-research/google-research, mbpp/README.md: "You are an expert Python programmer, and here is your task:
    # {prompt} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n{code}\n[DONE]", with task_id 2, 3 and 4 first
    assert mbpp.MBPP(data, sandbox).questions[0].prompt == (
        "You are an expert Python programmer, and here is your task: Write a function to add 2. "
        "Your code should pass these tests:\n\nassert add(0) == 2\nassert add(1) == 3\nassert add(2) == 4\n"
        "[BEGIN]\ndef add(n):\r\n  return n + 2\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: Write a function to add 3. "
        "Your code should pass these tests:\n\nassert add(0) == 3\nassert add(1) == 4\nassert add(2) == 5\n"
        "[BEGIN]\ndef add(n):\r\n  return n + 3\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: Write a function to add 4. "
        "Your code should pass these tests:\n\nassert add(0) == 4\nassert add(1) == 5\nassert add(2) == 6\n"
        "[BEGIN]\ndef add(n):\r\n  return n + 4\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: Write a function to find the largest number. "
        "Your code should pass these tests:\n\nassert largest([1, 3, 2]) == 3\nassert largest([-1]) == -1\n"
        "assert largest([0, 0]) == 0\n[BEGIN]\n"
    )
    assert "add(10)" not in mbpp.MBPP(data, sandbox, "sanitized").questions[0].prompt


def test_wrong_files_are_named(data: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no HumanEval in .*empty; it wants openai_humaneval/"):
        (tmp_path / "empty").mkdir()
        HumanEval(tmp_path / "empty", sandbox)
    with pytest.raises(FileNotFoundError, match=r"no folder .*mbpp/full; MBPP wants mbpp/full/"):
        mbpp.MBPP(tmp_path / "empty", sandbox)
    full = data / "mbpp" / "full"
    programs_case.write(full, "prompt", [row for row in programs_case.EXAMPLES if row["task_id"] != 3])
    with pytest.raises(BadData, match=r"full: the split prompt has no task_id 3"):
        mbpp.MBPP(data, sandbox)
    programs_case.write(full, "test", MBPP[:1] * 2)
    programs_case.write(full, "prompt", programs_case.EXAMPLES)
    with pytest.raises(BadData, match=r"row 1 \(11\): .*row 0 \(11\) has the same id"):
        mbpp.MBPP(data, sandbox)
    programs_case.write(full, "test", [{**MBPP[0], "test_list": "assert True"}])
    with pytest.raises(BadData, match=r"test-00000-of-00001.parquet, entry 0: 'test_list' should be list"):
        mbpp.MBPP(data, sandbox)
    test = programs_case.humaneval(data)
    programs_case.write(test.parent, "test", [{"task_id": "a", "prompt": "b"}])
    with pytest.raises(BadData, match=r"entry 0: 'entry_point' should be str"):
        HumanEval(data, sandbox)
    test.write_bytes(test.read_bytes()[:-9])
    with pytest.raises(BadData, match="not a readable parquet file"):
        HumanEval(data, sandbox)
    packed = programs_case.humaneval_lines(data, packed=True)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(BadData, match=r"HumanEval.jsonl.gz: not packed by gzip .* cut off"):
        HumanEval(data, sandbox)


# ------------------------------------------------------------------ what a model writes


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return language_model.load(TINY, "cpu")


PROMPTS = ["def f(x):\n", "class Cat:\n    def __init__(self):\n        self.name = '猫'\n", "x", "import os\n\n\n"]


def test_batches_change_nothing(language: LanguageModel) -> None:
    alone = [complete(language, [prompt], max_new_tokens=24, stops=["[DONE]"])[0] for prompt in PROMPTS]
    assert len(set(alone)) > 1
    assert complete(language, PROMPTS, max_new_tokens=24, stops=["[DONE]"]) == alone
    assert complete(language, PROMPTS[::-1], max_new_tokens=24, stops=["[DONE]"]) == alone[::-1]


def test_a_stop_ends_a_row_early_and_loses_nothing(language: LanguageModel, data: Path, sandbox: Sandbox) -> None:
    whole = complete(language, PROMPTS, max_new_tokens=40, stops=["[DONE]"])
    benchmark = HumanEval(data, sandbox)
    for start, length in ((0, 1), (3, 2), (9, 5), (20, 9)):
        benchmark.stops = tuple(text[start : start + length] for text in whole)  # type: ignore[misc]
        written = complete(language, PROMPTS, max_new_tokens=40, stops=benchmark.stops)
        assert [benchmark.cut(text) for text in written] == [benchmark.cut(text) for text in whole]
        for text, row in zip(written, whole, strict=True):
            assert row.startswith(text.rstrip("\ufffd"))
        assert sum(map(len, written)) < sum(map(len, whole))


LEARNED = {row["task_id"]: row["canonical_solution"] for row in HUMANEVAL} | {"HumanEval/2": "    return x\n"}
"""Of the four, one is wrong."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows these by heart; half of them end there, half go on behind a stop."""
    folder = as_llama(TINY, tmp_path_factory.mktemp("learned"))
    model, tokenizer = language_model.load(folder, "cpu")
    model.float()
    rows = []
    for number, row in enumerate(HUMANEVAL):
        start = len(tokenizer(row["prompt"])["input_ids"])
        text = row["prompt"] + LEARNED[row["task_id"]]
        ids = tokenizer(text + "\nprint(1)" if number % 2 else text)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((ids, [-100] * start + ids[start:]))
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss = torch.tensor(1.0)
    for _ in range(300):
        if loss < 0.005:
            break
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.005
    model.save_pretrained(folder)
    return folder


def test_a_model_solves_what_it_knows(learned: Path, data: Path, tmp_path: Path) -> None:
    main([str(learned), "--data", str(data), "--tasks", "humaneval", "--allow-code", "--batch-size", "3", "--device",
          "cpu", "--out", str(tmp_path / "out")])  # fmt: skip
    written = predictions.read_replies(tmp_path / "out" / "tasks" / "humaneval")
    assert written == LEARNED  # with the space that they begin with
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[2].split("|")[2].strip() == "75.0"
    # the standard error of a mean: the sample deviation of 1, 1, 0, 1 is 1/2, over the root of 4
    assert table[3].split("|")[2].strip() == "25.0"


def test_a_completion_keeps_the_space_that_a_tokenizer_drops(learned: Path, data: Path, sandbox: Sandbox) -> None:
    language = language_model.load(learned, "cpu")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    language.tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)  # as Llama's is
    spaces = language.tokenizer("x    y", add_special_tokens=False)["input_ids"][1:]
    assert language.tokenizer.decode(spaces) == "   y"
    benchmark = HumanEval(data, sandbox)
    prompts = [question.prompt for question in benchmark.questions]
    written = complete(language, prompts, max_new_tokens=64, stops=benchmark.stops)
    assert [benchmark.cut(text) for text in written] == list(LEARNED.values())


def test_a_prompt_without_room_for_its_completion_is_refused(language: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens and a reply of up to 512: the model reads 4096"):
        complete(language, ["x y " * 2000], max_new_tokens=512, stops=["[DONE]"])


# ------------------------------------------------------------------ the command


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CodeBenchmark, "max_new_tokens", 24)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_command_goes_on_after_a_stop_to_the_same_bytes(
    data: Path, short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_llama(TINY, tmp_path / "llama")
    out = tmp_path / "out"
    command = [str(folder), "--data", str(data), "--tasks", "humaneval,mbpp,mbpp_sanitized", "--allow-code"]
    command += ["--batch-size", "2", "--device", "cpu", "--out", str(out)]
    main(command)
    said = capsys.readouterr().out
    table = (out / "table.md").read_text()
    assert table in said
    assert [cell.strip() for cell in table.splitlines()[0].split("|")[2:5]] == ["HumanEval", "MBPP", "mbpp_sanitized"]
    assert "| Yi-9B Init" in table and "12.8 | 25.8 |" in table and "39.0 | 54.4 |" in table
    assert "- HumanEval: `humaneval`, 0 shots, pass@1, 4 questions.\n" in table
    assert "- MBPP: `mbpp`, 3 shots, pass@1, 3 questions.\n" in table
    record = json.loads((out / "result.json").read_text())
    assert record["scores"]["mbpp"]["isolation"]["processes"] == ["seccomp"]
    assert record["scores"]["mbpp"]["metrics"]["pass@1"]["stderr"] == 0  # a random model solves nothing
    whole = files(out)
    for name, rows in (("humaneval", HUMANEVAL), ("mbpp", MBPP), ("mbpp_sanitized", SANITIZED)):
        kept = out / "tasks" / name
        lines = (kept / "predictions.jsonl").read_bytes().splitlines(keepends=True)
        assert len(lines) == len(rows) and (kept / "index.html").is_file()
        (kept / "predictions.jsonl").write_bytes(b"".join(lines)[: -len(lines[-1]) // 2])
        (kept / "result.json").unlink()
    main(command)
    assert files(out) == whole

    monkeypatch.setattr(language_model, "load", lambda *arguments: pytest.fail("all is answered"))
    main(command)
    assert files(out) == whole
    programs_case.write(data / "mbpp" / "full", "test", MBPP[:2])
    with pytest.raises(SystemExit, match=r"holds the replies of another run.* data was '"):
        main(command)


def test_a_vision_language_model_completes_as_its_language_model_without_the_harness(
    data: Path, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    folders = {"bare": as_llama(TINY, tmp_path / "llama"), "ours": TINY}
    for name, folder in folders.items():
        main([str(folder), "--data", str(data), "--tasks", "humaneval", "--allow-code", "--device", "cpu", "--out",
              str(tmp_path / name)])  # fmt: skip
    bare, ours = (tmp_path / name / "tasks" / "humaneval" / "predictions.jsonl" for name in folders)
    assert bare.read_bytes() == ours.read_bytes()


def test_programs_are_run_only_when_that_is_allowed(data: Path, tmp_path: Path) -> None:
    command = [str(TINY), "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"humaneval: programs that the model writes are executed; say --allow-code"):
        main([*command, "--tasks", "humaneval"])
    with pytest.raises(SystemExit, match=r"humaneval, mbpp: programs .* or name other --tasks"):
        main([*command, "--table8"])
    with pytest.raises(SystemExit, match="mbpp has 3 examples before each problem, not 5"):
        main([*command, "--tasks", "mbpp", "--shots", "5", "--allow-code"])
    assert not (tmp_path / "out").exists()
