"""All three stages on a desk-size model and data made on the spot: about eight minutes on two cores.

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
from pathlib import Path

from stages.quickstart.examination import Asked, accuracy, examine, held_out_questions
from stages.quickstart.prepare import Amounts, prepare
from stages.stage import Stage
from stages.train import train
from yivl import YiVL
from yivl.settings import read

RUN = Path("runs/quickstart")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
STAGES = ("stage1", "stage2", "stage3")
AMOUNTS = Amounts(words=7000, captions=800, questions=2400)
_SCENES = 60
"""Held-out pictures that each stage is examined on."""


def main() -> int:
    """Runs it all; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    shutil.rmtree(RUN, ignore_errors=True)
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - began - sum(seconds.values()), 1)

    prepare(RUN, AMOUNTS, seed=1)
    lap("data")
    train(read(Stage, CONFIGS / "text.yaml"))
    lap("text")
    questions = held_out_questions(_SCENES, seed=2)
    marks: dict[str, dict[str, float]] = {}
    answered: list[Asked] = []
    for name in STAGES:
        model = YiVL.load(train(read(Stage, CONFIGS / f"{name}.yaml")))
        lap(name)
        answered = examine(model, questions, name)
        marks[name] = accuracy(answered)
        lap(f"{name} examined")
        logging.info("%s: %s", name, marks[name])
    print(json.dumps(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
