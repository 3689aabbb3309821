"""What tests of VQA-type benchmarks share: images, a model that says what it is told, and a run of the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.benchmark import OVERALL, Benchmark
from eval.results import Result
from eval.runner import evaluate
from yivl.conversation import Conversation
from yivl.images import open_image

SHORT = "\nAnswer the question using a single word or phrase."


def image(path: Path, width: int = 6, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 30, 30)).save(path, "JPEG")
    return path


class Recorder:
    """Gives the reply to each key, sees every image, and keeps what it was asked."""

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.replies = replies
        self.asked: dict[str, Conversation] = {}
        self.max_new_tokens = 0

    def __call__(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        self.max_new_tokens = max_new_tokens
        for conversation in conversations:
            self.asked[conversation.key] = conversation
            for one in conversation.images:
                open_image(one)
        return [self.replies[conversation.key] for conversation in conversations]

    def prompt(self, key: str) -> str:
        return self.asked[key].turns[0].text


def ask(benchmark: Benchmark, out: Path, replies: Mapping[str, str]) -> tuple[Result, Recorder]:
    """A whole run."""
    model = Recorder(replies)
    result = evaluate(model, benchmark, out, model_name="model", batch_size=2)
    return result, model


def value(result: Result, metric: str, group: str = OVERALL) -> float:
    """A score, of the group of that name."""
    groups = {name: score for level in result.scores[metric].values() for name, score in level.items()}
    return groups[group].value


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
