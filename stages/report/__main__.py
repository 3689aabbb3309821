"""A run as one HTML page that loads nothing, whether it is finished or still goes on.

    python -m stages.report RUN [--out FILE.html]

Shows what was trained on and how, curves of loss, gradient norm and rates, the loss of each source beside that of its
held-out samples, benchmarks, where the time went, answers to held-out questions, and what went wrong.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from data.mixture import counts
from stages.record import PHASES
from stages.report import chart
from stages.report.chart import Curve, Point, curves, layers, smoothed
from stages.report.log import Line, RunLog, read_run
from yivl import page

_STYLE: Final = """
.cards { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.cards p { flex: none; }
.cards dd { font-weight: 400; }
.cards dd:last-child { font-weight: 600; }
"""
_PHASES: Final = dict(zip((*PHASES, "rest"), ("data", "copy", "forward", "backward", "optimiser", "rest"), strict=True))
_ROWS: Final = 50
"""Most rows of a table of what went wrong."""
_KEYS: Final = 8
"""Most samples named in a row of it."""
_LOOKS: Final = 8
"""Most answers to one question: the first, the last and some between."""


def write_report(run: RunLog, out: Path) -> None:
    """Writes the page of a run."""
    parts = [_headline(run)]
    if run.stage:
        parts.append(f"<details><summary>Settings of the stage</summary>\n{_settings(run.stage)}</details>")
    if run.manifest:
        parts.append(page.section("Samples", "What an epoch takes of each source, and how many of it were broken and "
                                  "replaced so far.", _samples(run)))  # fmt: skip
    parts.append(page.section(
        "Training", "Every step faint, a running mean over it; point at a chart to read it. Vertical lines: dashed "
        "where the run was continued, green where the batch grew, red where a step was left out.",
        _grid(_training(run)),
    ))  # fmt: skip
    if sources := _sources(run):
        parts.append(page.section("Loss by source", "Dotted: samples that are not trained on.", _grid(sources)))
    if run.benchmarks:
        parts.append(page.section("Benchmarks", "Whole results lie in the run's folder, in benchmarks/step-N.",
                                  _grid(_benchmarks(run))))  # fmt: skip
    parts.append(page.section("Speed", "", _grid(_speed(run))))
    if run.answers:
        cards = "".join(_card(run.path, looks) for looks in _by_question(run.answers))
        parts.append(page.section("Answers", "What the model says, step by step, about samples that are not trained "
                                  "on.", f'<div class="cards">{cards}</div>'))  # fmt: skip
    if run.growth:
        parts.append(page.section("Growth of the batch", "", _growth(run.growth)))
    if run.skipped:
        about = f"{len(run.skipped):,} steps; the last {_ROWS}." if len(run.skipped) > _ROWS else ""
        parts.append(page.section("Steps left out", about, _skipped(run.skipped)))
    if run.broken:
        parts.append(page.section("Broken samples", "By reason; others of their source replaced them.",
                                  _broken(run.broken)))  # fmt: skip
    if len(run.starts) > 1:
        parts.append(page.section("Starts", "Each but the first continued the run.", _starts(run.starts)))
    page.write_page(out, _name(run), parts, style=chart.STYLE + _STYLE, script=chart.SCRIPT)


def _name(run: RunLog) -> str:
    return str(run.stage.get("name", run.path.resolve().name))


def _headline(run: RunLog) -> str:
    def together(name: str) -> float:
        return math.fsum(line[name] for line in run.steps)

    total, seconds = run.total_steps, together("seconds")
    mean = smoothed(run.figures["loss"])[-1].points
    tiles = {
        "steps" if total is None else f"of {total:,} steps": f"{run.steps[-1]['step']:,}",
        "loss": f"{mean[-1][1]:.4g}" if mean else "–",
        "time in steps": page.duration(seconds),
        "samples/s": f"{together('samples') / seconds:,.1f}",
        "tokens/s": f"{together('tokens') / seconds:,.0f}",
        "waiting for data": page.percent(together("data_seconds") / seconds),
    }
    if shares := dict(run.figures.get("mfu", ())):
        weights = [line["seconds"] for line in run.steps if line["step"] in shares]
        tiles["MFU"] = page.percent(float(np.average(list(shares.values()), weights=weights)))
    state = "Finished" if run.finished else "Not finished"
    return f"<h1>{escape(_name(run))}</h1>\n<p>{state}; in {escape(str(run.path))}.</p>\n{page.tiles(tiles)}"


def _settings(stage: Mapping[str, Any]) -> str:
    def told(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key}: {inner}" for key, inner in value.items()) or "–"
        return ", ".join(map(str, value)) if isinstance(value, list) else "–" if value in ("", None) else str(value)

    return page.table("Settings", ["setting", "value"], [page.text_row(k, told(v)) for k, v in stage.items()], "words")


def _samples(run: RunLog) -> str:
    assert run.manifest is not None
    broken = Counter(line["source"] for line in run.broken)
    head, *lines = counts(run.manifest)
    rows = [page.text_row(*line, f"{broken[line[0]]:,}") for line in lines[:-1]]
    rows.append(page.text_row(*lines[-1], f"{broken.total():,}"))
    return page.table("Samples", [*head, "broken"], rows, "figures")


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="curves">\n{"".join(figures)}</div>'


def _training(run: RunLog) -> list[str]:
    marks = {
        "restart": [line["step"] for line in run.starts[1:]],
        "grown": [line["step"] for line in run.growth],
        "skipped": [line["step"] for line in run.skipped],
    }
    rates: dict[tuple[Point, ...], list[str]] = {}  # parts of one rate share a curve
    for name, points in _below(run.figures, "rate").items():
        rates.setdefault(tuple(points), []).append(name)
    shown = [Curve(name=", ".join(names), points=points, hue=hue) for hue, (points, names) in enumerate(rates.items())]
    figures = [
        curves("Loss", "Mean over the supervised tokens", "loss", smoothed(run.figures["loss"]), marks=marks),
        curves("Gradient norm", "Before clipping", "norm", smoothed(run.figures["grad_norm"]), log=True, marks=marks),
        curves("Learning rate", "Of each part", "rate", shown, log=False),
    ]
    if run.stage.get("growth"):
        batch = [Curve(name="batch", points=run.figures["tokens"])]
        figures.append(curves("Batch", "Tokens of a step; it grows when the loss stops falling", "tokens", batch,
                              log=False, marks=marks))  # fmt: skip
    return figures


def _sources(run: RunLog) -> list[str]:
    trained = _below(run.figures, "loss")
    named = [one.name for one in run.manifest.sources] if run.manifest else []
    return [
        curves(source, "", "loss", [
            *smoothed(trained.get(source, ())),
            Curve(name="held out", points=run.held_out.get(source, ()), kind="dotted", hue=1),
        ])
        for source in dict.fromkeys([*named, *trained, *run.held_out])
        if source in trained or source in run.held_out
    ]  # fmt: skip


def _benchmarks(run: RunLog) -> list[str]:
    return [
        curves(name, "", "%", [
            Curve(name=metric, points=points, hue=hue) for hue, (metric, points) in enumerate(metrics.items())
        ], log=False)
        for name, metrics in run.benchmarks.items()
    ]  # fmt: skip


def _speed(run: RunLog) -> list[str]:
    figures = run.figures
    phases = {told: dict(figures.get(f"seconds/{phase}", ())) for phase, told in _PHASES.items()}
    stacked = {
        told: [(line["step"], seconds.get(line["step"], 0.0)) for line in run.steps]
        for told, seconds in phases.items()
        if any(seconds.values())
    }
    shown = [
        curves(name, about, unit, smoothed(figures[figure]), log=False)
        for name, about, unit, figure in (
            ("Samples", "All processes together", "samples/s", "samples_per_second"),
            ("Tokens", "All processes together, images included", "tokens/s", "tokens_per_second"),
            ("TFLOP/s", "Of one device", "TFLOP/s", "tflops"),
        )
        if figure in figures
    ]
    if "mfu" in figures:
        shown.append(curves("MFU", "Share of what a device can do", "%", smoothed(_percent(figures["mfu"])), log=False))
    shown.append(layers("Time of a step", "Stacked; of each phase the slowest process", "seconds", stacked))
    if "padding" in figures:
        shares = [
            Curve(name=name, points=smoothed(_percent(figures[name]))[-1].points, hue=hue)
            for hue, name in enumerate(("padding", "idle"))
        ]
        shown.append(curves("Waste", "Of the room for tokens; running means", "%", shares, log=False))
    return shown


def _percent(points: Sequence[Point]) -> list[Point]:
    return [(step, 100 * share) for step, share in points]


def _below(figures: Mapping[str, Sequence[Point]], group: str) -> dict[str, Sequence[Point]]:
    return {name.removeprefix(f"{group}/"): points for name, points in figures.items() if name.startswith(f"{group}/")}


def _by_question(answers: Sequence[Line]) -> list[list[Line]]:
    """The looks at each question, at most `_LOOKS`, in their order; of two at a step the later."""
    looks: dict[tuple[str, str], dict[int, Line]] = {}
    for line in answers:
        looks.setdefault((line["source"], line["key"]), {})[line["step"]] = line
    thinned = []
    for by_step in looks.values():
        lines = list(by_step.values())
        places = np.linspace(0, len(lines) - 1, min(len(lines), _LOOKS)).round().astype(int)
        thinned.append([lines[place] for place in places])
    return thinned


def _card(folder: Path, looks: Sequence[Line]) -> str:
    one = looks[-1]
    facts = [*((f"step {line['step']:,}", line["answer"]) for line in looks), ("Truth", one["truth"])]
    header = f"<span>{escape(one['source'])}</span><span>{escape(one['key'])}</span>"
    return page.card(_picture(folder, one), header, one["question"], facts)


def _picture(folder: Path, answer: Line) -> str:
    """Empty where there is none, or the file is gone."""
    if not answer["picture"]:
        return ""
    try:
        with Image.open(folder / answer["picture"]) as image:
            return page.picture(page.jpeg(image), f"Picture of {answer['key']}", 200)
    except OSError:
        return ""


def _skipped(skipped: Sequence[Line]) -> str:
    rows = []
    for line in skipped[-_ROWS:]:
        named, more = line["keys"][:_KEYS], len(line["keys"]) - _KEYS
        keys = ", ".join(named) + (f" and {more:,} more" if more > 0 else "")
        rows.append(page.text_row(f"{line['step']:,}", line["reason"], keys))
    return page.table("Steps left out", ["step", "reason", "samples"], rows, "words")


def _growth(growth: Sequence[Line]) -> str:
    rows = [page.text_row(f"{line['step']:,}", f"{line['tokens']:,}", line["reason"]) for line in growth]
    return page.table("Growth of the batch", ["after step", "tokens", "reason"], rows, "words")


def _broken(broken: Sequence[Line]) -> str:
    """The most frequent reasons of each source; those that differ only in their numbers count as one."""
    kinds = [(line["source"], re.sub(r"\d+", "0", line["reason"])) for line in broken]
    first = {kind: line for kind, line in reversed(list(zip(kinds, broken, strict=True)))}
    rows = [
        page.text_row(source, f"{count:,}", first[source, kind]["reason"],
                      f"{first[source, kind]['key']} in {first[source, kind]['shard']}")
        for (source, kind), count in Counter(kinds).most_common(_ROWS)
    ]  # fmt: skip
    return page.table("Broken samples", ["source", "samples", "reason", "such as"], rows, "words")


def _starts(starts: Sequence[Line]) -> str:
    rows = [page.text_row(f"{number}", f"{one['step']:,}", one["time"]) for number, one in enumerate(starts, 1)]
    return page.table("Starts", ["start", "after step", "time"], rows, "words")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="the page; by default RUN/report.html")
    options = parser.parse_args(arguments)
    out = options.out or options.run / "report.html"
    try:
        write_report(read_run(options.run), out)
    except (OSError, ValueError) as error:
        print(f"stages.report: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
