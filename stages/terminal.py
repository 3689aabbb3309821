"""The terminal: a bar while somebody looks on, and lines of what happens. Where it is a file there is no bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from data.loader import Broken
from stages.record import PHASES, Answer, Record, Silent

_EVERY = {True: 60.0, False: 15.0}
"""Seconds from one line of figures to the next: on a terminal, and in a file."""
_WIDTH = 200
"""Characters of a text that are shown."""


class Terminal(Silent):
    """Args:
    name: of the stage.
    start: steps done before.
    total: steps of the whole run.
    """

    def __init__(self, name: str, start: int, total: int) -> None:
        self._looked_at = sys.stderr.isatty()
        self._name, self._total = name, total
        self._next_line = 0.0
        self._bar = tqdm(
            total=total, initial=start, desc=name, unit="step", dynamic_ncols=True, disable=not self._looked_at
        )

    def __exit__(self, *what: Any) -> None:
        self._bar.close()

    def record(self, record: Record) -> None:
        """A step; its line comes with the first and the last one, and now and then."""
        self._bar.set_postfix_str(", ".join(_short(record)), refresh=False)
        self._bar.update()
        now = time.monotonic()
        if now >= self._next_line or record.step == self._total:
            self._next_line = now + _EVERY[self._looked_at]
            told = ", ".join([*_short(record), *_long(record)])
            self._line(f"{self._name}, step {record.step:,} of {self._total:,}: {told}")

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        """Samples that were replaced."""
        if broken:
            first = _flat(f"{broken[0].source}/{broken[0].key}: {broken[0].reason}")
            self._line(f"step {step:,}: {len(broken)} unusable samples were replaced; the first is {first}")

    def skipped(self, step: int, reason: str, keys: Sequence[str]) -> None:
        """A step that was left out."""
        self._line(f"step {step:,} was left out: {reason}; {_flat(', '.join(keys))}")

    def grown(self, step: int, tokens: int, reason: str, total: int) -> None:
        """The batch grew."""
        self._bar.total = self._total = total
        self._line(f"after step {step:,} the batch grew to {tokens:,} tokens: {reason}")

    def held_out(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """A look at held-out samples."""
        self._line(f"after step {step:,}, loss of held-out samples: {_named(losses)}")

    def answers(self, step: int, answers: Sequence[Answer]) -> None:
        """What the model said."""
        for one in answers:
            asked = f"{_flat(one.question)} " if one.question else ""
            self._line(f"  {one.source}/{one.key}: {asked}-> {_flat(one.answer)} (right: {_flat(one.truth)})")

    def benchmark(self, step: int, name: str, scores: Mapping[str, float]) -> None:
        """Scores of a benchmark."""
        self._line(f"after step {step:,}, {name}: {_named(scores)}")

    def _line(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)


def _short(record: Record) -> list[str]:
    rates = {"samples": record.samples, "images": record.images, "tokens": record.tokens}
    told = [
        f"loss {record.loss:.4f}",
        f"rate {max(record.rates.values()):.2e}",
        *(f"{count / record.seconds:,.{0 if name == 'tokens' else 1}f} {name}/s" for name, count in rates.items()),
        f"data {record.data_seconds / record.seconds:.0%}",
    ]
    return told if record.mfu is None else [*told, f"MFU {record.mfu:.1%}"]


def _long(record: Record) -> list[str]:
    """What a bar has no room for: after the wait for data the other parts of the step."""
    parts = {phase: getattr(record, f"{phase}_seconds") for phase in PHASES[1:]}
    return [
        *(f"{phase} {seconds / record.seconds:.0%}" for phase, seconds in parts.items()),
        f"padding {record.padding:.1%}",
        f"gradient {record.grad_norm:.3g}",
        f"loss of {_named(record.source_losses)}",
    ]


def _named(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def _flat(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} …"
