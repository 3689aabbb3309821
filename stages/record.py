"""What a run tells of itself: a step's figures, answers, and all that may be taken down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from data.loader import Broken

PHASES: Final = ("data", "copy", "forward", "backward", "optimizer")
"""Parts of a step whose seconds a record tells; what they leave of the whole is the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An optimiser step."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over the supervised tokens of the step."""
    grad_norm: float
    """Before clipping."""
    rates: Mapping[str, float]
    """Of each trained part."""
    samples: int
    tokens: int
    supervised: int
    images: int
    micro_batches: int
    """Of the process that had most of them."""
    dropped_turns: int
    padding: float
    """Share of the computed tokens that belong to no sample."""
    idle: float
    """Share of the processes' room for tokens that stayed empty because another process had more of them."""
    source_losses: Mapping[str, float]
    """Mean over the supervised tokens of each source."""
    data_seconds: float
    """Waited for data. Of this and the four below, the slowest process counts."""
    copy_seconds: float
    """Copying batches to the device."""
    forward_seconds: float
    backward_seconds: float
    optimizer_seconds: float
    """Summing gradients over processes, clipping, moving the weights."""
    seconds: float
    """The whole step, data included."""
    tflops: float
    """Model TFLOP/s of one device, as `stages.planning.flops` counts them: what is recomputed does not count."""
    mfu: float | None
    """Share of `peak_tflops`; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said to a held-out question."""

    source: str
    key: str
    question: str
    """Empty for a caption."""
    answer: str
    truth: str
    picture: str | None
    """A picture file, relative to the run's folder."""


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a line of log.jsonl by name, as every board and page shows them.

    Args:
        line: a `Record` as a dict; a field that a line of an older version lacks gives no figure.
    """
    seconds = line["seconds"]
    phases = {phase: line[f"{phase}_seconds"] for phase in PHASES if f"{phase}_seconds" in line}
    # each phase is the slowest process's, so that together they may exceed the step
    phases |= {"rest": max(seconds - sum(phases.values()), 0.0), "step": seconds}
    figures = {
        **{name: line.get(name) for name in ("loss", "grad_norm", "padding", "idle", "tflops", "mfu")},
        **{f"{name}_per_second": line[name] / seconds for name in ("samples", "tokens", "images")},
        "tokens": line["tokens"],
        **{f"rate/{part}": rate for part, rate in line["rates"].items()},
        **{f"loss/{source}": loss for source, loss in line.get("source_losses", {}).items()},
        **{f"seconds/{phase}": value for phase, value in phases.items()},
    }
    return {name: value for name, value in figures.items() if value is not None}


class Silent:
    """Takes nothing down: the recorder of all processes but the first, and what a sink does with what it doesn't show.
    A context manager, since files, boards and bars must be closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: Any) -> None:
        pass

    def record(self, record: Record) -> None:
        """A step."""

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        """Samples that were replaced in a step."""

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        """A step that was left out, and its samples that gave rise to that, as `source/key`."""

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        """After a step the batch grew to so many tokens; the run will have `total` steps."""

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """A look at held-out samples after a step: mean loss over the supervised tokens of each source, and how many
        these are."""

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        """What the model said after a step."""

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        """Scores of a benchmark after a step: each metric over all questions, as a fraction."""
