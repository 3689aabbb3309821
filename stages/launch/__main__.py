"""Runs stages one after another, on all GPUs of one machine or of many.

    python -m stages.launch configs/yi-vl-6b                       its stages in order, on the GPUs of this machine
    python -m stages.launch configs/yi-vl-6b/stage2.yaml --processes 4 data=/mnt/shards
    python -m stages.launch configs/yi-vl-6b --nodes 2 --node-rank 0 --rendezvous HOST:29500      the same on each node
    python -m stages.launch configs/yi-vl-6b --slurm --nodes 16 --submit                          a Slurm job

A stage that is done is skipped, one that was begun is continued. When a process crashes, all are started anew from the
last checkpoint. docs/scale.md tells more.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]  # the stubs do not know it
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stages.launch import slurm
from stages.launch.chain import Link, chain
from stages.launch.outlook import outlook
from stages.launch.worker import STOPPED, work
from yivl.settings import SettingsError

log = logging.getLogger("yivl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Where a stage runs."""

    processes: int
    """On each machine."""
    max_restarts: int
    """How often all processes are started anew when one crashes."""
    nodes: int = 1
    """Machines."""
    node_rank: int = 0
    """Which of them this is. The first holds what they meet at."""
    host: str = "127.0.0.1"
    """Of the first, as the others reach it."""
    port: int = 0
    """Of the first; 0 on one machine, where any does."""

    def torchrun(self) -> list[str]:
        """The command to which what is done here is equivalent."""
        command = ["torchrun", "--nproc-per-node", str(self.processes), "--max-restarts", str(self.max_restarts)]
        if self.nodes > 1:
            command += ["--nnodes", str(self.nodes), "--rdzv-backend", "c10d"]
            command += ["--rdzv-endpoint", f"{self.host}:{self.port}"]
        return command

    def config(self, run_id: str, notes: str) -> LaunchConfig:
        """For torchrun's launcher. It handles SIGQUIT alone: `listen` has better to do on the other signals.

        Args:
            run_id: the same on all machines, another for each stage.
            notes: folder for what processes leave behind when they crash.
        """
        return LaunchConfig(
            min_nodes=self.nodes,
            max_nodes=self.nodes,
            nproc_per_node=self.processes,
            run_id=run_id,
            logs_specs=DefaultLogsSpecs(log_dir=notes),
            rdzv_backend="c10d",
            rdzv_endpoint=f"{self.host}:{self.port}",
            rdzv_configs={"is_host": self.nodes == 1},  # else `meeting_point` is
            local_addr=self.host if self.node_rank == 0 else _own_address(self.host, self.port),
            max_restarts=self.max_restarts,
            signals_to_handle="SIGQUIT",
        )


def _own_address(host: str, port: int) -> str:
    """The address of this machine on its way to `host`: names of nodes need not resolve elsewhere."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def launch(links: Sequence[Link], overrides: Sequence[str], machines: Machines, asked: ctypes.c_bool) -> int:
    """Runs those stages of a chain that are not done; returns the first status that is not 0, or 0.

    Args:
        links: the stages in order.
        overrides: `key=value`, for all of them.
        machines: where.
        asked: what `listen` gave.

    Raises:
        SettingsError: the nodes can't meet at this port.
    """
    meeting_point = _meeting_point(machines)
    for number, link in enumerate(links):
        if link.folder.finished:
            log.info("%s is done: %s", link.stage.name, link.folder.model)
        elif status := _run(number, link, overrides, machines, asked):
            log.info("%s ended with status %d", link.stage.name, status)
            return status
    del meeting_point  # not before
    return 0


def _meeting_point(machines: Machines) -> TCPStore | None:
    """Kept for the whole chain, so that no stage's meeting ends while a slower machine still asks for it."""
    if machines.nodes == 1 or machines.node_rank > 0:
        return None
    try:
        return TCPStore(machines.host, machines.port, is_master=True, wait_for_workers=False)
    except DistNetworkError as error:
        raise SettingsError(f"--rendezvous {machines.host}:{machines.port}: {str(error).splitlines()[0]}") from error


def _run(number: int, link: Link, overrides: Sequence[str], machines: Machines, asked: ctypes.c_bool) -> int:
    arguments = [str(link.file), *overrides]
    log.info("%s: %s", link.stage.name, shlex.join([*machines.torchrun(), "-m", "stages.train", *arguments]))
    try:
        with tempfile.TemporaryDirectory() as notes:
            statuses = elastic_launch(machines.config(str(number), notes), work)(arguments, asked)
    except ChildFailedError as error:
        log.error("%s", error)
        return STOPPED if asked.value else 1
    except RendezvousError as error:
        reason = str(error) or type(error).__name__
        log.error("error: not all %d nodes came to %s:%d (%s)", machines.nodes, machines.host, machines.port, reason)
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return int(max(statuses.values()))


def listen() -> ctypes.c_bool:
    """From now on SIGTERM and SIGINT ask the processes to save and end; without any, they end this one.

    Returns:
        True in all processes as soon as one was asked.
    """
    asked = multiprocessing.get_context("spawn").RawValue(ctypes.c_bool, False)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.value = True
        processes = multiprocessing.active_children()
        for process in processes:
            process.terminate()  # which is SIGTERM
        if not processes:
            sys.exit(STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked


def _environment(machines: Machines) -> None:
    """Gives the processes a fair share of the cores and, where nothing else is needed, the loopback, unless set."""
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // machines.processes)))
    if machines.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # else torch 2.15 hands processes that are started anew the store of those before, with their addresses
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"


def _machines(options: argparse.Namespace) -> Machines:
    gpus = torch.cuda.device_count()
    processes = options.processes or gpus or 1
    if gpus and processes > gpus:
        raise SettingsError(f"--processes {processes}: this machine has {gpus} GPUs")
    if options.nodes == 1:
        return Machines(processes=processes, max_restarts=options.max_restarts)
    host, _, port = options.rendezvous.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"--rendezvous {options.rendezvous!r}: {options.nodes} nodes need HOST:PORT of the first")
    if not 0 <= options.node_rank < options.nodes:
        raise SettingsError(f"--node-rank {options.node_rank}: from 0 to {options.nodes - 1}, another on each node")
    return Machines(
        processes=processes, max_restarts=options.max_restarts, nodes=options.nodes, node_rank=options.node_rank,
        host=host, port=int(port),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.launch", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", metavar="FOLDER|FILE|key=value", help="stages, and overrides for all")
    parser.add_argument("--processes", type=int, help="on each machine; by default its GPUs, or 1")
    parser.add_argument("--max-restarts", type=int, default=3, help="after a crash; default: %(default)s")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument(
        "--node-rank", type=int, default=os.environ.get("SLURM_NODEID", 0),
        help="which of them this is, from 0 on; by default what Slurm says",
    )  # fmt: skip
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="of the first of several nodes")
    slurm.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: that of the first stage that failed, 143 when it was asked to stop."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    paths = [Path(one) for one in options.what if "=" not in one]
    overrides = [one for one in options.what if "=" in one]
    try:
        if not paths:
            raise SettingsError("name a folder of stage files, or stage files")
        links = chain(paths, overrides)
        if options.slurm:
            return slurm.hand_in(options, links, overrides)
        machines = _machines(options)
        ahead = [link for link in links if not link.folder.finished]
        if len(ahead) > 1 and machines.node_rank == 0:
            for warning in outlook(ahead, overrides, machines.processes, machines.nodes):
                log.warning("%s", warning)
        _environment(machines)
        return launch(links, overrides, machines, listen())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
