"""EleutherAI's lm-evaluation-harness, asked its tasks on local files as its own command asks them.

What a task came to is kept when it is done (`OUT/tasks/NAME.json`): after a stop the next call goes on with the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from eval.predictions import check_same, write_json
from eval.revision import of_files
from eval.text.local import LocalTask, local_task
from eval.text.model import Model
from eval.text.report import Scores
from yivl import language_model

_MATH = ("math_verify", "antlr4")
"""Packages of the harness's extra `math`."""


class Harness:
    """Some of its tasks.

    Args:
        tasks: examples before each question, by task or group; None for the task's own number.
        data: see `eval.text.local`.

    Raises:
        FileNotFoundError: a file of the data is missing.
        BadData: one is not as it should be.
        ValueError: an unknown task, or one whose packages are missing.
    """

    def __init__(self, tasks: Mapping[str, int | None], data: Path) -> None:
        known = TaskManager()
        self._data, self._shots = data, tasks
        self._tasks = {name: local_task(known, name, data, shots) for name, shots in tasks.items()}
        self._model: HFLM | None = None
        parts = [part for task in self._tasks.values() for part in task.configurations]
        missing = [name for name in _MATH if find_spec(name) is None]
        if missing and any(part.startswith("minerva_math") for part in parts):
            raise ValueError(
                f"MATH (minerva_math) needs {' and '.join(missing)}: pip install 'lm-eval[math]', or name other --tasks"
            )

    def scores(self, name: str, model: Model, out: Path, batch_size: int) -> Scores:
        """What a task and its parts come to; asked, unless `out` has it.

        Raises:
            ValueError: `out` has results of another model or data.
        """
        task = self._tasks[name]
        identity = {
            "model": model.revision,
            "data": of_files(self._data, task.files),
            "shots": self._shots[name],
            "lm_eval": lm_eval.__version__,
        }
        kept = out / "tasks" / f"{name}.json"
        scores = _earlier(kept, identity)
        if scores is None:
            self._model = self._model or _harness_model(model, batch_size)
            scores = _ask(self._model, task)
            write_json(kept, {"identity": identity, "batch_size": batch_size, "scores": scores})
        return scores


def _earlier(kept: Path, identity: dict[str, Any]) -> Scores | None:
    if not kept.exists():
        return None
    record = json.loads(kept.read_text(encoding="utf-8"))
    check_same(record["identity"], identity, f"{kept} is the result of another run")
    scores: Scores = record["scores"]
    return scores


def _harness_model(model: Model, batch_size: int) -> HFLM:
    return HFLM(
        pretrained=model.language.model,
        tokenizer=model.language.tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=language_model.position_limit(model.folder),
    )


def _ask(model: HFLM, task: LocalTask) -> Scores:
    """What the harness finds for a task or group and all its parts."""
    with TemporaryDirectory() as folder:
        outcome = lm_eval.simple_evaluate(
            model=model, tasks=[task.name], task_manager=task.write(Path(folder)), log_samples=False
        )
    return {name: _score(name, found, outcome) for name, found in outcome["results"].items()}


def _score(name: str, found: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    """One task's or group's part of the result. A metric has the name of its filter behind a comma."""
    metrics = [key for key in found if "," in key and "_stderr," not in key]
    errors = {key: found.get("_stderr,".join(key.split(","))) for key in metrics}
    return {
        "metrics": {
            key: {"value": found[key], "stderr": error if isinstance(error, float) else None}
            for key, error in errors.items()
        },
        "questions": found["sample_len"],
        "shots": outcome["n-shot"].get(name),
        "version": outcome["versions"].get(name),
    }
