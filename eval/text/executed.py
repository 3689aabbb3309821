"""HumanEval and MBPP among the text benchmarks: asked as `eval.programs` has it, their programs run in its sandbox.

Each has a folder as every benchmark has (`eval.results`): OUT/tasks/humaneval with the completions as they came, each
problem's verdict, and a page. The same call goes on after a stop, and runs all programs anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from eval import runner
from eval.benchmark import OVERALL
from eval.completion import complete
from eval.programs.benchmark import PASS_AT_1, CodeBenchmark
from eval.programs.humaneval import HumanEval
from eval.programs.mbpp import MBPP
from eval.programs.sandbox import Sandbox
from eval.progress import progress
from eval.text.model import Model
from eval.text.report import Scores
from yivl.conversation import Conversation

BENCHMARKS: Mapping[str, Callable[[Path, Sandbox], CodeBenchmark]] = {
    "humaneval": HumanEval,
    "mbpp": MBPP,
    "mbpp_sanitized": partial(MBPP, split="sanitized"),
}
"""By task. The harness's own of these names execute programs without isolation, and load what does it from the hub."""


def benchmarks(tasks: Mapping[str, int | None], data: Path, sandbox: Sandbox | None) -> dict[str, CodeBenchmark]:
    """Those among `tasks`.

    Args:
        tasks: examples before each question, by task; None for the task's own number.
        data: the hub's files, downloaded.
        sandbox: for their programs; None where no program may be run.

    Raises:
        FileNotFoundError: a file of the data is missing.
        BadData: one is not as it should be.
        ValueError: there is no sandbox for one, or it has another number of examples.
    """
    names = [name for name in tasks if name in BENCHMARKS]
    if names and sandbox is None:
        raise ValueError(
            f"{', '.join(names)}: programs that the model writes are executed; say --allow-code, or name other --tasks"
        )
    found = {name: BENCHMARKS[name](data, sandbox) for name in names if sandbox}
    for name, benchmark in found.items():
        if tasks[name] not in (None, benchmark.shots):
            raise ValueError(f"{name} has {benchmark.shots} examples before each problem, not {tasks[name]}")
    return found


def scores(name: str, benchmark: CodeBenchmark, model: Model, out: Path, batch_size: int) -> Scores:
    """What a benchmark comes to; completions that `out` has are not asked again.

    Raises:
        ValueError: `out` has results of another model or data, or a problem is longer than the model reads.
    """

    def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        prompts = [conversation.turns[0].text for conversation in conversations]
        texts = complete(model.language, prompts, max_new_tokens=max_new_tokens, stops=benchmark.stops)
        return [benchmark.cut(text) for text in texts]

    result = runner.evaluate(
        answer,
        benchmark,
        out / "tasks" / name,
        model_name=str(model.folder),
        model_revision=model.revision,
        batch_size=batch_size,
        progress=progress(f"problems of {benchmark.title}"),
    )
    score = result.scores[PASS_AT_1][OVERALL][OVERALL]
    error = math.sqrt(score.value * (1 - score.value) / (score.questions - 1)) if score.questions > 1 else None
    return {
        name: {
            "metrics": {PASS_AT_1: score.record() | {"stderr": error}},
            "questions": score.questions,
            "shots": benchmark.shots,
            "isolation": benchmark.sandbox.isolation,
        }
    }
