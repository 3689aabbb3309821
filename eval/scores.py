"""Verdicts to scores: every metric is a sum over questions divided by another, all together and by group, with a
confidence interval.

The interval is the percentile bootstrap over questions: the 2.5th and 97.5th percentile of the metric over resamples
drawn with replacement, from a generator with a stated seed. It says how much the choice of questions matters; it knows
nothing of prompts or of training runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.benchmark import OVERALL, Verdict

RESAMPLES = 1000
SEED = 0
_LEVEL = (2.5, 97.5)
_CHUNK = 2**22
"""Counts drawn at a time."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of some questions."""

    value: float
    """0 where it divides nothing by nothing, as precision does when nothing is claimed."""
    low: float
    high: float
    """The ends of the 95 % interval."""
    questions: int

    def record(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "questions": self.questions}


Scores = dict[str, dict[str, dict[str, Score]]]
"""By metric, then by level ("Overall", or such as "subject"), then by group, in order of first appearance. The level
"Overall" has one group of the same name."""


def scores(verdicts: Sequence[Verdict]) -> Scores:
    """All metrics. Questions whose right answer is withheld are left out."""
    judged = [verdict for verdict in verdicts if verdict.parts]
    metrics = list(dict.fromkeys(metric for verdict in judged for metric in verdict.parts))
    return {metric: _by_group([one for one in judged if metric in one.parts], metric) for metric in metrics}


def _by_group(verdicts: Sequence[Verdict], metric: str) -> dict[str, dict[str, Score]]:
    found: dict[str, dict[str, list[Verdict]]] = {OVERALL: {OVERALL: list(verdicts)}}
    for verdict in verdicts:
        for level, group in verdict.question.groups.items():
            found.setdefault(level, {}).setdefault(group, []).append(verdict)
    return {
        level: {name: _score([one.parts[metric] for one in members]) for name, members in groups.items()}
        for level, groups in found.items()
    }


def _score(parts: Sequence[tuple[float, float]]) -> Score:
    sums = np.asarray(parts, dtype=np.float64)  # [n, 2]
    total = sums.sum(axis=0)
    low, high = np.percentile(_resampled(sums), _LEVEL)
    return Score(value=float(_ratio(total)), low=float(low), high=float(high), questions=len(parts))


def _resampled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The metric of each resample."""
    rng = np.random.default_rng(SEED)
    step = max(1, _CHUNK // len(sums))
    found = []
    for first in range(0, RESAMPLES, step):
        chosen = rng.integers(0, len(sums), (min(step, RESAMPLES - first), len(sums)))
        found.append(_ratio(sums[chosen].sum(axis=1)))
    return np.concatenate(found)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    amount, of = sums[..., 0], sums[..., 1]
    return np.divide(amount, of, out=np.zeros_like(amount), where=of != 0)
