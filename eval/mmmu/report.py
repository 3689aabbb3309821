"""Scores the replies in a folder and writes what there is to say of them.

    OUT/{split}_output.json   {id: reply}, as Yi's own script writes it
    OUT/submission.json       {id: final answer}: a letter, or an open question's reply; what the MMMU leaderboard takes
    OUT/result.json           how it was made and what came out
    OUT/table.md              the disciplines beside the published rows

Where right answers are withheld there is no accuracy: `result.json` says so, and there is no table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.mmmu import dataset, predictions, scoring
from eval.mmmu.dataset import Dataset
from eval.mmmu.predictions import Run
from eval.mmmu.published import COLUMNS, PUBLISHED, SOURCES
from eval.mmmu.scoring import Judged, Scores
from eval.mmmu.subjects import total

SUBMISSION = "submission.json"
RESULT = "result.json"
TABLE = "table.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many questions of which kind there were, and what became of them."""

    questions: int
    multiple_choice: int
    open: int
    missing: int
    """Without a reply; they count as wrong."""
    random: int
    """Multiple-choice replies in which the official parser finds no answer, so that a letter was drawn."""
    withheld: int
    """Without a public answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a run."""

    folder: Path
    """Where everything was written."""
    counts: Counts
    official: Scores | None
    """None where answers are withheld."""
    strict: Scores | None
    """The same with random letters counted as wrong."""
    notes: tuple[str, ...]
    """What a reader of the score should know."""
    text: str
    """The table and the notes, in Markdown; the notes alone where there is no accuracy."""


def rescore(data: Path, split: str, out: Path, model_name: str, subjects: Sequence[str] | None = None) -> Result:
    """Scores the replies that `out` has; asks no model.

    The data may be another revision than that of the replies, such as one with the answers: the result says so. Replies
    to subjects that are not scored are left aside.

    Raises:
        FileNotFoundError: no replies, or no data.
        ValueError: the replies are of another split, or a file is not as it should be.
    """
    replies = predictions.read_replies(out)
    run = predictions.read_run(out)
    if run is not None and run.split != split:
        raise ValueError(f"{out} holds replies to the split {run.split}, not to {split}")
    return write(out, dataset.load(data, split, subjects), replies, run, model_name)


def write(out: Path, data: Dataset, replies: Mapping[str, str], run: Run | None, model_name: str) -> Result:
    """Scores `replies` and writes the files; `run` is None for replies of unknown origin."""
    known = {sample.id for sample in data.samples}
    strangers = [key for key in replies if key not in known and "_".join(key.split("_")[1:-1]) in data.subjects]
    if strangers:
        raise ValueError(f"{out}: a reply to {strangers[0]}, which {data.folder} does not have")
    judged = scoring.judge(data.samples, replies)
    counts = _count(judged)
    scored = counts.withheld == 0
    official, strict = (scoring.official(judged), scoring.strict(judged)) if scored else (None, None)
    notes = _notes(data, counts, run, official, strict)

    given = {one.sample.id: one for one in judged if one.submitted is not None}
    predictions.write_json(out / f"{data.split}_output.json", {key: replies[key] for key in given}, indent=4)
    predictions.write_json(out / SUBMISSION, {key: one.submitted for key, one in given.items()})
    predictions.write_json(out / RESULT, _record(data, counts, run, model_name, official, strict, notes))
    text = "".join(f"- {note}\n" for note in notes)
    if official and strict:
        text = f"{_table(data.split, model_name, official, strict)}\n{text}"
        predictions.write_text(out / TABLE, text)
    else:
        (out / TABLE).unlink(missing_ok=True)
    return Result(folder=out, counts=counts, official=official, strict=strict, notes=notes, text=text)


def _count(judged: Sequence[Judged]) -> Counts:
    multiple_choice = sum(one.sample.multiple_choice for one in judged)
    return Counts(
        questions=len(judged),
        multiple_choice=multiple_choice,
        open=len(judged) - multiple_choice,
        missing=sum(one.submitted is None for one in judged),
        random=sum(one.random for one in judged),
        withheld=sum(one.correct is None for one in judged),
    )


def _notes(
    data: Dataset, counts: Counts, run: Run | None, official: Scores | None, strict: Scores | None
) -> tuple[str, ...]:
    protocol = f"protocol `{run.protocol}`" if run else f"unknown protocol (no {predictions.RUN} beside the replies)"
    notes = [
        f"MMMU {data.split}, {protocol}: {counts.questions} questions, {counts.multiple_choice} multiple-choice and "
        f"{counts.open} open; averages are over questions."
    ]
    if counts.questions != total(data.split):
        notes.append(
            f"Only {counts.questions} of the split's {total(data.split)} questions, in {len(data.subjects)} of 30 "
            "subjects: not comparable with published scores."
        )
    if counts.withheld:
        notes.append(
            f"No accuracy: {counts.withheld} of {counts.questions} questions have no answer in {data.folder}. "
            f"Hand in {SUBMISSION}, or score again (--score-only) where there are answers."
        )
    if counts.missing:
        notes.append(f"{counts.missing} questions have no reply; they count as wrong.")
    notes.append(f"{counts.random} replies show the official parser no choice and got a random letter, as officially.")
    if official and strict:
        notes.append(f"Overall {official.overall.percent} officially, {strict.overall.percent} with these as wrong.")
        if data.split in SOURCES:
            notes.append(f"The other rows: {SOURCES[data.split]}.")
    if run and run.data_revision != data.revision and set(data.subjects) == set(run.subjects):
        notes.append(f"Asked on data revision {run.data_revision[:12]}, scored on {data.revision[:12]}.")
    return tuple(notes)


def _record(
    data: Dataset,
    counts: Counts,
    run: Run | None,
    model_name: str,
    official: Scores | None,
    strict: Scores | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """`result.json`. Accuracies are fractions, not rounded."""
    return {
        "benchmark": "MMMU",
        "split": data.split,
        "protocol": run.protocol if run else None,
        "model": run.model if run else model_name,
        "model_revision": run.model_revision if run else None,
        "data": {
            "folder": str(data.folder),
            "revision": data.revision,
            "revision_asked": run.data_revision if run else None,
            "files": len(data.files),
            "subjects": data.subjects,
        },
        "decoding": {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": run.max_new_tokens if run else None,
            "batch_size": run.batch_size if run else None,
        },
        "counts": {
            "questions": counts.questions,
            "multiple_choice": counts.multiple_choice,
            "open": counts.open,
            "answered": counts.questions - counts.missing,
            "missing": counts.missing,
            "random_fallbacks": counts.random,
            "withheld_answers": counts.withheld,
        },
        "official": _scores(official),
        "strict": _scores(strict),
        "notes": list(notes),
    }


def _scores(scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None

    def plain(tally: scoring.Tally) -> dict[str, float]:
        return {"questions": tally.questions, "correct": tally.correct, "accuracy": tally.accuracy}

    return {
        "overall": plain(scores.overall),
        "disciplines": {name: plain(tally) for name, tally in scores.disciplines.items()},
        "subjects": {name: plain(tally) for name, tally in scores.subjects.items()},
    }


def _table(split: str, model_name: str, official: Scores, strict: Scores) -> str:
    """The model officially and strictly, then the published rows of the split; in percent."""
    name = model_name.replace("|", "\\|")
    own = {name: official, f"{name} (random letters wrong)": strict}
    rows = [
        ["Model", *COLUMNS],
        *([label, *(scores.row[column].percent for column in COLUMNS)] for label, scores in own.items()),
        *([other, *(f"{value:.1f}" for value in row)] for other, row in PUBLISHED[split].items()),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    text = ""
    for first, *others in (rows[0], rule, *rows[1:]):
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        text += f"| {' | '.join(cells)} |\n"
    return text
