"""What several tests build on: the released-layout fixture, and small shards in both formats."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # tests reach no network: a missing file must fail at once

import numpy as np
import pytest
import torch
import yaml
from mmmu_case import png, row, write
from PIL import Image

from data.shards import caption_sample, conversation_sample, write_shards
from yivl import YiVL
from yivl.conversation import Conversation, Turn

TINY = Path(__file__).parent / "fixtures" / "yi-vl-tiny"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    return TINY


@pytest.fixture(scope="session")
def tiny() -> YiVL:
    """The fixture's model; tests must not change it."""
    return YiVL.load(TINY, device="cpu")


@pytest.fixture
def fresh_tiny() -> YiVL:
    """The fixture's model, for tests that change it."""
    return YiVL.load(TINY, device="cpu")


def jpeg(rng: np.random.Generator, width: int = 60, height: int = 40) -> bytes:
    with io.BytesIO() as file:
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue()


def captions(count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        caption_sample(f"{i:09d}", jpeg(rng), f"a picture of {'very ' * (i % 7)}odd thing {i}") for i in range(count)
    ]


def chats(count: int, rng: np.random.Generator, text_only: int = 0) -> list[dict[str, Any]]:
    samples = []
    for i in range(count):
        images = () if i < text_only else (jpeg(rng),)
        turns = [Turn("human", f"What is number {i}?", images=len(images)), Turn("assistant", f"It is {i}, 第{i}个。")]
        for extra in range(i % 3):
            turns += [Turn("human", f"And {extra}?"), Turn("assistant", "Yes. " * (extra + 1))]
        samples.append(conversation_sample(Conversation(turns=tuple(turns), images=images, key=f"chat{i:05d}")))
    return samples


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 60 captions in 3 shards, 40 conversations (5 of text alone) in 2."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    write_shards(folder / "captions", captions(60, rng), per_shard=20)
    write_shards(folder / "chats", chats(40, rng, text_only=5), per_shard=25)
    return folder


@pytest.fixture
def stage_file(tmp_path: Path, shards: Path) -> Callable[..., Path]:
    """Writes a stage file over the fixture's model and the small shards; keywords replace its settings."""

    def write(**settings: Any) -> Path:
        files: dict[str, Any] = {
            "sources.yaml": {
                "sources": {
                    "captions": {"shards": "captions/*.tar", "format": "caption"},
                    "chats": {"shards": "chats/*.tar", "format": "conversation"},
                }
            },
            "mixture.yaml": {"catalogue": "sources.yaml", "cap": 50, "sources": {"captions": {}, "chats": {}}},
            "model.yaml": {
                "name": "tiny",
                "vision": {"config": {"image_size": 56, "width": 48, "layers": 4, "heads": 4}},
                "language": {
                    "tokenizer": str(TINY),
                    "config": {
                        "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
                        "num_key_value_heads": 2, "vocab_size": 2400, "rms_norm_eps": 1e-5, "pad_token_id": 0,
                    },
                },
            },
            "stage.yaml": {
                "name": "test", "run": str(tmp_path / "run"), "model": "model.yaml", "start_from": str(TINY),
                "resolution": 56, "learning_rate": {"vision": 1e-3, "projector": 1e-3}, "mixture": "mixture.yaml",
                "data": str(shards), "global_batch": 10, "tokens_per_micro_batch": 1024, "epochs": 1,
                "clip_norm": 1.0, "precision": "fp32", "save_every": 2,
            } | settings,
        }  # fmt: skip
        for name, content in files.items():
            (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        return tmp_path / "stage.yaml"

    return write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven questions: five of Music in two shards, four of Art and two of Math, one of these open."""
    folder = tmp_path / "MMMU"
    write(folder, "Music", [row(f"validation_Music_{n}", question="?" * (9 - n)) for n in range(1, 6)], shards=2)
    write(folder, "Art", [row(f"validation_Art_{n}", image_1={"bytes": png(n), "path": None}) for n in range(1, 5)])
    opened = row("validation_Math_2", question_type="open", options="[]", answer="['24/7', '3.429']")
    write(folder, "Math", [row("validation_Math_1", answer="A"), opened])
    return folder


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
