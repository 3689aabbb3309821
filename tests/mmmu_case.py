"""Parquet files in the hub's layout and a model that notes what it is asked, for the tests of MMMU."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eval.benchmark import Choices
from eval.mmmu import MMMU
from eval.results import Result
from eval.runner import evaluate
from yivl.conversation import Conversation

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "fixtures" / "yi-vl-tiny"

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [("id", pa.string()), ("question", pa.string()), ("options", pa.string()), ("explanation", pa.string())]
    + [(f"image_{n}", IMAGE) for n in range(1, 8)]
    + [("img_type", pa.string()), ("answer", pa.string()), ("topic_difficulty", pa.string())]
    + [("question_type", pa.string()), ("subfield", pa.string())]
)
"""The hub's."""


def png(colour: int = 0, size: tuple[int, int] = (5, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def row(id: str, /, **fields: Any) -> dict[str, Any]:
    """A multiple-choice question with one image, `fields` apart."""
    return {
        "id": id,
        "question": "<image 1> What is it?",
        "options": "['w', 'x', 'y', 'z']",
        "image_1": {"bytes": png(), "path": f"{id}_1.png"},
        "img_type": "['Diagrams']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Anything",
    } | fields


def write(folder: Path, subject: str, rows: list[dict[str, Any]], split: str = "validation", shards: int = 1) -> Path:
    """`rows` in the hub's layout, in row groups of two; the last shard's path."""
    (folder / subject).mkdir(parents=True, exist_ok=True)
    step = -(-len(rows) // shards)
    path = folder
    for shard in range(shards):
        path = folder / subject / f"{split}-{shard:05}-of-{shards:05}.parquet"
        part = rows[shard * step : (shard + 1) * step]
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), path, row_group_size=2)
    return path


class Recorder:
    """A model that says "B" (or what `reply` makes of a question's key) and keeps what it was asked."""

    def __init__(self, reply: Any = lambda key: "B") -> None:
        self.reply = reply
        self.batches: list[list[Conversation]] = []
        self.max_new_tokens = 0

    def __call__(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        self.max_new_tokens = max_new_tokens
        self.batches.append(list(conversations))
        return [self.reply(conversation.key) for conversation in conversations]

    @property
    def asked(self) -> dict[str, Conversation]:
        return {conversation.key: conversation for batch in self.batches for conversation in batch}


def asked(folder: Path, **choices: Any) -> MMMU:
    """The questions in `folder`, as `choices` say."""
    return MMMU(folder, Choices(**choices))


def judge(folder: Path, out: Path, model: Any = None, **options: Any) -> Result:
    """The outcome of a run: `options` are those of `Choices` and of `evaluate`."""
    named = {name: options.pop(name) for name in list(options) if name in Choices.__dataclass_fields__}
    options = {"batch_size": 4, "model_name": "model"} | options
    return evaluate(model or Recorder(), asked(folder, **named), out, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
