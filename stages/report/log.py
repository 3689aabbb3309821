"""What the logs of a run folder say, for a report: of a run that is finished, goes on or was killed, of any version."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.mixture import Manifest, load_manifest
from stages.record import scalars
from stages.report.chart import Point
from stages.run_folder import RunFolder

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """A run. What its folder does not hold is empty."""

    path: Path
    finished: bool
    stage: Mapping[str, Any]
    """Its resolved settings, as the file has them."""
    manifest: Manifest | None
    steps: Sequence[Line]
    figures: Mapping[str, Sequence[Point]]
    """By name, as `stages.record.scalars` gives them."""
    held_out: Mapping[str, Sequence[Point]]
    """Loss of each source."""
    benchmarks: Mapping[str, Mapping[str, Sequence[Point]]]
    """In percent, by benchmark and metric."""
    answers: Sequence[Line]
    skipped: Sequence[Line]
    growth: Sequence[Line]
    """Where the batch grew."""
    broken: Sequence[Line]
    starts: Sequence[Line]

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run, if the batch stays as it is; None where the folder does not tell."""
        if self.manifest is None or not {"epochs", "global_batch"} <= self.stage.keys():
            return None
        samples, grown = self.manifest.taken * self.stage["epochs"], 0
        batch = self.stage["global_batch"]
        if tokens := self.stage.get("batch_tokens"):
            if self.growth:
                grown, tokens = self.growth[-1]["step"], self.growth[-1]["tokens"]
                samples -= sum(line["samples"] for line in self.steps if line["step"] <= grown)
            batch = tokens // self.stage["max_length"]
        return int(grown + samples // batch)


def read_run(path: Path) -> RunLog:
    """Reads a run folder.

    Raises:
        FileNotFoundError: there is no such folder, or no log in it.
        ValueError: the log has no step yet, or a file holds what no run writes.
    """
    folder = RunFolder(path)
    if not folder.log.is_file():
        raise FileNotFoundError(f"{path} is not the folder of a run that has begun: it has no {folder.log.name}")
    steps = read_lines(folder.log)
    if not steps:
        raise ValueError(f"{folder.log} has no step yet")
    figures: dict[str, list[Point]] = defaultdict(list)
    for line in steps:
        for name, value in scalars(line).items():
            figures[name].append((line["step"], value))
    # a run that was killed before its first checkpoint looks again at step 0
    looks = {line["step"]: line["losses"] for line in read_lines(folder.held_out)}
    held_out: dict[str, list[Point]] = defaultdict(list)
    for step, losses in looks.items():
        for source, loss in losses.items():
            held_out[source].append((step, loss))
    benchmarks: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for line in {(line["step"], line["benchmark"]): line for line in read_lines(folder.benchmarks)}.values():
        for metric, value in line["scores"].items():
            benchmarks[line["benchmark"]][metric].append((line["step"], 100 * value))
    stage, manifest = path / "stage.yaml", path / "manifest.json"
    return RunLog(
        path=path,
        finished=folder.finished,
        stage=yaml.safe_load(stage.read_text(encoding="utf-8")) if stage.is_file() else {},
        manifest=load_manifest(manifest) if manifest.is_file() else None,
        steps=steps,
        figures=figures,
        held_out=held_out,
        benchmarks=benchmarks,
        answers=read_lines(folder.answers),
        skipped=read_lines(folder.skipped),
        growth=read_lines(folder.growth),
        broken=read_lines(folder.quarantine),
        starts=read_lines(path / "starts.jsonl"),
    )


def read_lines(file: Path) -> list[Line]:
    """The lines of a file of JSON, none if it does not exist; a last one that is cut off does not count.

    Raises:
        ValueError: another line is not JSON.
    """
    if not file.is_file():
        return []
    found: list[Line] = []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
    return found
