"""What a run tells while it runs: lines in files, TensorBoard, Weights & Biases where a stage asks for it, and the
terminal (stages/terminal.py).

RUN/log.jsonl         a line for each step: a `Record`
RUN/held_out.jsonl    for each look at held-out samples, the loss of each source
RUN/answers.jsonl     what the model answered to some of them
RUN/benchmarks.jsonl  for each examination by a benchmark, its scores
RUN/skipped.jsonl     steps that were left out, with the reason
RUN/growth.jsonl      where the batch grew, with the reason
RUN/quarantine.jsonl  samples that were replaced, with the reason
RUN/starts.jsonl      when a process began to train here, and after which step
RUN/wandb.txt         the run's id in Weights & Biases, so that a resume continues it
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from data.loader import Broken
from stages.record import Answer, Record, Silent, scalars
from stages.run_folder import RunFolder, replace_file
from stages.stage import Stage
from stages.terminal import Terminal
from yivl.settings import SettingsError, plain


class Recorder(Silent):
    """Tells files, TensorBoard, Weights & Biases and the terminal.

    Args:
        folder: of the run; logs are continued.
        stage: names the run.
        start: steps done before.
        total: steps of the whole run.

    Raises:
        SettingsError: Weights & Biases is asked for and can't be used.
    """

    def __init__(self, folder: RunFolder, stage: Stage, start: int, total: int) -> None:
        with contextlib.ExitStack() as stack:
            sinks = [_WandB(folder, stage)] if stage.wandb else []
            self._sinks: list[Silent] = [stack.enter_context(sink) for sink in sinks]
            for make in (_Files, _Board):
                self._sinks.append(stack.enter_context(make(folder, start)))
            self._sinks.append(stack.enter_context(Terminal(stage.name, start, total)))
            self._open = stack.pop_all()

    def __exit__(self, *what: Any) -> None:
        # on a full disk closing fails too, and must not hide the error that says so
        with contextlib.suppress(OSError) if what[0] else contextlib.nullcontext():
            self._open.__exit__(*what)

    def record(self, record: Record) -> None:
        """A step."""
        for sink in self._sinks:
            sink.record(record)

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        """Samples that were replaced in a step."""
        for sink in self._sinks:
            sink.quarantine(step, broken)

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        """A step that was left out."""
        for sink in self._sinks:
            sink.skipped(step, reason, keys)

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        """The batch grew."""
        for sink in self._sinks:
            sink.grown(step, tokens, reason, total)

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """A look at held-out samples."""
        for sink in self._sinks:
            sink.held_out(step, losses, tokens)

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        """What the model said."""
        for sink in self._sinks:
            sink.answers(step, answers)

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        """Scores of a benchmark."""
        for sink in self._sinks:
            sink.benchmark(step, name, scores)


class _Files(Silent):
    """Lines of JSON in the run's folder."""

    def __init__(self, folder: RunFolder, start: int) -> None:
        self._folder = folder
        _append(folder.path / "starts.jsonl", [{"step": start, "time": datetime.now(UTC).isoformat("T", "seconds")}])

    def record(self, record: Record) -> None:
        _append(self._folder.log, [asdict(record)])

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        _append(self._folder.quarantine, [{"step": step, **asdict(sample)} for sample in broken])

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        _append(self._folder.skipped, [{"step": step, "reason": reason, "keys": list(keys)}])

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        _append(self._folder.growth, [{"step": step, "tokens": tokens, "reason": reason}])

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        _append(self._folder.held_out, [{"step": step, "losses": dict(losses), "tokens": dict(tokens)}])

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        _append(self._folder.answers, [{"step": step, **asdict(answer)} for answer in answers])

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        _append(self._folder.benchmarks, [{"step": step, "benchmark": name, "scores": dict(scores)}])


def _append(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if lines:
        with file.open("a", encoding="utf-8") as out:
            out.writelines(f"{json.dumps(line)}\n" for line in lines)


class _Board(Silent):
    """TensorBoard."""

    def __init__(self, folder: RunFolder, start: int) -> None:
        self._folder = folder.path
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=start + 1)
        self._shown: set[str] = set()  # pictures

    def __exit__(self, *what: Any) -> None:
        self._writer.close()

    def record(self, record: Record) -> None:
        self._scalars(record.step, scalars(asdict(record)))

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        self._writer.add_text("skipped", f"{reason}: {', '.join(keys)}", step)

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        self._writer.add_text("grown", f"{tokens} tokens: {reason}", step)

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        self._scalars(step, _held_out_scalars(losses))

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        for one in answers:
            name = f"answers/{one.source}/{one.key}"
            self._writer.add_text(name, f"{one.question}\n\n**{one.answer}**\n\ntruth: {one.truth}", step)
            if one.picture and one.picture not in self._shown:
                self._shown.add(one.picture)
                with Image.open(self._folder / one.picture) as picture:
                    self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        self._scalars(step, _benchmark_scalars(name, scores))

    def _scalars(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)


class _WandB(Silent):
    """Weights & Biases. A resume goes on in the same run there, which passes over steps that it has already: they come
    out as before."""

    def __init__(self, folder: RunFolder, stage: Stage) -> None:
        try:
            import wandb  # noqa: PLC0415 (optional: most runs don't log there)
        except ImportError as error:
            raise SettingsError(
                f"wandb is {stage.wandb!r}, but the package wandb is not installed; pip install wandb, or leave the "
                "setting out"
            ) from error
        self._wandb = wandb
        self._folder = folder.path
        kept = folder.path / "wandb.txt"
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        try:
            self._run = wandb.init(
                project=stage.wandb, name=stage.name, config=plain(stage), dir=str(folder.path), id=known,
                resume="allow", allow_val_change=True,
            )  # fmt: skip
        except wandb.Error as error:
            raise SettingsError(
                f"wandb can't be used; WANDB_MODE=offline keeps the log in {folder.path / 'wandb'}, to be sent later "
                f"by `wandb sync`: {error}"
            ) from error
        if not known:
            replace_file(kept, self._run.id)

    def __exit__(self, *what: Any) -> None:
        self._run.finish(exit_code=1 if what[0] else 0)

    def record(self, record: Record) -> None:
        self._run.log(scalars(asdict(record)), step=record.step)

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        self._run.log({"skipped": reason}, step=step)

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        self._run.log({"grown": f"{tokens} tokens: {reason}"}, step=step)

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        self._run.log(_held_out_scalars(losses), step=step)

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        table = self._wandb.Table(columns=["source", "key", "picture", "question", "answer", "truth"])
        for one in answers:
            picture = self._wandb.Image(str(self._folder / one.picture)) if one.picture else None
            table.add_data(one.source, one.key, picture, one.question, one.answer, one.truth)
        self._run.log({"answers": table}, step=step)

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        self._run.log(_benchmark_scalars(name, scores), step=step)


def _held_out_scalars(losses: Mapping[str, float]) -> dict[str, float]:
    return {f"held_out/{source}": loss for source, loss in losses.items()}


def _benchmark_scalars(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    return {f"benchmark/{name}/{metric}": value for metric, value in scores.items()}
