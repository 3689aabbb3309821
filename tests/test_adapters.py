"""LoRA and QLoRA on the language part: what is trained, what is written, and that plain peft agrees."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file
from test_training import wait_for_step
from torch import Tensor
from transformers import AutoModelForCausalLM

from data.packing import Batch, pack
from stages.engines.plain import PlainEngine
from stages.parts import Part, freeze_all_but, parameter_groups
from stages.stage import Stage
from stages.train import train
from stages.trainer import Interrupted
from yivl import Conversation, Turn, YiVL
from yivl.adapters import Adapter, adapter_parameters, add_adapter, merge, read_adapter, write_adapter
from yivl.cli import main
from yivl.encoder import Encoder, Example
from yivl.folder import write_model
from yivl.model import YiVLForConditionalGeneration
from yivl.ranks import Ranks
from yivl.settings import read
from yivl.weights import read_weights

RATES = {"projector": 1e-3, "language": 4e-3}
LORA, QLORA = Adapter(rank=4, alpha=6.0), Adapter(rank=4, alpha=6.0, four_bit=True)
BOTH = pytest.mark.parametrize("adapter", [LORA, QLORA], ids=["lora", "qlora"])
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def examples(model: YiVL) -> list[Example]:
    encoder = Encoder(model.tokenizer, patches=16, image_side=56)
    cats, other = TINY / "image_0.png", TINY / "image_1.png"
    said = [
        ("What is it?", "Two cats.", cats),
        ("图中有几只猫？", "两只猫。", other),
        ("Hi", "Hello, how are you?", None),
    ]
    return [
        encoder.encode(
            Conversation(
                turns=(Turn("human", asked, images=1 if image else 0), Turn("assistant", told)),
                images=(image,) if image else (),
            )
        )
        for asked, told, image in said
    ]


def engine_of(
    model: YiVL, adapter: Adapter, rates: dict[str, float] = RATES, precision: str = "fp32", seed: int = 0
) -> PlainEngine:
    stage = Stage(
        name="t", run="r", model=Path("m"), resolution=56, learning_rate=rates, mixture=Path("m"), global_batch=3,
        tokens_per_micro_batch=900, epochs=1, clip_norm=1.0, precision=precision, adapter=adapter,  # type: ignore[arg-type]
    )  # fmt: skip
    add_adapter(model.model, adapter, seed)
    freeze_all_but(model.model, rates)
    return PlainEngine(model.model, stage, Ranks())


def learn(engine: PlainEngine, batches: list[Batch], steps: int = 1) -> list[float]:
    """The loss before each step."""
    supervised = sum(batch.supervised for batch in batches)
    losses = []
    for _ in range(steps):
        losses.append(sum(float(part.sum()) for part in engine.backward(batches, supervised).token_losses) / supervised)
        engine.step(1.0, lambda norm: True)
    return losses


def copied(model: YiVLForConditionalGeneration) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logits(model: YiVLForConditionalGeneration, batch: Batch) -> Tensor:
    model.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found: Tensor = model(
            batch.input_ids[None], batch.pixels, position_ids=batch.position_ids[None], bounds=batch.bounds
        ).logits
    return found


@pytest.fixture
def learned(fresh_tiny: YiVL, request: pytest.FixtureRequest) -> YiVL:
    """The fixture's model with an adapter that six steps have moved."""
    learn(engine_of(fresh_tiny, request.param), [pack(examples(fresh_tiny))], steps=6)
    return fresh_tiny


LEARNED = pytest.mark.parametrize("learned", [LORA, QLORA], ids=["lora", "qlora"], indirect=True)


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_the_adapter_and_the_other_parts_with_a_rate_move(
    fresh_tiny: YiVL, adapter: Adapter, precision: str
) -> None:
    linear = [name for name in copied(fresh_tiny.model) if name.split(".")[-2] in LINEAR]
    assert len(linear) == 3 * 7
    engine = engine_of(fresh_tiny, adapter, precision=precision)
    before = copied(engine.model)
    learn(engine, [pack(examples(fresh_tiny))], steps=3)
    moved = {name for name, parameter in engine.model.named_parameters() if not torch.equal(parameter, before[name])}
    beside = {f"{name.removesuffix('.weight')}.lora_{which}.default.weight" for name in linear for which in "AB"}
    assert moved == beside | {name for name in before if name.startswith("projector.")}
    assert all(parameter.dtype == torch.float32 for parameter in engine.trained.values())


def test_each_part_moves_at_its_own_rate(fresh_tiny: YiVL) -> None:
    """Adam's first step moves every weight that has a gradient by the rate."""
    rates = {"vision": 1e-4, "projector": 2e-3, "language": 3e-3}
    engine = engine_of(fresh_tiny, LORA, rates)
    before = copied(engine.model)
    learn(engine, [pack(examples(fresh_tiny))])
    for part, name in {
        "vision": "vision.clip.conv1.weight",
        "projector": "projector.3.weight",
        "language": "language.model.layers.1.mlp.up_proj.lora_B.default.weight",
    }.items():
        change = (engine.model.get_parameter(name).detach() - before[name]).abs().median()
        assert float(change) == pytest.approx(rates[part], rel=0.01), name


@BOTH
def test_the_table_tells_the_adapter_from_the_frozen_part(fresh_tiny: YiVL, adapter: Adapter) -> None:
    own = sum(parameter.numel() for parameter in fresh_tiny.model.language.parameters())
    add_adapter(fresh_tiny.model, adapter, 0)
    table = freeze_all_but(fresh_tiny.model, RATES)
    per_layer = (64 + 64) * 2 + (64 + 32) * 2 + (64 + 192) * 3  # inputs and outputs of the seven matrices
    assert table[1:4] == [
        Part("projector", 7552, 1e-3),
        Part("language", own, None),
        Part("language, adapter", 3 * per_layer * 4, 4e-3),
    ]


def test_a_plan_on_the_meta_device_shows_the_same_table(fresh_tiny: YiVL) -> None:
    with torch.device("meta"):
        planned = YiVLForConditionalGeneration(fresh_tiny.model.config)
    for model in (planned, fresh_tiny.model):
        add_adapter(model, QLORA, 0)
    assert freeze_all_but(planned, RATES) == freeze_all_but(fresh_tiny.model, RATES)


def test_decay_is_for_the_adapters_matrices_and_nothing_frozen_is_in_the_optimiser(fresh_tiny: YiVL) -> None:
    add_adapter(fresh_tiny.model, LORA, 0)
    freeze_all_but(fresh_tiny.model, RATES)
    groups = parameter_groups(fresh_tiny.model, RATES, weight_decay=0.1)
    assert [(group["peak"], group["weight_decay"]) for group in groups] == [(1e-3, 0.1), (1e-3, 0.0), (4e-3, 0.1)]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in adapter_parameters(fresh_tiny.model).values()}  # type: ignore[attr-defined]


def test_a_new_adapter_changes_nothing_and_comes_from_the_seed_alone(fresh_tiny: YiVL) -> None:
    batch = pack(examples(fresh_tiny))
    before = logits(fresh_tiny.model, batch)
    found = []
    for seed, noise in ((7, 1), (7, 2), (8, 1)):
        model = copy.deepcopy(fresh_tiny.model)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        add_adapter(model, LORA, seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(logits(model, batch), before)
        found.append(torch.cat([matrix.detach().flatten() for matrix in adapter_parameters(model).values()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@BOTH
def test_gradients_are_those_of_each_sample_alone(fresh_tiny: YiVL, adapter: Adapter) -> None:
    engine = engine_of(fresh_tiny, adapter)
    learn(engine, [pack(examples(fresh_tiny))], steps=2)  # or half of the matrices would have no gradient

    def gradients(batches: list[Batch]) -> dict[str, Tensor]:
        engine.model.zero_grad()
        engine.backward(batches, 20)
        return {name: p.grad.clone() for name, p in engine.trained.items() if p.grad is not None}

    packed = gradients([pack(examples(fresh_tiny))])
    alone = gradients([pack([example]) for example in examples(fresh_tiny)])
    assert packed.keys() == alone.keys() == engine.trained.keys()
    scale = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, gradient in alone.items():
        assert gradient.any(), name
        assert float((packed[name] - gradient).abs().max()) < 2e-6 * scale, name


def test_a_checkpoint_holds_the_adapter_and_no_frozen_weight(fresh_tiny: YiVL) -> None:
    engine = engine_of(fresh_tiny, QLORA, {"language": 1e-3})
    batches = [pack(examples(fresh_tiny))]
    learn(engine, batches, steps=2)
    state = {name: tensor.clone() for name, tensor in engine.state()}
    weights = {name.removeprefix("weight/") for name in state if name.startswith("weight/")}
    assert weights == adapter_parameters(engine.model).keys()
    assert len(state) == 3 * len(weights) + 1
    again = engine_of(YiVL.load(TINY, device="cpu"), QLORA, {"language": 1e-3})
    again.load_state(state)
    assert learn(again, batches, steps=2) == learn(engine, batches, steps=2)


@LEARNED
def test_the_merged_model_computes_what_the_adapted_one_did(learned: YiVL, tmp_path: Path) -> None:
    batch = pack(examples(learned))
    adapted = logits(learned.model, batch)
    assert float((adapted - logits(YiVL.load(TINY, device="cpu").model, batch)).abs().max()) > 0.1
    answer = learned.ask(TINY / "image_0.png", "What is it?", max_new_tokens=8)
    merge(learned.model, torch.float32)
    write_model(learned.model, learned.tokenizer, tmp_path)
    written = YiVL.load(tmp_path, device="cpu")
    assert written.model.state_dict().keys() == YiVL.load(TINY, device="cpu").model.state_dict().keys()
    assert float((logits(written.model, batch) - adapted).abs().max()) < 1e-5
    assert written.ask(TINY / "image_0.png", "What is it?", max_new_tokens=8) == answer


def language_folder(folder: Path) -> Path:
    """A plain Llama folder of the fixture's language part."""
    weights = {n.removeprefix("language."): t for n, t in YiVL.load(TINY).model.state_dict().items() if "language" in n}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    YiVL.load(TINY).model.config.text_config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("learned", [LORA], ids=["lora"], indirect=True)
def test_plain_peft_on_the_plain_language_model_gives_the_same_logits(learned: YiVL, tmp_path: Path) -> None:
    write_adapter(learned.model, tmp_path / "adapter")
    llama = AutoModelForCausalLM.from_pretrained(language_folder(tmp_path / "llama"), dtype=torch.float32)
    ids = learned.tokenizer("图中有几只猫？ How many cats are there?", return_tensors="pt").input_ids
    with torch.no_grad():
        before = llama(ids).logits
        found = peft.PeftModel.from_pretrained(llama, str(tmp_path / "adapter")).eval()(ids).logits
        expected = learned.model(ids).logits
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(before, expected, atol=0.1)


def test_an_adapter_that_peft_made_is_merged_as_peft_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama = AutoModelForCausalLM.from_pretrained(language_folder(tmp_path / "llama"), dtype=torch.float32)
    config = peft.LoraConfig(
        r=8, use_rslora=True, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 3}, init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    adapted = peft.get_peft_model(llama, config)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert main(["merge", str(TINY), str(tmp_path / "adapter"), str(tmp_path / "out")]) == 0
    found = read_weights(tmp_path / "out")
    expected = adapted.merge_and_unload().state_dict()
    own = YiVL.load(TINY, device="cpu").model.state_dict()
    for name, tensor in found.items():
        if name.startswith("language."):
            assert torch.allclose(tensor, expected[name.removeprefix("language.")], atol=1e-6), name
            assert torch.equal(tensor, own[name]) != name.endswith(("q_proj.weight", "down_proj.weight")), name
        else:
            assert torch.equal(tensor, own[name]), name
    assert main(["merge", str(TINY), str(tmp_path / "adapter"), str(tmp_path / "out")]) == 1
    assert "already holds a model" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_with_the_reason(
    fresh_tiny: YiVL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, model: Path = TINY) -> None:
        assert main(["merge", str(model), str(folder), str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def configure(**changes: object) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    folder = tmp_path / "adapter"
    refused("it has no adapter_config.json")
    learn(engine_of(fresh_tiny, LORA), [pack(examples(fresh_tiny))], steps=2)
    write_adapter(fresh_tiny.model, folder)
    merge(fresh_tiny.model, torch.float32)
    write_model(fresh_tiny.model, fresh_tiny.tokenizer, tmp_path / "merged")
    refused("was trained on other weights of the language part", tmp_path / "merged")  # it is in there already
    configure(r=8)
    refused("lora_A.weight is [4, 64], but the model makes it [8, 64]")
    configure(r=4, target_modules=["q_proj"])
    refused("no matrix beside a decoder's layer: base_model.model.model.layers.0.mlp.down_proj.lora_A.weight")
    configure(target_modules=["query_key_value"])
    refused("does not fit the language part: Target modules")
    configure(target_modules=sorted(LINEAR), use_dora=True)
    refused("a variant of LoRA")
    peft.IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]).save_pretrained(str(folder))
    refused("an adapter of kind IA3; only LoRA can be merged")
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    refused("damaged or cut off")


def test_an_adapter_fits_its_language_part_whatever_the_rest_and_the_dtype(fresh_tiny: YiVL, tmp_path: Path) -> None:
    learn(engine_of(fresh_tiny, QLORA), [pack(examples(fresh_tiny))], steps=2)
    write_adapter(fresh_tiny.model, tmp_path)
    other = YiVL.load(TINY, dtype="bfloat16", device="cpu").model
    with torch.no_grad():
        other.projector[0].weight += 1
    read_adapter(other, tmp_path)
    for name, matrix in adapter_parameters(other).items():
        assert torch.equal(matrix, fresh_tiny.model.get_parameter(name)), name


def base_bytes(model: YiVLForConditionalGeneration) -> int:
    """What the decoder's own matrices take, with the scales and tables of packed ones."""
    total = 0
    for name, parameter in model.named_parameters():
        if name.endswith("proj.base_layer.weight"):
            total += parameter.nbytes
            if state := getattr(parameter, "quant_state", None):
                total += state.absmax.nbytes + state.state2.absmax.nbytes
    return total


def test_qlora_keeps_an_eighth_of_the_bytes_and_learns(fresh_tiny: YiVL) -> None:
    plain = engine_of(YiVL.load(TINY, device="cpu"), LORA)
    engine = engine_of(fresh_tiny, QLORA)
    assert base_bytes(engine.model) < 0.15 * base_bytes(plain.model)  # 4 bits and scales of 32
    losses = learn(engine, [pack(examples(fresh_tiny))], steps=20)
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_survive_a_look_at_held_out_samples(fresh_tiny: YiVL) -> None:
    engine = engine_of(fresh_tiny, QLORA, {"language": 1e-3})
    batch = pack(examples(fresh_tiny))
    engine.backward([batch], 10)
    before = {name: p.grad.clone() for name, p in engine.trained.items() if p.grad is not None}
    engine.model.zero_grad()
    engine.token_losses(batch)
    engine.backward([batch], 10)
    assert all(torch.equal(engine.trained[name].grad, gradient) for name, gradient in before.items())  # type: ignore[arg-type]


@pytest.mark.parametrize(("adapter", "package"), [(LORA, "peft"), (QLORA, "bitsandbytes")])
def test_a_missing_package_is_named_with_the_way_out(
    fresh_tiny: YiVL, monkeypatch: pytest.MonkeyPatch, adapter: Adapter, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does with a module that is not to be found
    with pytest.raises(ImportError, match=rf"adapters need {package}: pip install 'yivl\[adapters\]'"):
        add_adapter(fresh_tiny.model, adapter, 0)


@pytest.mark.parametrize("four_bit", [False, True], ids=["lora", "qlora"])
def test_a_stage_with_an_adapter_writes_a_whole_model_and_the_adapter(
    stage_file: Callable[..., Path], tmp_path: Path, four_bit: bool
) -> None:
    settings = {"rank": 4, "four_bit": four_bit}
    model = train(read(Stage, stage_file(learning_rate={"projector": 1e-3, "language": 1e-3}, adapter=settings)))
    found, own = read_weights(model), YiVL.load(TINY, device="cpu").model.state_dict()
    assert found.keys() == own.keys()
    changed = {name for name in found if not torch.equal(found[name], own[name])}
    assert changed == {name for name in own if name.startswith("projector.") or name.split(".")[-2] in LINEAR}
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7 * 3 and all(bool(matrix.any()) for matrix in adapter.values())
    if not four_bit:
        assert main(["merge", str(TINY), str(tmp_path / "run" / "adapter"), str(tmp_path / "merged")]) == 0
        merged = read_weights(tmp_path / "merged")
        for name in changed:
            assert torch.allclose(merged[name], found[name], atol=1e-7) != name.startswith("projector."), name


def test_a_run_with_dropout_that_was_stopped_ends_as_if_it_never_was(
    stage_file: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"learning_rate": {"language": 1e-3}, "adapter": {"rank": 4, "dropout": 0.3}, "epochs": 2}
    whole = train(read(Stage, stage_file(run=str(tmp_path / "whole"), **settings)))
    stage = read(Stage, stage_file(**settings))

    def stop() -> None:
        wait_for_step(tmp_path / "run", 3)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Interrupted):
        train(stage)
    stopper.join()
    found, expected = read_weights(train(stage)), read_weights(whole)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
