"""Looks ahead whether the stages of a chain will fit into memory: the last one may begin days after the first."""

from __future__ import annotations

import os
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


def outlook(links: Sequence[Link], overrides: Sequence[str], processes: int, nodes: int) -> list[str]:
    """What is to be said of stages that will hardly fit into this machine's devices, or can't be planned.

    Args:
        links: those that are not done.
        overrides: `key=value`, for all of them.
        processes: on each machine.
        nodes: machines.
    """
    # in a process of its own, since whoever looks at a GPU takes some of its memory
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_share_memory, initargs=(processes,)) as pool:
        told = [pool.submit(_outlook, link.file, overrides, processes * nodes) for link in links]
        return [warning for one in told if (warning := one.result())]


def _share_memory(processes: int) -> None:
    """Without GPUs so many processes share the machine's memory, as a launcher tells each of them."""
    os.environ["LOCAL_WORLD_SIZE"] = str(processes)


def _outlook(file: Path, overrides: Sequence[str], processes: int) -> str:
    stage = read(Stage, file, overrides)
    try:
        planned = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture), ranks=processes)
    except (OSError, ValueError) as error:
        return f"{stage.name} can't be planned yet: {error}"
    devices = "1 device" if processes == 1 else f"{processes} devices"
    return "" if planned.fit.fits else f"{stage.name} on {devices}: {planned.fit.verdict}"
