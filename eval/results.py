"""Scores the replies of a run and writes what there is to say of them.

    OUT/result.json     how it was made and what came out
    OUT/answers.jsonl   every question: prompt, reply, what was read from it, the truth, the score, and why
    OUT/table.md        the model beside published rows
    OUT/...             what the benchmark's own server takes
    OUT/index.html      the same as a page, with the pictures; drawn by `eval.page`

Where right answers are withheld there is no score: `result.json` says so, and there is no table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import predictions
from eval.benchmark import OVERALL, Benchmark, Verdict
from eval.fallback import FALLBACKS
from eval.predictions import Run
from eval.scores import RESAMPLES, SEED, Score, Scores, scores
from eval.tables import markdown, percent

RESULT = "result.json"
ANSWERS = "answers.jsonl"
TABLE = "table.md"
PAGE = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a run."""

    folder: Path
    """Where everything is written."""
    run: Run
    replies: Mapping[str, str]
    verdicts: tuple[Verdict, ...]
    scores: Scores
    """Empty where answers are withheld."""
    notes: tuple[str, ...]
    """What a reader of the score should know."""
    table: str
    """The model beside published rows, in Markdown; empty where answers are withheld."""

    @property
    def metric(self) -> str | None:
        """The benchmark's own; None where answers are withheld."""
        return next(iter(self.scores), None)

    @property
    def overall(self) -> Score | None:
        """The one number; None where answers are withheld."""
        return self.scores[self.metric][OVERALL][OVERALL] if self.metric else None

    @property
    def text(self) -> str:
        """The table and the notes, in Markdown."""
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"{self.table}\n{notes}" if self.table else notes


def rescore(benchmark: Benchmark, out: Path) -> Result:
    """Scores the replies that `out` has and writes the result anew; asks no model.

    The data may be another revision than that of the replies, such as one with the answers: the result says so.

    Raises:
        FileNotFoundError: no replies.
        ValueError: the replies are of another benchmark, split or protocol, or a file is not as it should be.
    """
    replies = predictions.read_replies(out)
    run = predictions.read_run(out)
    if run is None:
        raise ValueError(f"{out} has no {predictions.RUN}, so nobody knows what its replies answer")
    now = {"benchmark": benchmark.title, "split": benchmark.split, "protocol": benchmark.protocol}
    for name, value in now.items():
        if (was := getattr(run, name)) != value:
            raise ValueError(f"{out} holds replies to the {name} {was}, not to {value}")
    result = score(benchmark, out, replies, run)
    write(benchmark, result)
    return result


def score(benchmark: Benchmark, out: Path, replies: Mapping[str, str], run: Run) -> Result:
    """Judges replies. Those to questions outside the chosen subjects are left aside.

    Raises:
        ValueError: a reply is to no question of the benchmark.
    """
    known = {question.id for question in benchmark.questions}
    if benchmark.subjects is None and (strangers := [key for key in replies if key not in known]):
        raise ValueError(f"{out}: a reply to {strangers[0]}, which {benchmark.data} does not have")
    verdicts = tuple(benchmark.judge(replies))
    withheld = sum(not verdict.parts for verdict in verdicts)
    found = {} if withheld else scores(verdicts)
    return Result(
        folder=out,
        run=run,
        replies={verdict.question.id: verdict.reply for verdict in verdicts if verdict.reply is not None},
        verdicts=verdicts,
        scores=found,
        notes=tuple(_notes(benchmark, run, verdicts, withheld, found)),
        table=markdown(benchmark, run.model, found) if found else "",
    )


def write(benchmark: Benchmark, result: Result) -> None:
    """Writes all files but the page."""
    out = result.folder
    predictions.write_text(out / ANSWERS, "".join(f"{_line(verdict)}\n" for verdict in result.verdicts))
    for name, content in benchmark.submission(result.verdicts).items():
        predictions.write_text(out / name, content)
    predictions.write_json(out / RESULT, _record(benchmark, result))
    if result.scores:
        predictions.write_text(out / TABLE, result.text)
    else:
        (out / TABLE).unlink(missing_ok=True)


def _notes(benchmark: Benchmark, run: Run, verdicts: Sequence[Verdict], withheld: int, found: Scores) -> list[str]:
    notes = [f"{benchmark.title} {benchmark.split}, protocol `{run.protocol}`: {len(verdicts)} questions."]
    if found:
        for metric, levels in found.items():
            all_of = levels[OVERALL][OVERALL]
            notes.append(
                f"{metric}: {percent(all_of.value)} (95 % interval {percent(all_of.low)} to {percent(all_of.high)}: "
                f"bootstrap over questions, {RESAMPLES} resamples, seed {SEED})."
            )
    if withheld:
        notes.append(
            f"No score: {withheld} of {len(verdicts)} questions have no answer in {benchmark.data}. Hand in what was "
            "written, or score again (--score-only) where there are answers."
        )
    if missing := sum(verdict.reply is None for verdict in verdicts):
        notes.append(f"{missing} questions have no reply; they count as wrong.")
    if drawn := sum(verdict.drawn for verdict in verdicts):
        notes.append(f"In {drawn} replies no answer was found: {FALLBACKS[benchmark.fallback or 'official']}.")
    if benchmark.subjects is not None:
        notes.append(f"Only {', '.join(benchmark.subjects)}: not comparable with scores of the whole.")
    notes += benchmark.notes(verdicts)
    if found and (published := benchmark.published):
        notes.append(f"The other rows: {published.source}.")
    if run.data_revision != (now := benchmark.revision) and benchmark.subjects is None:
        notes.append(f"Asked on data revision {run.data_revision[:12]}, scored on {now[:12]}.")
    return notes


def _line(verdict: Verdict) -> str:
    question = verdict.question
    return json.dumps(
        {
            "id": question.id,
            "prompt": question.prompt,
            "reply": verdict.reply,
            "answer": verdict.answer,
            "truth": question.truth,
            "score": verdict.score,
            "drawn": verdict.drawn,
            "why": verdict.why,
            **question.groups,
        },
        ensure_ascii=False,
    )


def _record(benchmark: Benchmark, result: Result) -> dict[str, Any]:
    """`result.json`. Scores are fractions, not rounded."""
    verdicts, run = result.verdicts, result.run
    return {
        "benchmark": benchmark.title,
        "split": benchmark.split,
        "protocol": run.protocol,
        "fallback": benchmark.fallback,
        "model": run.model,
        "model_revision": run.model_revision,
        "data": {
            "path": str(benchmark.data),
            "revision": benchmark.revision,
            "revision_asked": run.data_revision,
            "files": len(benchmark.files),
            "subjects": benchmark.subjects,
        },
        "decoding": {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": run.max_new_tokens,
            "batch_size": run.batch_size,
        },
        "counts": {
            "questions": len(verdicts),
            "missing": sum(verdict.reply is None for verdict in verdicts),
            "drawn": sum(verdict.drawn for verdict in verdicts),
            "withheld": sum(not verdict.parts for verdict in verdicts),
        },
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": 0.95},
        "metric": result.metric,
        "scores": {
            metric: {
                level: {name: group.record() for name, group in groups.items()} for level, groups in levels.items()
            }
            for metric, levels in result.scores.items()
        },
        "notes": list(result.notes),
    }
