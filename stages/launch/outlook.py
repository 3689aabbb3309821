"""Looks ahead whether the stages of a chain will fit into memory: the last one may begin days after the first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from data.mixture import Mixture
from stages.launch.chain import Link
from stages.planning.plan import plan
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.settings import read


def outlook(links: Sequence[Link], overrides: Sequence[str], processes: int) -> list[str]:
    """What is to be said of stages that will hardly fit into this machine's devices, or can't be planned.

    Args:
        links: those that are not done.
        overrides: `key=value`, for all of them.
        processes: of the run, on all machines.
    """
    # in a process of its own, since whoever looks at a GPU takes some of its memory
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        files = [link.file for link in links]
        return list(filter(None, pool.map(_outlook, files, [overrides] * len(files), [processes] * len(files))))


def _outlook(file: Path, overrides: Sequence[str], processes: int) -> str:
    stage = read(Stage, file, overrides)
    try:
        planned = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture), ranks=processes)
    except (OSError, ValueError) as error:
        return f"{stage.name} can't be planned yet: {error}"
    devices = "1 device" if processes == 1 else f"{processes} devices"
    return "" if planned.fit.fits else f"{stage.name} on {devices}: {planned.fit.verdict}"
