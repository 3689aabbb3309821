"""Recomputation changes memory, and nothing else.

Run by torchrun, this file is the training under ZeRO-3 that one of its tests compares.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_flops import row, small
from torch import Tensor, nn

from stages.parts import freeze_all_but, trained
from yivl.checkpointing import blocks, recompute
from yivl.encoder import IMAGE_ID
from yivl.model import PARTS, YiVLForConditionalGeneration

ROOT = Path(__file__).resolve().parent.parent
STAGES = [{"vision", "projector"}, set(PARTS)]


def loss(model: nn.Module) -> Tensor:
    batch = row()
    total: Tensor = model(
        input_ids=batch.input_ids[None], pixel_values=batch.pixels, position_ids=batch.position_ids[None],
        labels=batch.labels[None], bounds=batch.bounds,
    ).loss  # fmt: skip
    return total


def gradients(model: YiVLForConditionalGeneration) -> dict[str, Tensor]:
    model.zero_grad()
    loss(model).backward()
    return {name: parameter.grad.clone() for name, parameter in trained(model).items() if parameter.grad is not None}


def kept(model: YiVLForConditionalGeneration) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _graph = loss(model)
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in weights)


def choose(model: YiVLForConditionalGeneration, every: int) -> None:
    for part in ("vision", "language"):
        recompute(blocks(model, part), every)


@pytest.mark.parametrize("parts", STAGES)
def test_gradients_are_equal_to_the_last_bit_and_memory_falls(parts: set[str]) -> None:
    model = small()
    freeze_all_but(model, dict.fromkeys(parts, 1.0))
    expected, whole = gradients(model), kept(model)
    held = []
    for every in (3, 2, 1):
        choose(model, every)
        found = gradients(model)
        assert found.keys() == expected.keys() and expected
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        held.append(kept(model))
    assert whole > held[0] > held[1] > held[2]
    assert held[2] < 0.35 * whole
    choose(model, 0)
    assert kept(model) == whole


def test_blocks_are_those_that_run_also_under_adapters() -> None:
    model = small()
    ran: list[nn.Module] = []
    for part in ("vision", "language"):
        for block in blocks(model, part):
            block.register_forward_hook(lambda module, *_: ran.append(module))
    loss(model)
    assert ran == [*blocks(model, "vision"), *blocks(model, "language")] and len(ran) == 3 + 3
    before = blocks(model, "language")
    model.language = peft.get_peft_model(model.language, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    assert blocks(model, "language") == before


def test_what_is_written_and_copied_is_the_same(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path / "without")
    choose(model, 1)
    model.save_pretrained(tmp_path / "with")
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("without", "with")]
    assert files[0] == files[1]
    twin = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert loss(twin).item() != loss(model).item()  # the copy runs its own weights


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_is_recomputed_where_nothing_is_learned(grad: bool) -> None:
    model = small().eval()
    ids = torch.tensor([[IMAGE_ID] * 16 + [5, 6, 7]])
    pixels = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    expected = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False)
    whole = kept(model)
    choose(model, 1)
    with torch.set_grad_enabled(grad):
        found = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False)
    assert torch.equal(found, expected) and found.shape[1] == 19 + 8
    assert kept(model) == whole


def test_gradients_are_the_same_when_zero_shards_the_weights(tmp_path: Path) -> None:
    """Two processes that hold half of each weight, and gather a module's when it runs, also when it runs again."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
         "--rdzv-endpoint", "127.0.0.1:0", __file__, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {
            "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for parts in STAGES:
        expected = gradients(seeded(parts))
        runs = [load_file(file) for file in sorted(tmp_path.glob(f"{len(parts)}-*.safetensors"))]
        assert len(runs) == 2
        for found in runs:
            assert found.keys() == expected.keys()
            for name in expected:
                assert torch.equal(found[name], runs[0][name]), name
                assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-7), name


def seeded(parts: set[str]) -> YiVLForConditionalGeneration:
    torch.manual_seed(0)
    model = small()
    freeze_all_but(model, dict.fromkeys(parts, 1.0))
    return model


def zero3(folder: Path) -> None:
    """What each of the processes does: backward passes, whose gradients the first writes."""
    import deepspeed  # noqa: PLC0415 (takes seconds, and only these processes need it)
    import deepspeed.ops  # noqa: PLC0415
    from deepspeed.utils import safe_get_full_grad  # noqa: PLC0415

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it is compiled first
    for parts, every in product(STAGES, (0, 1)):
        model = seeded(parts)
        choose(model, every)
        named = trained(model)
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(named.values(), lr=1e-3),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_clipping": 0.0,
                "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            },
        )
        engine.backward(loss(engine))
        found = {name: safe_get_full_grad(parameter) for name, parameter in named.items()}
        if engine.global_rank == 0:
            save_file(found, folder / f"{len(parts)}-{every}.safetensors")
        engine.destroy()


if __name__ == "__main__":
    zero3(Path(sys.argv[1]))
