"""Model FLOPs against a count of what a real model does, and against known figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.packing import Batch, empty, pack
from stages.parts import freeze_all_but
from stages.planning.flops import Work, model_flops, peak_tflops, work_of
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.configuration import YiVLConfig
from yivl.encoder import IGNORE, IMAGE_ID, Example
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import read

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def small() -> YiVLForConditionalGeneration:
    vision = {"image_size": 56, "patch_size": 14, "width": 48, "layers": 4, "heads": 4}
    text = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 500, "pad_token_id": 0,
    }  # fmt: skip
    model = YiVLForConditionalGeneration(YiVLConfig(vision_config=vision, text_config=text))
    return model.train()


def example(images: int, text: int, supervised: int) -> Example:
    ids = np.array([IMAGE_ID] * 16 * images + list(range(1, text + 1)), dtype=np.int64)
    labels = np.full(len(ids), IGNORE, dtype=np.int64)
    labels[-supervised:] = ids[-supervised:]
    pixels = np.zeros((images, 3, 56, 56), dtype=np.uint8)
    return Example(input_ids=ids, labels=labels, pixels=pixels, source="s", key="k", dropped_turns=0)


def row() -> Batch:
    return pack([example(1, 20, 7), example(2, 31, 11), example(0, 9, 4)])


@pytest.mark.parametrize(
    "trained",
    [
        {"vision", "projector"},
        {"projector"},
        {"vision", "projector", "language"},
        {"language"},
        {"vision"},
        {"projector", "language"},
    ],
)
def test_flops_are_those_that_a_step_of_a_real_model_does(trained: set[str]) -> None:
    """Once causal attention is counted in full, which is what unfused attention on the CPU computes. Exactly, but that
    older versions of transformers compute the rotary angles as a product."""
    model, batch = small(), row()
    freeze_all_but(model, dict.fromkeys(trained, 1.0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(
            input_ids=batch.input_ids[None], pixel_values=batch.pixels, position_ids=batch.position_ids[None],
            labels=batch.labels[None], bounds=batch.bounds,
        ).loss.backward()  # fmt: skip
    work = work_of([batch])
    whole_squares = replace(work, squares=2 * work.squares)
    assert model_flops(model.config, trained, whole_squares) == pytest.approx(counter.get_total_flops(), rel=2e-5)


def test_work_counts_samples_and_nothing_that_only_fills() -> None:
    assert work_of([row(), empty(56)]) == Work(tokens=36 + 63 + 9, images=3, supervised=22, squares=36**2 + 63**2 + 81)
    assert work_of([empty(56)]) == Work(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("size", "number", "text", "supervised", "teraflops"),
    [("6b", 1, 48, 32, 7.84), ("6b", 2, 96, 64, 30.3), ("6b", 3, 400, 250, 53.7), ("34b", 1, 48, 32, 42.1)],
)
def test_the_papers_models_cost_what_was_worked_out_by_hand(
    size: str, number: int, text: int, supervised: int, teraflops: float
) -> None:
    """Per sample of one image, from parameter counts: 324 and 1,418 GFLOP for the ViT, 5.54 and 33.47 G weights."""
    stage = read(Stage, CONFIGS / f"yi-vl-{size}" / f"stage{number}.yaml")
    config = read(ModelSource, stage.model).config()
    config.vision_config = config.vision_config | {"image_size": stage.resolution}
    length = config.patches + text
    work = Work(tokens=length, images=1, supervised=supervised, squares=length**2)
    assert model_flops(config, stage.learning_rate, work) == pytest.approx(teraflops * 1e12, rel=0.005)


def test_adapters_need_no_gradients_of_the_weights_that_they_adapt() -> None:
    config, work = small().config, work_of([row()])
    adapted = model_flops(config, {"language"}, work, adapted=True)
    frozen = model_flops(config, {"projector"}, work)
    projector = model_flops(config, {"projector"}, replace(work, tokens=0, squares=0, supervised=0))
    untrained = model_flops(config, {"language"}, replace(work, tokens=0, squares=0, supervised=0))
    assert adapted - untrained == frozen - projector


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100-PCIE-40GB", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", None),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
    ],
)
def test_peak_rates_are_known_by_name(
    name: str, precision: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)  # there is no GPU to ask
    stage = read(Stage, CONFIGS / "yi-vl-6b" / "stage1.yaml", [f"precision={precision}"])
    assert peak_tflops(stage, torch.device("cuda", 0)) == peak


def test_a_stage_may_state_its_peak_and_a_cpu_has_none_by_itself() -> None:
    stage = read(Stage, CONFIGS / "yi-vl-6b" / "stage1.yaml")
    assert peak_tflops(stage, torch.device("cpu")) is None
    stated = read(Stage, CONFIGS / "yi-vl-6b" / "stage1.yaml", ["peak_tflops=0.8"])
    assert peak_tflops(stated, torch.device("cpu")) == 0.8
