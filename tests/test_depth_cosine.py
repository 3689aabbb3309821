"""What layers do to a text, against slow obvious references; what is suggested, compared and drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import TINY
from depth_case import language, llama, logits, read, status, written
from language_case import as_llama
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from yivl.cli import main
from yivl.depth.comparison import compare
from yivl.depth.cosine import QUIZ, Profile, Text, measure
from yivl.depth.expand import Original, expand
from yivl.depth.expansion import repeated, solar
from yivl.depth.suggestion import suggest
from yivl.language_model import load

STORY = "The old man and the sea: a long story of 84 days, in English and 中文。 " * 20
BITS = Text(QUIZ, QUIZ)


def states(model: PreTrainedModel, ids: list[int]) -> list[NDArray[np.float64]]:
    """The embeddings, then what each layer gives: [T, H] each; transformers' last one has the final norm applied, so
    that is taken off."""
    model.model.norm = nn.Identity()
    with torch.inference_mode():
        found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [state[0].double().numpy() for state in found]


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cosines_are_those_of_the_hidden_states(dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    found = measure(language(model), BITS)
    ids = language(model).tokenizer(QUIZ).input_ids
    hidden = states(model, ids)
    expected = [[cosine(hidden[n][t], hidden[n + 1][t]) for n in range(6)] for t in range(len(ids))]
    assert np.allclose(found.by_token, expected, atol=1e-5)
    assert np.allclose(found.layers, np.mean(expected[1:], axis=0), atol=1e-5)
    assert found.count == len(ids) - 1 and "".join(found.tokens).split() == QUIZ.split()
    assert np.ptp(found.layers) > 0.02  # the model's layers differ


def test_a_long_text_is_read_in_windows_whose_first_tokens_do_not_count() -> None:
    model = llama()
    found = measure(language(model), Text("story", STORY), window=50)
    ids = language(model).tokenizer(STORY).input_ids
    windows = [ids[start : start + 50] for start in range(0, len(ids), 50)]
    values: list[list[float]] = [[] for _ in range(6)]
    for window in windows:
        hidden = states(model, window)
        for layer in range(6):
            values[layer] += [cosine(hidden[layer][t], hidden[layer + 1][t]) for t in range(1, len(window))]
    assert np.allclose(found.layers, [np.mean(one) for one in values], atol=1e-5)
    assert found.count == len(ids) - len(windows) and len(found.by_token) == 50


def test_a_window_is_by_default_the_models_context() -> None:
    found = measure(language(llama()), Text("story", STORY))
    ids = language(llama()).tokenizer(STORY).input_ids
    assert len(ids) > 256 and found.count == len(ids) - math.ceil(len(ids) / 256)


def test_each_window_begins_as_the_tokenizer_begins_a_text() -> None:
    model = language(llama(bos_token_id=1))
    model.tokenizer.add_bos_token = True
    ids = model.tokenizer(STORY).input_ids
    if ids[0] != model.tokenizer.bos_token_id:
        pytest.fail("the tokenizer begins with nothing")
    found = measure(model, Text("story", STORY), window=50)
    assert found.count == len(ids) - 1


def test_the_models_value_in_both_readings() -> None:
    layers = (0.1, 0.5, 0.8, 0.9, 0.7, 0.3, 0.2)
    profile = Profile(layers=layers, tokens=(), by_token=(), count=1)
    assert profile.value() == pytest.approx((0.5 + 0.8 + 0.9 + 0.7) / 4)
    assert profile.value(first=2) == pytest.approx((0.8 + 0.9 + 0.7) / 3)
    assert Profile(layers=layers[:3], tokens=(), by_token=(), count=1).value() is None


@pytest.mark.parametrize("layout", ["released", "llama"])
def test_a_vision_language_models_language_part_is_measured(tmp_path: Path, layout: str) -> None:
    folder = TINY if layout == "released" else as_llama(TINY, tmp_path)
    found = measure(load(folder, "cpu"), BITS)
    hidden = states(read(as_llama(TINY, tmp_path)), load(TINY, "cpu").tokenizer(QUIZ).input_ids)
    expected = [cosine(hidden[n][3], hidden[n + 1][3]) for n in range(3)]
    assert np.allclose(found.by_token[3], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "window", "message"),
    [("", None, "has 0 tokens"), ("a b c", 1, "a window of 1 tokens"), ("a b c", 257, "reads 256 at most")],
)
def test_what_can_not_be_measured_is_refused(text: str, window: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(language(llama()), Text("x", text), window)


def test_memory_is_that_of_a_forward_pass() -> None:
    """All hidden states would take 1024 tokens x 2048 x 4 bytes for each of 32 layers: 268 MB."""
    model = llama(
        32, hidden_size=2048, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        max_position_embeddings=1024,
    )  # fmt: skip
    text = Text("long", STORY * 2)
    ids = language(model).tokenizer(text.content, return_tensors="pt").input_ids[:, :1024]

    def peak(call: Callable[[], object]) -> int:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak up to here
        call()
        return status("VmHWM")

    def forward(**asked: bool) -> None:
        with torch.inference_mode():
            model.model(ids, use_cache=False, **asked)

    measure(language(model), text)  # allocates what stays
    measured, plain = peak(lambda: measure(language(model), text)), peak(forward)
    assert ids.shape[1] == 1024 and measured < plain + 120e6 < peak(lambda: forward(output_hidden_states=True))


def test_the_block_with_the_highest_mean_is_suggested() -> None:
    profile = Profile(layers=(0.2, 0.9, 0.6, 0.8, 0.85, 0.7), tokens=(), by_token=(), count=7)
    found = suggest(profile, 2)
    assert (found.expansion.start, found.expansion.end) == (3, 5)
    assert found.reason == (
        "Layers 3 to 4: the mean of their cosines is 0.8250, the highest of 5 blocks of 2 layers, on 7 tokens "
        "(next 4:6 with 0.7750, last 0:2 with 0.5500)"
    )
    assert suggest(profile, 6).reason.endswith("the highest of 1 blocks of 6 layers, on 7 tokens")
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"no block of {size} layers: the model has 6, so 1 to 6"):
            suggest(profile, size)


def test_a_comparison_is_what_the_written_models_do(tmp_path: Path) -> None:
    model = llama()
    before = logits(model)
    text = Text("story", STORY)
    expansions = {"late": repeated("2:5", 6), "solar": solar(6)}
    own, *found = compare(language(model), text, expansions, window=200)
    assert torch.equal(logits(model), before) and len(model.model.layers) == 6
    ids = language(model).tokenizer(STORY).input_ids
    windows = [torch.tensor([ids[start : start + 200]]) for start in range(0, len(ids), 200)]

    def reference(whole: PreTrainedModel) -> tuple[float, torch.Tensor]:
        losses, choices = [], []
        for window in windows:
            rows = logits(whole, window)[0, :-1].double().log_softmax(-1)
            losses.append(-rows[range(len(rows)), window[0, 1:]])
            choices.append(rows.argmax(-1))
        return float(torch.cat(losses).mean().exp()), torch.cat(choices)

    perplexity, choices = reference(model)
    assert own.perplexity == pytest.approx(perplexity, rel=1e-5) and own.agreement == 1 and own.copied is None
    written(model, tmp_path / "a")
    for outcome in found:
        assert outcome.expansion
        out = tmp_path / outcome.name
        expand(Original(tmp_path / "a"), outcome.expansion, out, shard_bytes=10**9, told=lambda line: None)
        deeper = read(out)
        perplexity, other = reference(deeper)
        assert outcome.perplexity == pytest.approx(perplexity, rel=1e-5)
        assert outcome.agreement == pytest.approx(float((other == choices).float().mean()))
        profile = measure(language(deeper), text, 200)
        assert outcome.profile.layers == pytest.approx(profile.layers, rel=1e-6)
        new = [profile.layers[layer] for layer in outcome.expansion.new]
        block = range(outcome.expansion.start, outcome.expansion.end)
        assert outcome.block == pytest.approx(np.mean([own.profile.layers[layer] for layer in block]))
        assert outcome.copied == pytest.approx(np.mean(new)) and 0 < outcome.agreement < 1


def test_repeating_layers_that_do_nothing_changes_nothing() -> None:
    model = llama(layers=8)
    for layer in (3, 4):
        model.model.layers[layer].self_attn.o_proj.weight.data.zero_()
        model.model.layers[layer].mlp.down_proj.weight.data.zero_()
    own, same, other = compare(
        language(model), Text("story", STORY), {"same": repeated("3:5", 8), "other": repeated("2:4", 8)}
    )
    assert same.copied == pytest.approx(1) == same.block and same.agreement == 1 and same.perplexity == own.perplexity
    assert other.agreement < 1 and other.copied is not None and other.copied < 1


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three models as a trainer leaves them, and texts."""
    folder = tmp_path_factory.mktemp("run")
    for number in (100, 200, 400):
        written(llama(seed=number), folder / f"step-{number}" / "model")
    (folder / "english.txt").write_text("All happy families are alike. " * 3)
    (folder / "chinese.txt").write_text("有朋来")
    (folder / "code.py").write_text("f($x$) <_a")
    yield folder


def drawn(file: Path) -> str:
    """All text of a figure."""
    root = ElementTree.parse(file).getroot()
    return " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))


def test_a_model_is_measured_on_the_documents_text(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, record = checkpoints / "one", checkpoints / "one.json"
    folder = checkpoints / "step-100" / "model"
    arguments = [str(folder), "--device", "cpu", "--json", str(record), "--figures", str(figures)]
    assert main(["depth", "measure", *arguments]) == 0
    said = capsys.readouterr().out
    found = measure(load(folder, "cpu"), BITS)
    value = found.value()
    assert value and f"| {folder} | {value:.3f} |" in " ".join(said.split())
    assert f"| 5 | {found.layers[5]:.3f} | {found.by_token[0][5]:.3f}" in " ".join(said.split())
    kept = json.loads(record.read_text())["models"][str(folder)][QUIZ]
    assert kept["value"] == value and np.allclose(kept["by_token"], found.by_token)
    assert [path.name for path in figures.iterdir()] == ["tokens-write-a-quiz-about-bits.svg"]
    text = drawn(figures / "tokens-write-a-quiz-about-bits.svg")
    assert "layer" in text and all(token.strip() in text for token in found.tokens)
    before = (figures / "tokens-write-a-quiz-about-bits.svg").read_bytes()
    assert main(["depth", "measure", *arguments]) == 0
    assert (figures / "tokens-write-a-quiz-about-bits.svg").read_bytes() == before


def test_checkpoints_are_measured_on_several_texts(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(checkpoints / f"step-{number}" / "model") for number in (100, 200, 400)]
    texts = [str(checkpoints / name) for name in ("english.txt", "chinese.txt", "code.py")]
    figures, record = checkpoints / "all", checkpoints / "all.json"
    arguments = [*models, "--file", *texts, "--skip-first", "2", "--figures", str(figures), "--json", str(record)]
    assert main(["depth", "measure", *arguments, "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "layers without the first 2 and the last two | english | chinese | code" in said
    chinese = Text("chinese", (checkpoints / "chinese.txt").read_text())
    expected = [measure(load(Path(model), "cpu"), chinese).value(2) for model in models]
    kept = json.loads(record.read_text())
    assert list(kept["models"]) == ["100", "200", "400"] and kept["left_out"] == {"first": 2, "last": 2}
    assert [one["chinese"]["value"] for one in kept["models"].values()] == expected
    values = drawn(figures / "values.svg")
    assert all(name in values for name in ("english", "chinese", "code", "300"))  # 300: steps on a scale
    assert sorted(path.name for path in figures.iterdir()) == [
        "layers-chinese.svg", "layers-code.svg", "layers-english.svg",
        "tokens-chinese.svg", "tokens-code.svg", "tokens-english.svg", "values.svg",
    ]  # fmt: skip
    assert "来" in drawn(figures / "tokens-chinese.svg")
    assert all(sign in drawn(figures / "tokens-code.svg") for sign in "$<_")


def test_expansions_are_compared(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, record = checkpoints / "compared", checkpoints / "compared.json"
    folder = str(checkpoints / "step-100" / "model")
    blocks = ["--repeat", "2:5", "--repeat", "1:4", "--solar", "--suggest", "3"]
    arguments = [folder, *blocks, "--file", str(checkpoints / "english.txt"), "--device", "cpu"]
    assert main(["depth", "compare", *arguments, "--json", str(record), "--figures", str(figures)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    kept = json.loads(record.read_text())
    late = kept["repeat 2:5"]
    assert (
        f"| repeat 2:5 | 9 | 5 to 7 | {late['block_cosine']:.3f} | {late['copy_cosine']:.3f}" in said
        and "Layers" in said
    )
    assert late["layers"] == [0, 1, 2, 3, 4, 2, 3, 4, 5] and late["new"] == [5, 6, 7]
    assert list(kept)[:4] == ["original", "repeat 2:5", "repeat 1:4", "solar 1:5"] and "suggested" in list(kept)[4]
    assert kept["original"]["agreement"] == 1 and 0 <= late["agreement"] < 1
    assert {"blocks.svg", "layers.svg", "tokens-repeat-2-5.svg", "tokens-solar-1-5.svg"} <= {
        file.name for file in figures.iterdir()
    }
    assert "repeat 1:4" in drawn(figures / "layers.svg")
    assert "same next token" in drawn(figures / "blocks.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "nowhere"], "no model folder nowhere"),
        (["measure", "MODEL", "MODEL"], "a model is named twice"),
        (["measure", "MODEL", "--file", "nothing.txt"], "No such file or directory: 'nothing.txt'"),
        (["measure", "MODEL", "--file", "IMAGE"], "is no text in UTF-8"),
        (["measure", "MODEL", "--text", "a b", "--text", "a b"], "two texts are called 'a b'"),
        (["measure", "MODEL", "--dtype", "float31"], "float31"),
        (["compare", "MODEL", "--repeat", "1:2"], "say what to read"),
        (["compare", "MODEL", "--text", "a b c"], "say what to compare"),
        (["compare", "MODEL", "--text", "a b c", "--repeat", "3:9"], "A:B needs 0 <= A < B <= 6"),
        (["compare", "MODEL", "--text", "a b c", "--suggest", "7"], "no block of 7 layers"),
    ],
)
def test_mistakes_are_told_in_a_line(
    checkpoints: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"MODEL": str(checkpoints / "step-100" / "model"), "IMAGE": str(TINY / "image_0.png")}
    given = [names.get(argument, argument) for argument in arguments]
    assert main(["depth", *given, "--device", "cpu"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("yivl: ") and message in last
