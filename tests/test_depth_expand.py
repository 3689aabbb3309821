"""Deeper models: which layers they have, and that their folders hold exactly those."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY
from depth_case import TOKENIZER, in_a_fork, llama, logits, read, same, status, written
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from yivl import YiVL
from yivl.cli import main
from yivl.depth.expand import Original, expand
from yivl.depth.expansion import repeated, solar
from yivl.depth.parameters import parameters
from yivl.folder import read_model, write_model

ROOT = Path(__file__).resolve().parent.parent


def expanded(
    model: Path, out: Path, block: str, shard_bytes: int = 10**9, told: Callable[[str], None] = lambda line: None
) -> Path:
    original = Original(model)
    expand(original, repeated(block, original.depth), out, shard_bytes=shard_bytes, told=told)
    return out


def by_hand(model: torch.nn.Module, layers: list[int]) -> dict[str, torch.Tensor]:
    """What the deeper model's tensors must be."""
    own = model.state_dict()
    named = {name: tensor for name, tensor in own.items() if ".layers." not in name}
    for place, layer in enumerate(layers):
        start = f"model.layers.{layer}."
        named |= {
            f"model.layers.{place}.{name.removeprefix(start)}": tensor
            for name, tensor in own.items()
            if name.startswith(start)
        }
    return named


def test_12_to_28_of_32_layers_are_yi_9bs() -> None:
    yi = repeated("12:28", 32)
    assert list(yi.layers) == [*range(28), *range(12, 32)] and len(yi.layers) == 48
    assert list(yi.new) == list(range(28, 44))
    assert [yi.layers[layer] for layer in yi.new] == list(range(12, 28))


@pytest.mark.parametrize(("depth", "first", "second"), [(32, 24, 8), (30, 23, 7), (60, 45, 15), (4, 3, 1)])
def test_solars_copies_lack_their_last_and_first_quarter(depth: int, first: int, second: int) -> None:
    assert list(solar(depth).layers) == [*range(first), *range(second, depth)]


@pytest.mark.parametrize("block", ["28:12", "12:33", "5:5"])
def test_impossible_blocks_are_refused_with_the_possible_ones(block: str) -> None:
    with pytest.raises(ValueError, match=rf"{block}.*layers 0 to 31, so A:B needs 0 <= A < B <= 32"):
        repeated(block, 32)


@pytest.mark.parametrize("block", ["12", "12-28", "a:b", "-4:8", "12:28:2"])
def test_what_is_no_block_is_refused(block: str) -> None:
    with pytest.raises(ValueError, match="write A:B, as 12:28 for layers 12 to 27"):
        repeated(block, 32)


def test_yi_9b_has_8_83_b_parameters() -> None:
    """0.26 *2 + 8.31 = 8.83 B (the Yi-9B blog)."""
    shapes = yaml.safe_load((ROOT / "configs/model/yi-vl-6b.yaml").read_text())["language"]["config"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shapes | {"num_hidden_layers": 48}))
    assert str(parameters({n: p.shape for n, p in model.named_parameters()})) == "0.26 x 2 + 8.31 = 8.83 B"


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_counted_from_the_files_are_the_models(tmp_path: Path, tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    original = Original(written(model, tmp_path))
    assert original.parameters(original.tensors).total == model.num_parameters()
    deeper = original.expanded(repeated("1:4", 6))
    assert original.parameters(deeper).total == llama(layers=9, tie_word_embeddings=tied).num_parameters()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_a_deeper_folder_is_the_model_put_together_by_hand(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    model = llama(tie_word_embeddings=tied).to(dtype)
    found = read(expanded(written(model, tmp_path / "a"), tmp_path / "b", "1:5"))
    layers = [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert same(found.state_dict(), by_hand(model, layers))
    reference = llama(layers=10, tie_word_embeddings=tied)
    reference.load_state_dict(by_hand(model, layers), assign=True)
    assert torch.equal(logits(found), logits(reference))
    assert not torch.equal(logits(found), logits(model))


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    model = llama()
    folder = written(model, tmp_path / "a", max_shard_size="300KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    out = expanded(folder, tmp_path / "b", "2:6", shard_bytes=200_000)
    shards = sorted(out.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    for shard in shards:
        with safe_open(shard, "pt") as tensors:
            names = list(tensors.keys())
            assert tensors.metadata() == {"format": "pt"}
        sizes = [tensor.nbytes for tensor in load_file(shard).values()]
        assert sum(sizes) <= 200_000 or len(sizes) == 1  # the embeddings alone have more
        held |= dict.fromkeys(names, shard.name)
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in read(out).state_dict().values())
    assert same(read(out).state_dict(), by_hand(model, [*range(6), *range(2, 6)]))


def test_tensors_of_several_dtypes_lie_where_they_can_be_read(tmp_path: Path) -> None:
    """A number of 2 bytes before one of 4 would leave the second out of line."""
    folder = written(llama(), tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("q_proj.weight"):
            weights[name] = weights[name].bfloat16()[:3, :3].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = load_file(expanded(folder, tmp_path / "b", "0:2") / "model.safetensors")
    assert torch.equal(
        found["model.layers.2.self_attn.q_proj.weight"], weights["model.layers.0.self_attn.q_proj.weight"]
    )
    assert torch.equal(found["model.norm.weight"], weights["model.norm.weight"])


def test_everything_else_stays_as_it_was(tmp_path: Path) -> None:
    folder = written(llama(rope_parameters={"rope_type": "default", "rope_theta": 5e6}), tmp_path / "a")
    (folder / "generation_config.json").write_text('{"do_sample": true}')
    (folder / "optimizer.pt").write_bytes(b"large")
    (folder / "global_step9").mkdir()
    out = expanded(folder, tmp_path / "b", "1:4")
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, out))
    assert after == before | {"num_hidden_layers": 9}
    for name in (*TOKENIZER, "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {
        *TOKENIZER, "generation_config.json", "config.json", "model.safetensors",
    }  # fmt: skip
    assert (
        AutoTokenizer.from_pretrained(out)("Hello").input_ids
        == AutoTokenizer.from_pretrained(folder)("Hello").input_ids
    )


def test_lists_by_layer_follow_the_layers(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Qwen2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, use_sliding_window=True, sliding_window=8, layer_types=kinds,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "a")
    found = read(expanded(tmp_path / "a", tmp_path / "b", "1:4"))
    assert found.config.layer_types == [kinds[layer] for layer in (0, 1, 2, 3, 1, 2, 3)]
    assert logits(found).isfinite().all()


@pytest.mark.parametrize("layout", ["yivl", "released"])
def test_of_a_vision_language_model_the_language_part_is_expanded(tmp_path: Path, tiny: YiVL, layout: str) -> None:
    folder = TINY
    if layout == "yivl":
        folder = tmp_path / "a"
        write_model(tiny.model, tiny.tokenizer, folder)
    out = expanded(folder, tmp_path / "b", "0:2")
    found = read_model(out)
    own = tiny.model
    assert same(found.language.state_dict(), by_hand(own.language, [0, 1, 0, 1, 2]))
    assert found.vision and found.projector and own.vision and own.projector
    assert same(found.vision.state_dict(), own.vision.state_dict())
    assert same(found.projector.state_dict(), own.projector.state_dict())
    assert YiVL.load(out, device="cpu").ask(None, "Hello?", max_new_tokens=3) is not None
    original = Original(folder)
    assert original.parameters(original.tensors).total == own.language.num_parameters()


def test_memory_is_that_of_a_block_of_bytes(tmp_path: Path) -> None:
    """Of a model of 136 MB, with a largest tensor of 16."""
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(8)]
    weights = {name: torch.full((2000, 2000), number, dtype=torch.float32) for number, name in enumerate(names)}
    weights["model.embed_tokens.weight"] = torch.zeros(1000, 2000)
    folder = tmp_path / "large"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 8}')
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak up to here
    expanded(folder, tmp_path / "out", "2:6", shard_bytes=10**8)
    growth = status("VmHWM") - before
    written_bytes = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert written_bytes > 190e6
    assert growth < 16e6


def test_what_exists_is_not_written_over(tmp_path: Path) -> None:
    folder = written(llama(), tmp_path / "a")
    (tmp_path / "empty").mkdir()
    expanded(folder, tmp_path / "empty", "1:4")
    for taken in (tmp_path / "empty", folder, folder / "config.json"):
        with pytest.raises(ValueError, match="is there already and not empty; choose another folder"):
            expanded(folder, taken, "1:4")


def test_a_kill_leaves_no_folder_and_the_next_run_writes_it(tmp_path: Path) -> None:
    folder, out = written(llama(), tmp_path / "a"), tmp_path / "out"
    killed = in_a_fork(lambda: expanded(folder, out, "1:4", 300_000, lambda line: os.kill(os.getpid(), signal.SIGKILL)))
    assert killed == -signal.SIGKILL and not out.exists()
    assert same(read(expanded(folder, out, "1:4")).state_dict(), by_hand(read(folder), [0, 1, 2, 3, 1, 2, 3, 4, 5]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_a_full_disk_leaves_no_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, out = written(llama(), tmp_path / "a"), tmp_path / "out"

    def run() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        return main(["depth", "expand", str(folder), str(out), "--repeat", "1:4"])

    assert in_a_fork(run) == 1 and "File too large" in capfd.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"no header at all" + bytes(100))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layers.3." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def other_depth(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 8}))


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_a_shard(folder: Path) -> None:
    index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged or cut off"),
        (garbled, "is damaged or cut off"),
        (without_weights, r"no safetensors weights in .*save_pretrained\(OUT\)"),
        (without_a_layer, "no Llama-architecture model"),
        (other_depth, "config.json says num_hidden_layers 8, but there are weights of 6"),
        (without_config, "it has no config.json"),
        (without_a_shard, "model-00001-of-00001.safetensors is missing"),
    ],
)
def test_broken_models_are_refused(tmp_path: Path, damage: Any, message: str) -> None:
    folder = written(llama(), tmp_path / "a")
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message):
        expanded(folder, tmp_path / "out", "1:4")
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(llama(layers=8), tmp_path / "a")
    assert main(["depth", "expand", str(folder), "--repeat", "3:7"]) == 0
    said = capsys.readouterr().out
    assert "8 layers, 0.15 x 2 + 0.30 = 0.60 M parameters" in said
    assert "layers 3 to 6 twice: 12 layers, 7 to 10 new" in said
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # without OUT it is only said
    out = tmp_path / "out"
    assert main(["depth", "expand", str(folder), str(out), "--solar", "--shard-gb", "0.0005"]) == 0
    assert same(read(out).state_dict(), by_hand(read(folder), [*range(6), *range(2, 8)]))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert main(["depth", "expand", str(folder), str(out), "--solar"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"yivl: {out} is there already")
    with pytest.raises(SystemExit):
        main(["depth", "expand", str(folder), str(out)])
    assert "one of the arguments --repeat --solar --suggest is required" in capsys.readouterr().err


def test_a_block_is_suggested_and_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = llama(layers=8)
    for layer in (4, 5):  # layers that do nothing
        model.model.layers[layer].self_attn.o_proj.weight.data.zero_()
        model.model.layers[layer].mlp.down_proj.weight.data.zero_()
    folder, out = written(model, tmp_path / "a"), tmp_path / "out"
    assert main(["depth", "expand", str(folder), str(out), "--suggest", "2", "--device", "cpu"]) == 0
    assert "Layers 4 to 5: the mean of their cosines is 1.0000, the highest of 7 blocks" in capsys.readouterr().out
    assert torch.equal(logits(read(out)), logits(read(folder)))  # so their repetition does nothing either


def test_a_gguf_file_is_to_be_unpacked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("expand", "measure", "compare"):
        extra = [] if part == "measure" else ["--repeat", "1:2"]
        assert main(["depth", part, str(tmp_path / "m.gguf"), "--text", "a b", *extra]) == 1
        assert "yivl depth unpack" in capsys.readouterr().err


def test_what_is_no_gguf_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "m.gguf", tmp_path / "out"
    assert main(["depth", "unpack", str(file), str(out)]) == 1
    assert f"no file {file}" in capsys.readouterr().err
    file.write_text("no such thing")
    assert main(["depth", "unpack", str(file), str(out)]) == 1
    assert "GGUF" in capsys.readouterr().err.splitlines()[-1] and not out.exists()
