"""The stage files hold the paper's numbers (7.2 and Training Hyperparameters), and can be planned without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.mixture import Mixture, catalogued
from stages.planning.plan import plan
from stages.stage import Stage
from stages.train import main
from yivl.assembly import ModelSource
from yivl.settings import read

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PAPER = {
    1: {"parts": {"vision", "projector"}, "side": 224, "batch": 4096, "rate": 1e-4, "clip": 0.5, "epochs": 1},
    2: {"parts": {"vision", "projector"}, "side": 448, "batch": 4096, "rate": 1e-4, "clip": 0.5, "epochs": 1},
    3: {
        "parts": {"vision", "projector", "language"},
        "side": 448,
        "batch": 256,
        "rate": 2e-5,
        "clip": 1.0,
        "epochs": 2,
    },
}
SOURCES = {
    1: {"laion400m"},
    2: {"laion400m", "cllava", "llavar", "flickr30k", "vqav2", "refcoco", "visual7w"},
    3: {"gqa", "vizwiz_vqa", "textcaps", "ocr_vqa", "visual_genome", "sharegpt4v"},
}
CAPS = {1: {"laion400m": 100_000_000}, 2: {"laion400m": 20_000_000}, 3: dict.fromkeys(SOURCES[3], 50_000)}


@pytest.mark.parametrize("size", ["6b", "34b"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_stages_hold_the_papers_numbers(size: str, number: int) -> None:
    stage = read(Stage, CONFIGS / f"yi-vl-{size}" / f"stage{number}.yaml")
    found = {
        "parts": set(stage.learning_rate), "side": stage.resolution, "batch": stage.global_batch,
        "rate": stage.learning_rate["vision"], "clip": stage.clip_norm, "epochs": stage.epochs,
    }  # fmt: skip
    assert found == PAPER[number]
    assert len(set(stage.learning_rate.values())) == 1
    assert (stage.schedule, stage.warmup, stage.weight_decay) == ("cosine", 0.03, 0.0)
    assert (stage.precision, stage.max_length) == ("bf16", 2048)
    assert stage.start_from == ("" if number == 1 else f"runs/yi-vl-{size}/stage{number - 1}/model")
    mixture = read(Mixture, stage.mixture)
    assert set(mixture.sources) == SOURCES[number]
    assert {name: cap for name in mixture.sources if (cap := mixture.cap_of(name))} == CAPS[number]
    assert all(source.pairs for source in catalogued(mixture).values())


SHAPES = {  # facts of the released models: hidden, layers, heads, key-value heads, MLP
    "6b": (4096, 32, 32, 4, 11008),
    "34b": (7168, 60, 56, 8, 20480),
}


@pytest.mark.parametrize("size", SHAPES)
def test_models_have_the_released_shapes(size: str) -> None:
    config = read(ModelSource, CONFIGS / "model" / f"yi-vl-{size}.yaml").config()
    text = config.text_config
    assert SHAPES[size] == (
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads,
        text.intermediate_size,
    )  # fmt: skip
    assert (text.vocab_size, text.rms_norm_eps, text.max_position_embeddings) == (64000, 1e-5, 4096)
    assert text.rope_parameters["rope_theta"] == 5e6
    vision = config.vision_config
    assert (vision["width"], vision["layers"], vision["heads"], vision["patch_size"]) == (1280, 32, 16, 14)


def test_plan_counts_parts_samples_and_steps_without_weights() -> None:
    stage = read(Stage, CONFIGS / "yi-vl-6b" / "stage1.yaml", ["data=/nowhere"])
    planned = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture))
    assert (planned.samples, planned.steps) == (100_000_000, 24_414)
    sizes = {part.name.split(",")[0]: part.parameters for part in planned.parts}
    assert abs(sizes["language"] - 6.06e9) < 0.01e9  # Yi-6B
    assert sizes["projector"] == 1280 * 4096 + 4096 + 4096 * 4096 + 4096 + 4 * 4096
    stage = read(Stage, CONFIGS / "yi-vl-34b" / "stage3.yaml", ["data=/nowhere"])
    planned = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture))
    assert planned.samples == 5 * 50_000 + 20_523
    assert planned.steps == 2 * 270_523 // 256
    assert planned.patches == 1024


@pytest.mark.parametrize("size", ["6b", "34b"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_plan_prints_what_a_stage_will_do(size: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CONFIGS / f"yi-vl-{size}" / f"stage{number}.yaml"), "--plan"]) == 0
    shown = capsys.readouterr().out
    for word in (*SOURCES[number], "vision", "projector", "language", "steps per epoch", "optimiser steps", "warm-up"):
        assert word in shown
    assert ("language" in shown and "frozen" in shown.split("language")[1].splitlines()[0]) == (number < 3)


@pytest.mark.parametrize(("number", "before"), [(1, ""), (2, "runs/yi-9b/stage1/model")])
def test_yi_9bs_stages_hold_the_documents_numbers(number: int, before: str) -> None:
    stage = read(Stage, CONFIGS / "yi-9b" / f"stage{number}.yaml")
    assert stage.learning_rate == {"language": 3e-5} and (stage.schedule, stage.warmup) == ("constant", 0.0)
    assert stage.batch_tokens == 4 * 2**20 and stage.max_length == 4096 and stage.batch == 1024
    assert stage.growth is not None and stage.growth.ceiling > stage.batch_tokens
    assert stage.start_from == before
    mixture = read(Mixture, stage.mixture)
    assert mixture.tokens == 400_000_000_000  # 0.4 T each
    assert ("mathematics" in mixture.sources) == (number == 2)
    made = plan(stage, read(ModelSource, stage.model), mixture, ranks=64, device="h100")
    (language,) = made.parts
    assert round(language.parameters / 1e9, 2) == 8.83  # embeddings twice and the rest, as the blog counts
    assert made.steps == 400_000_000_000 // (4 * 2**20)
