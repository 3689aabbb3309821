"""python -m eval.page DIR: a result folder as one HTML file that loads nothing.

Beside the table stand bars of every group with their intervals, and every question with its picture, prompt, raw reply,
what was read from it, the truth and why it counts so; a filter shows those of a group, the wrong ones, or those with a
word in them. Of more than `QUESTIONS` questions a sample, evenly spread, is shown.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from eval import predictions, registry, results
from eval.benchmark import OVERALL, BadData, Benchmark, Choices, Picture, Verdict
from eval.results import PAGE, Result
from eval.scores import Score
from eval.tables import columns, percent, rows
from yivl import page

QUESTIONS = 2000
"""On a page; with their pictures some 20 MB."""
_SIDE = 224
"""Largest side of a question's picture, in pixels."""
_WINDOW = 128
"""Questions whose pictures are in memory at a time."""

_STYLE = """
.bars { display: grid; grid-template-columns: minmax(6rem, 15rem) 1fr auto; gap: 4px 12px; align-items: center;
  padding: 14px; font-size: .9375rem; font-variant-numeric: tabular-nums; }
.bars i { position: relative; display: block; height: 14px; border-radius: 4px; background: var(--line); }
.bars i b { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: var(--accent); }
.bars i u { position: absolute; top: 6px; height: 2px; background: var(--ink); opacity: .6; }
.bars > span { overflow-wrap: anywhere; }
.bars > span:nth-child(3n) { color: var(--soft); text-align: right; }
.notes { max-width: 46rem; margin: 8px 0 24px; padding-left: 1.2rem; color: var(--soft); }
.scores th { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
.scores thead th { min-width: 0; overflow-wrap: normal; }
.filter { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin: 0 0 14px; }
.filter select, .filter input { padding: 6px 8px; border: 1px solid var(--line); border-radius: 6px; font: inherit;
  background: var(--card); color: var(--ink); max-width: 100%; }
.asked { display: grid; gap: 14px; }
.asked article { display: grid; grid-template-columns: minmax(0, 224px) minmax(0, 1fr); gap: 4px 18px;
  content-visibility: auto; contain-intrinsic-size: auto 260px; }
.asked .seen { display: flex; flex-direction: column; gap: 8px; }
.asked img { max-width: 100%; height: auto; border-radius: 6px; }
.asked dl { display: grid; grid-template-columns: 5rem minmax(0, 1fr); gap: 4px 12px; margin: 8px 0 0; }
.asked dt { color: var(--soft); }
.asked dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.asked pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
.asked header { display: flex; flex-wrap: wrap; gap: 4px 12px; color: var(--soft); font-size: .875rem; }
.mark { font-weight: 650; }
.right { color: light-dark(#14713c, #6fd396); }
.wrong { color: light-dark(#b3261e, #ff9a90); }
@media (max-width: 600px) { .asked article { grid-template-columns: 1fr; }
  .bars { grid-template-columns: 7rem 1fr auto; } }
"""

_SCRIPT = """
const cards = [...document.querySelectorAll(".asked article")], count = document.querySelector("#count");
const group = document.querySelector("#group"), outcome = document.querySelector("#outcome");
const words = document.querySelector("#words");
const show = () => {
  const wanted = words.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const fits = (!group.value || card.dataset.groups.split("\\n").includes(group.value))
      && (!outcome.value || card.dataset.outcome.split(" ").includes(outcome.value))
      && (!wanted || card.textContent.toLowerCase().includes(wanted));
    card.hidden = !fits;
    card.style.display = fits ? "" : "none";
    shown += fits;
  }
  count.textContent = `${shown} of ${cards.length} shown`;
};
for (const one of [group, outcome, words]) one.addEventListener("input", show);
show();
"""


def write(benchmark: Benchmark, result: Result) -> Path:
    """Draws the page of a result; where it is."""
    run = result.run
    parts = [
        f"<h1>{escape(benchmark.title)}, {escape(benchmark.split)}: {escape(run.model)}</h1>",
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in result.notes)}</ul>',
        page.tiles(_figures(result)),
    ]
    if result.scores:
        cells = rows(benchmark, run.model, result.scores)
        table = page.table(
            "Scores", ["", *columns(benchmark, result.scores)], [page.text_row(*line) for line in cells], "scores"
        )
        parts += [page.section("Scores", "In percent.", table), *_groups(result)]
    shown = _spread(result.verdicts, QUESTIONS)
    sample = "" if len(shown) == len(result.verdicts) else f"{len(shown)} of {len(result.verdicts)}, evenly spread."
    cards = "".join(_cards(benchmark, shown))
    parts.append(page.section("Questions", sample, _filter(shown), f'<div class="asked">{cards}</div>'))
    path = result.folder / PAGE
    unfinished = path.with_name(f"{PAGE}.tmp")
    page.write_page(unfinished, f"{benchmark.title}: {run.model}", parts, style=_STYLE, script=_SCRIPT)
    unfinished.replace(path)
    return path


def _figures(result: Result) -> dict[str, str]:
    verdicts, overall = result.verdicts, result.overall
    figures = {}
    if overall and result.metric:
        figures[result.metric] = percent(overall.value)
        figures["95 % interval"] = f"{percent(overall.low)} – {percent(overall.high)}"
    figures["questions"] = f"{len(verdicts):,}"
    if drawn := sum(verdict.drawn for verdict in verdicts):
        figures["without an answer"] = f"{drawn:,}"
    if missing := sum(verdict.reply is None for verdict in verdicts):
        figures["without a reply"] = f"{missing:,}"
    return figures


def _groups(result: Result) -> Iterator[str]:
    """Bars of each level, by the first metric."""
    for level, groups in result.scores[result.metric or ""].items():
        if level != OVERALL:
            bars = "".join(_bar(name, group) for name, group in groups.items())
            yield page.section(f"By {level}", "", f'<div class="box bars">{bars}</div>')


def _bar(name: str, group: Score) -> str:
    value, low, high = (min(100.0, 100 * part) for part in (group.value, group.low, group.high))
    return (
        f'<span>{escape(name)}</span><i><b style="width:{value:.1f}%"></b>'
        f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u></i>'
        f'<span title="{group.questions} questions">{percent(group.value)} <small>of {group.questions:,}</small></span>'
    )


def _spread(verdicts: Sequence[Verdict], most: int) -> list[Verdict]:
    if len(verdicts) <= most:
        return list(verdicts)
    return [verdicts[number * len(verdicts) // most] for number in range(most)]


def _filter(shown: Sequence[Verdict]) -> str:
    names: dict[str, dict[str, None]] = {}
    for verdict in shown:
        for level, name in verdict.question.groups.items():
            names.setdefault(level, {})[name] = None
    options = "".join(
        f'<optgroup label="{escape(level)}">'
        + "".join(f"<option>{escape(name)}</option>" for name in members)
        + "</optgroup>"
        for level, members in names.items()
    )
    outcomes = dict.fromkeys(outcome for verdict in shown for outcome in _outcome(verdict).split())
    kinds = "".join(f"<option>{outcome}</option>" for outcome in outcomes)
    return (
        '<div class="filter"><select id="group" aria-label="Group"><option value="">all groups</option>'
        f'{options}</select><select id="outcome" aria-label="Outcome"><option value="">all outcomes</option>{kinds}'
        '</select><input id="words" type="search" placeholder="words in it" aria-label="Words"><span id="count"></span>'
        "</div>"
    )


def _outcome(verdict: Verdict) -> str:
    """Words that the filter knows."""
    if verdict.reply is None:
        return "unanswered wrong"
    score = verdict.score
    judged = "withheld" if score is None else "right" if score >= 1 else "wrong" if score <= 0 else "partly"
    return f"{judged} drawn" if verdict.drawn else judged


def _cards(benchmark: Benchmark, shown: Sequence[Verdict]) -> Iterator[str]:
    for first in range(0, len(shown), _WINDOW):
        window = shown[first : first + _WINDOW]
        pictures = benchmark.pictures([verdict.question for verdict in window])
        for verdict, seen in zip(window, pictures, strict=True):
            yield _card(verdict, seen)


def _card(verdict: Verdict, seen: Sequence[Picture]) -> str:
    question, score = verdict.question, verdict.score
    images = "".join(_picture(picture, question.id) for picture in seen) or "<p>no picture</p>"
    colour = "" if score is None else "right" if score > 0 else "wrong"
    points = "withheld" if score is None else "right" if score == 1 else "wrong" if score == 0 else f"{score:.3g}"
    facts = {
        "reply": "none" if verdict.reply is None else verdict.reply,
        "read as": verdict.answer or "nothing",
        "truth": question.truth or "withheld",
        "why": verdict.why,
    }
    told = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    groups = " · ".join(question.groups.values())
    return (
        f'<article data-groups="{escape(chr(10).join(question.groups.values()))}" '
        f'data-outcome="{_outcome(verdict)}"><div class="seen">{images}</div><div>'
        f'<header><span class="mark {colour}">{points}</span><span>{escape(question.id)}</span>'
        f"<span>{escape(groups)}</span></header><pre>{escape(question.prompt)}</pre><dl>{told}</dl></div></article>\n"
    )


def _picture(picture: Picture, name: str) -> str:
    if picture is None:
        return "<p>a picture of zeros</p>"
    try:
        opened = picture if isinstance(picture, Image.Image) else Image.open(_file(picture))
        opened.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's readers raise nearly anything
        return f"<p>{escape(str(error))}</p>"
    image.thumbnail((_SIDE, _SIDE))
    return page.picture(page.jpeg(image, _SIDE), f"picture of {name}", *image.size)


def _file(picture: bytes | Path) -> io.BytesIO | Path:
    return io.BytesIO(picture) if isinstance(picture, bytes) else picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.page", description="The page of an evaluation's result.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where a benchmark wrote its result")
    parser.add_argument("--data", type=Path, help="where its data is now; by default where it was")
    options = parser.parse_args(arguments)
    try:
        print(f"Written to {redraw(options.folder, options.data)}")
    except (BadData, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def redraw(folder: Path, data: Path | None = None) -> Path:
    """The page of a result folder, scored anew; where it is.

    Raises:
        FileNotFoundError, ValueError: as `eval.results.rescore`.
    """
    run = predictions.read_run(folder)
    if run is None:
        raise FileNotFoundError(f"{folder} has no {predictions.RUN}; a benchmark's result folder is wanted")
    earlier = folder / results.RESULT
    fallback = json.loads(earlier.read_text(encoding="utf-8"))["fallback"] if earlier.is_file() else None
    subjects = None if run.subjects is None else tuple(run.subjects)
    choices = Choices(split=run.split, protocol=run.protocol, subjects=subjects, fallback=fallback)
    benchmark = registry.titled(run.benchmark)(data or Path(run.data), choices)
    return write(benchmark, results.rescore(benchmark, folder))


if __name__ == "__main__":
    sys.exit(main())
