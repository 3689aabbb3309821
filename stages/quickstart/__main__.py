"""All three stages on a desk-size model and data made on the spot: about nine minutes on two cores.

    python -m stages.quickstart

Draws a bilingual world, teaches a small language model its text, then runs stages 1, 2 and 3 with a step in resolution
between them, measures held-out accuracy after each, runs the MMMU evaluation on an MMMU-shaped set, and asks three
questions. Writes runs/quickstart/summary.json and runs/quickstart/report.html.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmark import Choices
from eval.mmmu import MMMU
from eval.results import Result
from eval.runner import evaluate_model
from stages.quickstart.examination import Asked, accuracy, ask_all, held_out_questions
from stages.quickstart.mmmu_set import write_mmmu_set
from stages.quickstart.prepare import Amounts, prepare
from stages.quickstart.questions import all_kinds, chance
from stages.quickstart.report import Example, write_report
from stages.stage import Stage
from stages.train import train
from yivl import YiVL
from yivl.settings import read

RUN = Path("runs/quickstart")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
STAGES = ("stage1", "stage2", "stage3")
AMOUNTS = Amounts(words=3400, descriptions=6800, captions=5000, questions=1200)
_SCENES = 50
"""Held-out pictures that each stage is examined on: 12 questions about each."""
_SHOWN = 12
"""Answers shown on the page."""

log = logging.getLogger("yivl")


class Clock:
    """How long each part of the run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the time since the last lap under `name`, and the time since the beginning."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 1)
        self.seconds.pop("total", None)
        self.seconds["total"] = round(now - self._began, 1)
        self._last = now


def main() -> int:
    """Runs it all; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    shutil.rmtree(RUN, ignore_errors=True)
    clock = Clock()
    prepare(RUN, AMOUNTS, seed=1)
    clock.lap("data")
    train(read(Stage, CONFIGS / "text.yaml"))
    clock.lap("text")

    questions = held_out_questions(_SCENES, seed=2)
    marks: dict[str, dict[str, float]] = {}
    for name in STAGES:
        folder = train(read(Stage, CONFIGS / f"{name}.yaml"))
        clock.lap(name)
        model = YiVL.load(folder)
        answered = ask_all(model, questions, name)
        marks[name] = accuracy(answered)
        log.info("%s, held out: %s", name, ", ".join(f"{kind} {mark:.1%}" for kind, mark in marks[name].items()))
        clock.lap(f"{name}, examined")

    write_mmmu_set(RUN / "mmmu", questions=20, seed=3)
    result = evaluate_model(folder, MMMU(RUN / "mmmu", Choices()), RUN / "mmmu-validation", batch_size=32)
    print(result.text)
    clock.lap("MMMU-shaped set")

    shown = sample(answered, _SHOWN, seed=4)
    print("\nThree questions:")
    for one in shown[:3]:
        reply = model.ask(one.picture, one.question.text, max_new_tokens=16)
        print(f"  {one.question.text.splitlines()[0]}\n    {reply}   (truth: {one.question.answer})")
    clock.lap("three questions")

    answers: list[dict[str, Any]] = [
        {
            "question": one.question.text,
            "answer": one.answer,
            "truth": one.question.answer,
            "language": one.question.language,
            "correct": one.correct,
        }
        for one in shown
    ]
    constant = chances()
    summary = {
        "accuracy": marks,
        "chance": constant,
        "seconds": clock.seconds,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "answers": answers,
        "mmmu": mmmu_accuracy(result),
    }
    (RUN / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    curves = {name: losses(RUN / name / "log.jsonl") for name in ("text", *STAGES)}
    examples = [Example(picture=one.picture, **answer) for one, answer in zip(shown, answers, strict=True)]
    write_report(RUN / "report.html", summary, curves, examples)
    final = marks[STAGES[-1]]["all"]
    print(f"\nheld-out accuracy {final:.1%}, chance {constant['all']:.1%}, {clock.seconds['total']:.0f} s")
    print(f"{RUN / 'report.html'}")
    return 0


def sample(answered: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    """Some answers of each kind, in both languages in turn, drawn at random."""
    rng = np.random.default_rng(seed)
    shuffled = [answered[i] for i in rng.permutation(len(answered))]
    wanted = [(kind, language) for number, kind in enumerate(all_kinds) for language in _languages(number)]
    found = []
    for kind, language in wanted:
        found.append(next(a for a in shuffled if (a.question.kind, a.question.language) == (kind, language)))
    return found[:count]


def _languages(number: int) -> tuple[str, str]:
    return ("en", "zh") if number % 2 == 0 else ("zh", "en")


def chances() -> dict[str, float]:
    """What constant guessing reaches, for each kind and on average."""
    each = {kind: round(chance(kind), 4) for kind in all_kinds}
    return each | {"all": round(sum(each.values()) / len(each), 4)}


def mmmu_accuracy(result: Result) -> dict[str, float]:
    """Accuracy of each discipline, and Overall."""
    assert result.overall is not None and result.metric is not None  # the set is written with its answers
    disciplines = result.scores[result.metric]["discipline"]
    return {name: round(score.value, 4) for name, score in disciplines.items()} | {
        "Overall": round(result.overall.value, 4)
    }


def losses(log_file: Path) -> list[tuple[int, float]]:
    """The loss of each step."""
    records: list[dict[str, Any]] = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()]
    return [(record["step"], record["loss"]) for record in records]


if __name__ == "__main__":
    sys.exit(main())
