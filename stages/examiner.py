"""Puts benchmarks to the model while it trains, exactly as `python -m eval.NAME` does to a finished one.

Training does not notice: greedy answers draw no random numbers, and the model goes back to what it was doing. Results
lie in RUN/benchmarks/step-N/NAME; the same scores are in the run's logs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from eval import registry
from eval.benchmark import OVERALL, Benchmark, Choices
from eval.runner import evaluate
from stages.engines.engine import Engine
from stages.stage import Examination, Stage
from stages.watchdog import Watchdog
from yivl import YiVL
from yivl.conversation import Conversation
from yivl.ranks import Ranks

log = logging.getLogger("yivl")


class Scored(NamedTuple):
    """What a benchmark gave."""

    benchmark: str
    scores: dict[str, float]
    """Each metric over all questions, as a fraction."""


@dataclass(frozen=True, slots=True)
class _Paper:
    settings: Examination
    benchmark: Benchmark


class Examiner:
    """The benchmarks of a run. All processes build it together.

    Args:
        stage: its `benchmarks`.
        tokenizer: of the model.
        ranks: the processes, which share out the questions.
        folder: where results go.
        watchdog: told which questions are asked.

    Raises:
        FileNotFoundError, ValueError: as the benchmarks do, for data that are missing or not as they should be.
    """

    def __init__(
        self, stage: Stage, *, tokenizer: PreTrainedTokenizerBase, ranks: Ranks, folder: Path, watchdog: Watchdog
    ) -> None:
        self.tokenizer = tokenizer
        self.ranks = ranks
        self.folder = folder
        self.watchdog = watchdog
        self.papers = ranks.alike(lambda: {name: _paper(name, one) for name, one in stage.benchmarks.items()})

    def examine(self, engine: Engine, step: int) -> list[Scored]:
        """The model as it is now; all processes call it together, between two steps, and are told the same."""
        return [self._examine(engine, step, name, paper) for name, paper in self.papers.items()]

    def _examine(self, engine: Engine, step: int, name: str, paper: _Paper) -> Scored:
        out = self.folder / f"step-{step:09d}" / name
        self.ranks.by_first(lambda: shutil.rmtree(out, ignore_errors=True))  # of a run that was killed here

        def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
            self.watchdog.phase(f"benchmark {name}", [one.key for one in conversations])
            with engine.generating() as model:
                asked = YiVL(model, self.tokenizer)
                return asked.answer(conversations, max_new_tokens=max_new_tokens, synced_gpus=engine.synced)

        result = evaluate(
            answer,
            paper.benchmark,
            out,
            model_name=f"step {step}",
            batch_size=paper.settings.batch_size,
            ranks=self.ranks,
            in_step=engine.synced,
        )
        self.watchdog.phase(f"benchmark {name}")
        scores = {metric: levels[OVERALL][OVERALL].value for metric, levels in result.scores.items()}
        log.info("step %d, %s: %s", step, name, ", ".join(f"{metric} {100 * v:.1f}" for metric, v in scores.items()))
        return Scored(name, scores)


def _paper(name: str, settings: Examination) -> _Paper:
    choices = Choices(
        split=settings.split, protocol=settings.protocol, subjects=settings.subjects, fallback=settings.fallback
    )
    return _Paper(settings, registry.find(name)(Path(settings.data), choices))
