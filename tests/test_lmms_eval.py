"""lmms-eval, really installed, runs the model on a task of its own kind: `make test-harness`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from yivl import YiVL
from yivl.conversation import Conversation, Turn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed; make test-harness does it"),
]
ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "fixtures" / "yi-vl-tiny"
TASK = """
task: colours
dataset_path: parquet
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: OUTPUT
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.results
metric_list: [{metric: said, aggregation: mean, higher_is_better: true}]
generation_kwargs: {max_new_tokens: 6, temperature: 0, until: ["ASSISTANT:"]}
"""
UTILS = """
import io
from PIL import Image

def pictures(doc):
    return [Image.open(io.BytesIO(picture["bytes"])).convert("RGB") for picture in doc["pictures"]]

def text(doc, *rest):
    return doc["question"]

def results(doc, results):
    return {"said": float(bool(results[0]))}
"""


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 40), colour).save(file, "PNG")
    return file.getvalue()


QUESTIONS = [
    {"question": f"Which colour is this, {'please, ' * n}?", "answer": "red",
     "pictures": [{"bytes": png((60 * n, 0, 200 - 60 * m))} for m in range(n)]}
    for n in (1, 0, 2, 1, 3)
]  # fmt: skip


def task(folder: Path, output: str) -> Path:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(QUESTIONS), folder / "data.parquet")
    yaml = TASK.replace("DATA", str(folder / "data.parquet")).replace("OUTPUT", output)
    (folder / "colours.yaml").write_text(yaml)
    (folder / "utils.py").write_text(UTILS)
    return folder


def run(folder: Path, out: Path, batch_size: int) -> list[dict[str, object]]:
    """Runs lmms-eval as a user does; its samples by document."""
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "yi_vl", "--model_args", f"pretrained={TINY}", "--tasks",
        "colours", "--include_path", str(folder), "--batch_size", str(batch_size), "--output_path", str(out),
        "--log_samples", "--device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hub")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = out.rglob("*_samples_colours.jsonl")
    return sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["doc_id"])


def asked(number: int, answer: str | None = None) -> Conversation:
    one = QUESTIONS[number]
    images = tuple(picture["bytes"] for picture in one["pictures"])  # type: ignore[index, union-attr]
    turns = (Turn("human", str(one["question"]), images=len(images)),)
    return Conversation(turns=turns if answer is None else (*turns, Turn("assistant", answer)), images=images)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_replies_are_those_of_the_model(tmp_path: Path, batch_size: int) -> None:
    samples = run(task(tmp_path / "task", "generate_until"), tmp_path / "out", batch_size)
    model = YiVL.load(TINY)
    expected = [model.chat(asked(number), max_new_tokens=6) for number in range(len(QUESTIONS))]
    assert [sample["filtered_resps"] for sample in samples] == expected
