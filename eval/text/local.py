"""The harness's tasks, read from local files.

A task's own configuration says where its data come from: `dataset_path` (the hub's name), `dataset_name` (a subset) and
splits. The task is written anew with local files in their place, and everything else, prompts and metrics, included
from the harness's file. Files are looked for where the hub's repositories keep them:

    DATA/ai2_arc/ARC-Challenge/{train,validation,test}-*.parquet    allenai/ai2_arc
    DATA/hellaswag/data/{train,validation}-*.parquet                Rowan/hellaswag
    DATA/mmlu/{subject}/{dev,test}-*.parquet                        cais/mmlu
    DATA/winogrande/winogrande_xl/{train,validation}-*.parquet      allenai/winogrande
    DATA/gsm8k/main/{train,test}-*.parquet                          openai/gsm8k
    DATA/hendrycks_math/{subject}/{train,test}-*.parquet            EleutherAI/hendrycks_math

A split may also be one file of JSON lines, `test.jsonl`. Other tasks of the harness are found by the same rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lm_eval.tasks import TaskManager

from eval import parquet
from eval.benchmark import BadData

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_COLUMNS = {
    "allenai/ai2_arc": ("question", "choices", "answerKey"),
    "Rowan/hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    "cais/mmlu": ("question", "choices", "answer"),
    "allenai/winogrande": ("sentence", "option1", "option2", "answer"),
    "openai/gsm8k": ("question", "answer"),
    "EleutherAI/hendrycks_math": ("problem", "solution"),
}
"""What the harness reads of these data sets: without, its error names neither file nor column."""


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A task or group of the harness on local files."""

    name: str
    files: tuple[Path, ...]
    """All that its questions and examples are read from."""
    configurations: dict[str, dict[str, Any]]
    """What is written anew of it and its parts, by name."""

    def write(self, folder: Path) -> TaskManager:
        """The harness's view of it, in whose files in `folder` there is nothing else."""
        for name, configuration in self.configurations.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        return TaskManager(include_path=folder, include_defaults=False)


def local_task(harness: TaskManager, name: str, data: Path, shots: int | None) -> LocalTask:
    """A task or group on the files in `data`.

    Args:
        harness: its tasks.
        name: of the task or group.
        data: the folder described above.
        shots: examples before each question; None for the task's own number.

    Raises:
        ValueError: the harness has no such task.
        FileNotFoundError: a file is missing.
        BadData: a file can't be read, is empty or lacks a column.
    """
    if name not in harness.task_index or name in harness.all_tags:
        raise ValueError(f"the harness has no task or group {name!r}; `lm-eval ls tasks` lists them")
    files: list[Path] = []
    configurations: dict[str, dict[str, Any]] = {}
    for part in _parts(harness, name):
        entry = harness.task_index[part]
        configuration: dict[str, Any] = {"include": str(entry.yaml_path)}
        if part in harness.all_groups:
            configurations[part] = configuration | {"group": part}
            continue
        found = _files(entry.cfg or {}, data, part)
        files += [file for split in found.values() for file in split]
        configurations[part] = configuration | {
            "task": part,
            "dataset_path": "json" if files[-1].suffix == ".jsonl" else "parquet",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: [str(file) for file in shards] for split, shards in found.items()}
            },
        }
        if shots is not None:
            configurations[part]["num_fewshot"] = shots
    return LocalTask(name, tuple(dict.fromkeys(files)), configurations)


def _parts(harness: TaskManager, name: str) -> Iterator[str]:
    """A group and all that is in it, or a task alone."""
    entry = harness.task_index[name]
    if name in harness.all_tags:
        yield from sorted(entry.tags)
        return
    yield name
    if name in harness.all_groups:
        for member in (entry.cfg or {})["task"]:
            yield from _parts(harness, member if isinstance(member, str) else member["task"])


def _files(configuration: dict[str, Any], data: Path, task: str) -> dict[str, list[Path]]:
    """The files of each split that a task names."""
    origin, subset = configuration.get("dataset_path"), configuration.get("dataset_name")
    if not isinstance(origin, str):
        raise ValueError(f"task {task} names no data set, so it can't be read from local files")
    folder = data / Path(origin).name / (subset or "data")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; task {task} wants the files of the hub's {origin} there")
    found = {}
    for split in dict.fromkeys(configuration[key] for key in _SPLITS if configuration.get(key)):
        lines = folder / f"{split}.jsonl"
        found[split] = [lines] if lines.is_file() else parquet.shards(folder, split)
        for file in found[split]:
            _check(file, _COLUMNS.get(origin, ()))
    if len({file.suffix for files in found.values() for file in files}) > 1:
        raise BadData(f"{folder}: splits both as .jsonl and as .parquet; keep one kind")
    return found


def _check(file: Path, columns: tuple[str, ...]) -> None:
    shape = parquet.shape(file) if file.suffix == ".parquet" else _shape(file)
    if not shape.rows:
        raise BadData(f"{file} has no rows; download it again")
    if missing := [name for name in columns if name not in shape.columns]:
        raise BadData(f"{file}: no column {', '.join(missing)}; it has {', '.join(shape.columns)}")


def _shape(file: Path) -> parquet.Shape:
    columns: dict[str, None] = {}
    row = 0
    with file.open(encoding="utf-8") as lines:
        for row, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                columns |= dict.fromkeys(record) if row == 1 else {}
                missing = [name for name in columns if name not in record]
            except (ValueError, TypeError) as error:
                raise BadData(f"{file}, row {row - 1}: not a JSON object: {error}") from error
            if missing:
                raise BadData(f"{file}, row {row - 1}: no {', '.join(missing)}, which the first row has")
    return parquet.Shape(tuple(columns), row)
