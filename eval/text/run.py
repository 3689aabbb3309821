"""Asks a language model the harness's tasks on local files, as its own command does.

    result = evaluate(Path("Yi-6B"), Path("text-data"), TABLE_8, Path("Yi-6B-text"))

What a task came to is kept when it is done (`OUT/tasks/NAME.json`): after a stop the same call goes on with the next.
Of a vision-language model the language part alone is asked, as the plain language model is.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from eval import language_model
from eval.predictions import check_same, write_json
from eval.revision import of_files, of_folder
from eval.text import report
from eval.text.local import LocalTask, local_task
from eval.text.paper import Table
from eval.text.report import Result, Scores

_MATH = ("math_verify", "antlr4")
"""Packages of the harness's extra `math`."""


def evaluate(
    folder: Path, data: Path, table: Table, out: Path, *, batch_size: int = 1, device: str | None = None
) -> Result:
    """Asks the tasks of a table that `out` does not have yet, and writes its result there.

    Args:
        folder: see `eval.language_model.load`.
        data: see `eval.text.local`.
        table: what is asked.
        out: where results go.
        batch_size: questions at a time; with another one, sums are rounded otherwise and close calls can fall
            differently.
        device: see `eval.language_model.load`.

    Raises:
        FileNotFoundError: the model or a file of the data is missing.
        BadData: a file of the data is not as it should be.
        ValueError: an unknown task, one whose packages are missing, or `out` has results of another model or data.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder {folder}")
    harness = TaskManager()
    tasks = [local_task(harness, name, data, shots) for name, shots in table.tasks.items()]
    _check_packages(tasks)
    revision = of_folder(folder, without=out)
    found: Scores = {}
    model: HFLM | None = None
    for task in tasks:
        identity = {
            "model": revision,
            "data": of_files(data, task.files),
            "shots": table.tasks[task.name],
            "lm_eval": lm_eval.__version__,
        }
        kept = out / "tasks" / f"{task.name}.json"
        scores = _earlier(kept, identity)
        if scores is None:
            model = model or _harness_model(folder, batch_size, device)
            scores = _ask(model, task)
            write_json(kept, {"identity": identity, "batch_size": batch_size, "scores": scores})
        found |= scores
    result = Result(folder=out, model=str(folder), model_revision=revision, data=str(data), table=table, scores=found)
    report.write(result)
    return result


def _check_packages(tasks: list[LocalTask]) -> None:
    missing = [name for name in _MATH if find_spec(name) is None]
    if missing and any(part.startswith("minerva_math") for task in tasks for part in task.configurations):
        raise ValueError(
            f"MATH (minerva_math) needs {' and '.join(missing)}: pip install 'lm-eval[math]', or name other --tasks"
        )


def _earlier(kept: Path, identity: dict[str, Any]) -> Scores | None:
    if not kept.exists():
        return None
    record = json.loads(kept.read_text(encoding="utf-8"))
    check_same(record["identity"], identity, f"{kept} is the result of another run")
    scores: Scores = record["scores"]
    return scores


def _harness_model(folder: Path, batch_size: int, device: str | None) -> HFLM:
    language = language_model.load(folder, device)
    return HFLM(
        pretrained=language.model,
        tokenizer=language.tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=language_model.position_limit(folder),
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
