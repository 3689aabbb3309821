"""Needle in a haystack for models in folders: their prompts, what they are given to read, the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from language_case import as_llama
from needle_case import files
from processes import torchrun

from eval.needle.__main__ import main
from eval.needle.languages import LANGUAGES
from eval.needle.model import FolderReader
from yivl import YiVL, prompt, question


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's language model as a folder of transformers' own."""
    return as_llama(TINY, tmp_path_factory.mktemp("llama"))


def test_a_vision_language_model_is_asked_in_its_own_prompt() -> None:
    assert FolderReader(TINY).form == "chat"
    assert FolderReader(TINY).frame("Where?", "Here") == f"{prompt.text(question(None, 'Where?'))} Here"
    assert FolderReader(TINY, form="completion").frame("Where?\n", "Here") == "Where?\nHere"


@pytest.mark.parametrize("form", ["chat", "completion"])
def test_a_vision_language_model_reads_as_the_whole_model_does(form: str, tiny: YiVL) -> None:
    reader = FolderReader(TINY, form=form, device="cpu")
    text = reader.frame("Which of the 200 is 最大的?\n", "It is")
    ids = torch.tensor([tiny.tokenizer(text, add_special_tokens=False).input_ids])
    written = tiny.model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert reader.complete(text, 20) == tiny.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_language_model_reads_as_the_language_part_that_it_was_taken_from(llama: Path) -> None:
    ours, bare = FolderReader(TINY, form="completion", device="cpu"), FolderReader(llama, device="cpu")
    assert bare.form == "completion" and bare.limit == ours.limit == 4096
    text = ours.frame("A long story. " * 50, "It ends with")
    assert bare.length(text) == ours.length(text)
    assert bare.complete(text, 20) == ours.complete(text, 20)


def test_a_chat_template_frames_the_question(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chat template; ask it in the form 'completion'"):
        FolderReader(llama, form="chat")
    folder = as_llama(TINY, tmp_path, chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}>")
    assert FolderReader(folder).form == "chat"
    assert FolderReader(folder).frame("Where?", "Here") == "<user>Where?>Here"
    assert FolderReader(folder, form="completion").frame("Where?\n", "Here") == "Where?\nHere"


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "llama"])
def test_a_prompt_is_read_at_once_with_logits_of_its_end_alone(ours: bool, llama: Path) -> None:
    reader = FolderReader(TINY if ours else llama, device="cpu")
    model = reader._loaded.model
    rows: list[int] = []
    masks: list[Any] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    reader.complete("A long story. " * 100, 3)
    assert rows == [1] * len(rows) and len(rows) == len(masks) <= 3
    assert masks[0] is None  # one of all pairs would take 80 GB at 200,000 tokens


def test_a_folders_sampling_is_set_aside(llama: Path, tmp_path: Path) -> None:
    folder = as_llama(TINY, tmp_path)
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    texts = ["One two three one two three one", "猫猫猫猫"]
    plain, wild = FolderReader(llama, device="cpu"), FolderReader(folder, device="cpu")
    assert [wild.complete(text, 15) for text in texts] == [plain.complete(text, 15) for text in texts]


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "llama"])
def test_the_command_line(ours: bool, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--lengths", "900", "700", "--depths", "0", "100", "--device", "cpu", "--out", str(tmp_path)]
    arguments = [str(TINY if ours else llama), *grid]
    main(arguments)
    said = capsys.readouterr().out
    for language in LANGUAGES.values():
        assert f"Needle in a haystack, {language.title}: " in said
        record = json.loads((tmp_path / language.name / "result.json").read_text())
        assert record["grid"]["lengths"] == [700, 900]
        assert (tmp_path / language.name / "heatmap.png").is_file()
    before = files(tmp_path / "en")
    main([*arguments, "--language", "en"])
    assert files(tmp_path / "en") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "5000"], "reads 4096 tokens at most"),
        (["--haystack", "nowhere"], "no .txt file in nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([str(TINY), "--out", str(tmp_path), "--device", "cpu", *arguments])


@pytest.mark.slow
def test_processes_share_a_grid(tmp_path: Path) -> None:
    def measured(ranks: int, out: Path) -> dict[str, bytes]:
        arguments = ["--language", "en", "--lengths", "700", "900", "--depths", "0", "50", "100", "--out", str(out)]
        process = torchrun(ranks, "-m", "eval.needle", str(TINY), *arguments)
        assert process.wait(timeout=300) == 0, process.stderr and process.stderr.read()
        return {name: content for name, content in files(out / "en").items() if "predictions" not in name}

    assert measured(2, tmp_path / "two") == measured(1, tmp_path / "one")
