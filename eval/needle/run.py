"""Asks a model every cell of a grid.

    reader = FolderReader(Path("Yi-6B-200K"))
    result = measure(reader, built_in(ENGLISH), Grid(lengths=(4096, 32768)), Path("needle/en"), model_name="Yi-6B-200K")

Replies are kept as they come (`eval.predictions`), so the same call goes on after a stop, and a larger grid asks only
what is new. Several processes (torchrun), each with the whole model, share the cells.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eval import predictions
from eval.needle import report
from eval.needle.grid import Grid
from eval.needle.haystack import Haystack
from eval.needle.prompt import ANSWER_TOKENS, build, draw
from eval.needle.reader import Reader
from eval.needle.report import TITLE, Answer, Result, recall
from eval.predictions import Predictions, Run
from yivl.ranks import Ranks

Progress = Callable[[int, int], None]
"""Called with how many questions of this process have a reply, and how many there are."""


def measure(
    reader: Reader,
    haystack: Haystack,
    grid: Grid,
    out: Path,
    *,
    model_name: str,
    model_revision: str | None = None,
    ranks: Ranks | None = None,
    progress: Progress = lambda done, questions: None,
) -> Result:
    """Asks what `out` does not answer yet and writes the result there. All processes call it together.

    Args:
        reader: the model.
        haystack: where the needles are hidden, in one language.
        grid: what is asked.
        out: where replies and results go.
        model_name: stands in the results.
        model_revision: tells the model from others, so that replies of two are not mixed; `model_name` if None.
        ranks: the processes; this one alone if None.
        progress: see `Progress`.

    Raises:
        ValueError: a length that the model does not read, or that has no room for the question; or `out` holds another
            run.
        OtherProcessFailed: the first process could not begin or write; it says why.
    """
    if reader.limit is not None and grid.lengths[-1] > reader.limit:
        raise ValueError(
            f"length {grid.lengths[-1]}: {model_name} reads {reader.limit} tokens at most (its max_position_embeddings)"
        )
    ranks = ranks or Ranks()
    run = Run(
        benchmark=TITLE,
        protocol=reader.form,
        split=haystack.language.name,
        subjects=None,
        model=model_name,
        model_revision=model_revision or model_name,
        data=haystack.source,
        data_revision=haystack.revision,
        max_new_tokens=ANSWER_TOKENS,
        batch_size=1,
        settings={"needles": grid.needles, "seed": grid.seed},
    )
    ranks.by_first(lambda: predictions.begin(out, run))
    out.mkdir(parents=True, exist_ok=True)  # on the machines of the other processes
    with Predictions(out, ranks.rank) as kept:
        kept.share(ranks.gather)
        _ask(reader, haystack, grid, kept, ranks, progress)
        kept.share(ranks.gather)
        result = Result(run=run, grid=grid, answers=tuple(_answers(haystack, grid, kept)))
        ranks.by_first(lambda: report.write(result, out))
    return result


def _ask(reader: Reader, haystack: Haystack, grid: Grid, kept: Predictions, ranks: Ranks, progress: Progress) -> None:
    mine = grid.cells[ranks.rank :: ranks.count]
    missing = [cell for cell in mine if cell.id not in kept.replies]
    for done, cell in enumerate(missing, start=len(mine) - len(missing) + 1):
        needles = draw(haystack, cell, grid.needles, grid.seed)
        prompt = build(reader, haystack, cell, needles, grid.seed)
        kept.add([(cell.id, reader.complete(prompt, ANSWER_TOKENS))])
        progress(done, len(mine))


def _answers(haystack: Haystack, grid: Grid, kept: Predictions) -> list[Answer]:
    answers = []
    for cell in grid.cells:
        asked = draw(haystack, cell, grid.needles, grid.seed)[0]
        reply = kept.replies[cell.id]
        answers.append(Answer(cell=cell, needle=asked, reply=reply, recall=recall(reply, asked.value)))
    return answers
