"""Checks the nodes of a run before it begins, and compares them.

    python -m stages.launch.node_check configs/yi-vl-6b --gpus 8                                         this machine
    srun --ntasks-per-node=1 python -m stages.launch.node_check … --nodes 16 --rendezvous HOST:PORT      all of a job

Each node counts its GPUs, has each of them multiply matrices, and looks for room on its disks; together they compare
speeds, clocks, the checkout and the packages, and see whether the run folder is one for all. Ends with status 1 on
every node when something is wrong on one; the first tells what.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # the stubs do not know it

from data.mixture import Mixture, catalogued
from data.remote import is_remote
from stages.launch.chain import chain
from stages.parts import freeze_all_but
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.model import YiVLForConditionalGeneration
from yivl.settings import read

_PATIENCE = timedelta(minutes=10)
"""For the slowest node to come."""
_PACKAGES = ("torch", "transformers", "deepspeed", "open_clip_torch", "safetensors", "pillow", "numpy")
_CLOCKS = 5.0
"""Seconds by which clocks may differ, the way of a message included."""
_FREE = 0.9
"""Share of a GPU's memory that must be free: less, and somebody else is on it."""
_PRODUCT_ERROR = 0.02
"""Of a bf16 matrix product, relative to its fp32 one; rounding gives about 0.003."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A GPU, or the CPU where there is none."""

    name: str
    gib: float
    """Its memory; 0 for the CPU, whose speed is told but not judged: others may be at work on it."""
    free_gib: float
    tflops: float
    """Of bf16 matrix products."""
    error: float
    """Of one of them, relative to fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node found."""

    name: str
    gpus: int
    devices: Sequence[Measured]
    run_gib: float
    """Free where the runs are written."""
    cache_gib: float
    """Free where shards are kept, with those that are there."""
    sees_run: bool
    """It sees the file that the first node wrote into the run folder."""
    clock: float
    """Seconds since 1970, at one moment for all."""
    software: dict[str, str]
    """The commit and the packages' versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the nodes must offer."""

    gpus: int
    run_gib: float
    cache_gib: float
    floor: float
    """Least speed of a device, as a share of the median of all."""


def problems(nodes: Sequence[Node], asked: Asked) -> list[str]:
    """What is wrong, a line each; empty when nothing is."""
    first = nodes[0]
    median = statistics.median(device.tflops for node in nodes for device in node.devices)
    found = []
    for node in nodes:
        if node.gpus != asked.gpus:
            found.append(f"{node.name}: {node.gpus} GPUs, not {asked.gpus}")
        for number, device in enumerate(node.devices):
            at = f"{node.name}, device {number}"
            if device.gib and device.tflops < asked.floor * median:
                found.append(f"{at}: {device.tflops:.3g} TFLOP/s, below {asked.floor:g} of the median, {median:.3g}")
            if not device.error < _PRODUCT_ERROR:
                found.append(f"{at}: a bf16 matrix product is off by {device.error:.1%}")
            if device.free_gib < _FREE * device.gib:
                found.append(f"{at}: {device.free_gib:.1f} of {device.gib:.1f} GiB are free; who else is on it?")
        if node.run_gib < asked.run_gib:
            found.append(f"{node.name}: {node.run_gib:.0f} GiB free for runs, about {asked.run_gib:.0f} are needed")
        if node.cache_gib < asked.cache_gib:
            found.append(f"{node.name}: {node.cache_gib:.0f} GiB for the cache, cache_gib is {asked.cache_gib:.0f}")
        if not node.sees_run:
            found.append(f"{node.name}: does not see the run folder of {first.name}; it must lie on shared storage")
        if abs(ahead := node.clock - first.clock) > _CLOCKS:
            found.append(f"{node.name}: its clock is {ahead:+.1f} s from that of {first.name}")
        for what in sorted(node.software.keys() | first.software.keys()):
            ours, theirs = (one.software.get(what, "missing") for one in (node, first))
            if ours != theirs:
                found.append(f"{node.name}: {what} is {ours}; on {first.name} {theirs}")
    return found


def table(nodes: Sequence[Node]) -> str:
    """What was found, a line for each node."""
    lines = [f"{'node':24} {'GPUs':>4} {'GiB free':>9} {'TFLOP/s in bf16':>18} {'run GiB':>9} {'cache GiB':>9}"]
    for node in nodes:
        rates = [one.tflops for one in node.devices]
        free = f"{min(one.free_gib for one in node.devices):.1f}" if node.gpus else "-"
        lines.append(
            f"{node.name:24} {node.gpus:>4} {free:>9} {f'{min(rates):.3g} to {max(rates):.3g}':>18} "
            f"{node.run_gib:>9.0f} {node.cache_gib:>9.0f}"
        )
    return "\n".join(lines)


class Meeting:
    """All nodes of a run, which tell one another what they found.

    Args:
        rank: of this node.
        nodes: how many there are.
        rendezvous: HOST:PORT of the first.
    """

    def __init__(self, rank: int, nodes: int, rendezvous: str) -> None:
        self.rank = rank
        self.nodes = nodes
        host, _, port = rendezvous.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"--rendezvous {rendezvous!r}: HOST:PORT of the first node")
        self._store = TCPStore(host, int(port), is_master=rank == 0, wait_for_workers=False, timeout=_PATIENCE)

    def gather(self, name: str, value: Any) -> list[Any]:
        """Every node's `value`, in order; comes back as soon as the last one is there."""
        self._store.set(f"{name}/{self.rank}", json.dumps(value))
        return [json.loads(self._store.get(f"{name}/{rank}")) for rank in range(self.nodes)]

    def leave(self) -> None:
        """The first goes last: the others ask it."""
        self._store.set(f"left/{self.rank}", "")
        if self.rank == 0:
            self._store.wait([f"left/{rank}" for rank in range(self.nodes)])


def look(meeting: Meeting, run: Path, cache: Path) -> list[Node]:
    """Has every node look at itself; all nodes, in order."""
    gpus = torch.cuda.device_count()
    devices = [_device(torch.device("cuda", number)) for number in range(gpus)] or [_device(torch.device("cpu"))]
    sign = f".node_check-{uuid.uuid4().hex}"
    if meeting.rank == 0:
        run.mkdir(parents=True, exist_ok=True)
        (run / sign).touch()
    sign = meeting.gather("ready", sign)[0]
    node = Node(
        clock=time.time(), name=socket.gethostname(), gpus=gpus, devices=devices, run_gib=_free_gib(run),
        cache_gib=_free_gib(cache) + _held_gib(cache), sees_run=(run / sign).exists(), software=_software(),
    )  # fmt: skip
    nodes = [
        Node(**(found | {"devices": [Measured(**device) for device in found["devices"]]}))
        for found in meeting.gather("found", asdict(node))
    ]
    if meeting.rank == 0:
        (run / sign).unlink()
    return nodes


def _device(device: torch.device) -> Measured:
    cuda = device.type == "cuda"
    free, total = torch.cuda.mem_get_info(device) if cuda else (0, 0)
    side = 8192 if cuda else 1024
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator) for _ in range(2))
    exact, low = a @ b, (a.bfloat16(), b.bfloat16())
    error = ((low[0] @ low[1]).float() - exact).norm() / exact.norm()
    fastest = min(_seconds(low, device) for _ in range(5))
    name = torch.cuda.get_device_name(device) if cuda else "CPU"
    tflops = 2 * side**3 / fastest / 1e12
    return Measured(name=name, gib=total / 2**30, free_gib=free / 2**30, tflops=tflops, error=float(error))


def _seconds(factors: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> float:
    """Of a matrix product, on average over ten."""
    begun = 0.0
    for number in range(11):
        if number == 1:  # the first one warms up
            _wait(device)
            begun = time.perf_counter()
        factors[0] @ factors[1]
    _wait(device)
    return (time.perf_counter() - begun) / 10


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free_gib(folder: Path) -> float:
    """Free bytes of the file system that a folder lies on, or will lie on."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free / 2**30


def _held_gib(cache: Path) -> float:
    return sum(file.stat().st_size for file in cache.glob("*") if file.is_file()) / 2**30


def _software() -> dict[str, str]:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    found = {"commit": described or "unknown", "python": sys.version.split()[0], "CUDA": str(torch.version.cuda)}
    installed = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    return found | {name: installed.get(name, "missing") for name in _PACKAGES}


def needed(stages: Sequence[Stage]) -> tuple[float, float]:
    """GiB that a chain takes where it writes its runs, and where it keeps shards.

    Of the runs: every model, and of one stage at a time three checkpoints (two are kept while the next is written) of
    weights and two moments in fp32."""
    models, checkpoints, cache = 0.0, 0.0, 0.0
    for stage in stages:
        with torch.device("meta"):
            model = YiVLForConditionalGeneration(read(ModelSource, stage.model).config())
        parts = freeze_all_but(model, stage.learning_rate)
        trained = [part for part in parts if part.rate and not (stage.adapter and part.name == "language")]
        models += sum(part.parameters for part in parts) * (2 if stage.precision == "bf16" else 4)
        checkpoints = max(checkpoints, 3 * 12 * sum(part.parameters for part in trained))
        if any(is_remote(source.shards) for source in catalogued(read(Mixture, stage.mixture)).values()):
            cache = max(cache, stage.cache_gib)
    return (models + checkpoints) / 2**30, cache


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m stages.launch.node_check", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", metavar="FOLDER|FILE|key=value", help="the stages that shall run")
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="that each node must have")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=os.environ.get("SLURM_NODEID", 0))
    parser.add_argument("--rendezvous", default="127.0.0.1:0", metavar="HOST:PORT", help="of the first node")
    parser.add_argument(
        "--floor", type=float, default=0.8, help="least share of the median speed; default: %(default)s"
    )
    options = parser.parse_intermixed_args(arguments)
    paths = [Path(one) for one in options.what if "=" not in one]
    try:
        stages = [link.stage for link in chain(paths, [one for one in options.what if "=" in one])]
        run_gib, cache_gib = needed(stages)
        meeting = Meeting(options.node_rank, options.nodes, options.rendezvous)
        nodes = look(meeting, Path(stages[0].run).parent, Path(stages[0].cache))
        found = problems(nodes, Asked(gpus=options.gpus, run_gib=run_gib, cache_gib=cache_gib, floor=options.floor))
        if meeting.rank == 0:
            print(table(nodes))
            print("".join(f"error: {problem}\n" for problem in found), end="", file=sys.stderr)
        meeting.leave()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except DistError as error:
        print(f"error: the nodes did not meet at {options.rendezvous}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
