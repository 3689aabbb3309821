"""How fast a stage trains: our step beside the one of other trainers, on the same samples and weights; the share of the
machine's matrix products that it makes use of; and the memory of both.

    python -m stages.benchmark [--json FILE] [--stage 1 2 3] [--precision fp32 bf16] [--shapes desk] [--steps 2]
    python -m stages.benchmark --head [--json FILE]      the loss head by itself

`docs/speed.md` says what is compared. Each way runs in a process of its own; on a CPU they take turns step by step, on
a GPU, where two models may not fit, one after the other. The median step counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from data.measured import aligned, machine
from data.packing import pack
from stages.benchmark.case import PRECISIONS, SHAPES, Case
from stages.benchmark.head import HeadLine, head_lines, head_rows
from stages.benchmark.ways import WAYS, running
from stages.planning.flops import Work, model_flops, peak_tflops, work_of

_STAGES = (1, 2, 3)
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table: a case, and the median of its steps."""

    case: Case
    samples: int
    """Of an optimiser step."""
    work: Work
    """In them."""
    tera_flops: float
    """Model FLOPs of a step, in 10^12."""
    seconds: dict[str, float]
    """Of a step, by way."""
    peak_bytes: dict[str, int]
    """Of memory, by way."""
    samples_per_second: dict[str, float]
    tokens_per_second: dict[str, float]
    """Of the language model, padding not counted."""
    times_as_fast: float
    """Our samples per second over the other way's."""
    times_the_memory: float
    """Our peak over the other way's."""
    tera_flops_per_second: float
    """Of our step."""
    product_tera_flops_per_second: float
    """Of matrix products on this machine."""
    share: float
    """Of that rate that our step reaches."""
    mfu: float | None
    """Of the device's peak on its data sheet; None on a CPU."""


def measure(case: Case, steps: int) -> Line:
    """Runs both ways and the products for `steps` optimiser steps each, and compares."""
    together = [list(WAYS)] if case.device.type == "cpu" else [[way] for way in WAYS]
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks: dict[str, int] = {}
    for ways in together:
        with ExitStack() as stack:
            runs = {way: stack.enter_context(running(way, case)) for way in ways}
            for _ in range(steps):
                for way, run in runs.items():
                    found[way].append(run.measure())
            peaks |= {way: run.peak() for way, run in runs.items()}
    middle = {way: median(values) for way, values in found.items()}
    return _line(case, product=middle.pop("products"), seconds=middle, peaks={way: peaks[way] for way in middle})


def _line(case: Case, *, product: float, seconds: dict[str, float], peaks: dict[str, int]) -> Line:
    examples = case.examples()
    work = work_of([pack(examples)])
    flops = model_flops(case.config(), case.settings().learning_rate, work)
    peak = peak_tflops(case.settings(), case.device)
    return Line(
        case=case,
        samples=len(examples),
        work=work,
        tera_flops=flops / 1e12,
        seconds=seconds,
        peak_bytes=peaks,
        samples_per_second={way: len(examples) / spent for way, spent in seconds.items()},
        tokens_per_second={way: work.tokens / spent for way, spent in seconds.items()},
        times_as_fast=seconds["padded"] / seconds["packed"],
        times_the_memory=peaks["packed"] / peaks["padded"],
        tera_flops_per_second=flops / seconds["packed"] / 1e12,
        product_tera_flops_per_second=product / 1e12,
        share=flops / seconds["packed"] / product,
        mfu=flops / seconds["packed"] / 1e12 / peak if peak else None,
    )


def _measured(cases: Sequence[Case], steps: int) -> Iterator[Line]:
    """The cases' lines; tells of each when it is there, since all of them take half an hour on two cores."""
    for case in cases:
        line = measure(case, steps)
        told = f"stage {case.stage}, {case.precision}: {line.times_as_fast:.2f} times as fast"
        print(told, file=sys.stderr, flush=True)
        yield line


def step_rows(lines: Sequence[Line]) -> list[list[str]]:
    """The lines as a table's cells: ours first, then the other way's in brackets."""
    rows = [
        ["stage", "", "samples/s", "ratio", "tokens/s", "peak GiB", "ratio", "TFLOP", "TFLOP/s", "products", "share",
         "MFU"]
    ]  # fmt: skip
    for line in lines:
        rate, tokens, peak = line.samples_per_second, line.tokens_per_second, line.peak_bytes
        rows.append([
            str(line.case.stage), line.case.precision,
            f"{rate['packed']:.2f} ({rate['padded']:.2f})", f"{line.times_as_fast:.2f}",
            f"{tokens['packed']:.0f} ({tokens['padded']:.0f})",
            f"{peak['packed'] / _GIB:.2f} ({peak['padded'] / _GIB:.2f})", f"{line.times_the_memory:.2f}",
            f"{line.tera_flops:.2f}", f"{line.tera_flops_per_second:.3f}", f"{line.product_tera_flops_per_second:.3f}",
            f"{line.share:.0%}", "-" if line.mfu is None else f"{line.mfu:.1%}",
        ])  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the same numbers as JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m stages.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers as well")
    parser.add_argument("--stage", type=int, nargs="+", choices=_STAGES, default=_STAGES)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="by default both, of yi-6b bf16")
    parser.add_argument("--shapes", choices=SHAPES, default="desk", help="of the model; yi-6b needs a GPU")
    parser.add_argument("--steps", type=int, default=2, help="of each way, of which the median counts")
    parser.add_argument("--head", action="store_true", help="measure the loss head by itself instead")
    options = parser.parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if options.shapes == "yi-6b" and not torch.cuda.is_available():
        print("error: --shapes yi-6b needs a GPU, and none is there; --shapes desk runs on a CPU", file=sys.stderr)
        return 1
    on = machine(("torch", "transformers"))
    print(", ".join(f"{name} {value}" for name, value in on.items()), end="\n\n")
    if options.head:
        rows = head_lines()
        print(aligned(head_rows(rows)))
        _write(options.json, on, rows)
        return 0
    precisions = options.precision or SHAPES[options.shapes].precisions
    cases = [Case(shapes=options.shapes, stage=n, precision=p) for n in options.stage for p in precisions]
    lines: list[Line] = []
    try:
        for line in _measured(cases, options.steps):
            lines.append(line)
            _write(options.json, on, lines)
    finally:  # a case may not fit into the memory: what was measured before is told
        print(aligned(step_rows(lines)))
    return 0


def _write(file: Path | None, on: Mapping[str, object], lines: Sequence[Line] | Sequence[HeadLine]) -> None:
    if file:
        file.write_text(json.dumps({"machine": on, "lines": list(map(asdict, lines))}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
