"""A Slurm job that runs a chain of stages: a batch script, which people may read and change.

One job runs all stages. It asks to be told before its time is over, saves, and puts itself back into the queue; when it
begins again it skips what is done and continues what was begun.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.launch.chain import Link

log = logging.getLogger("yivl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a script is written from."""

    name: str
    nodes: int
    gpus: int
    """Of each node; 0 for nodes without."""
    processes: int
    """On each node."""
    max_restarts: int
    notice: int
    """Seconds before its end at which the job is told of it: what saving may take."""
    settings: Sequence[str]
    """Further options of sbatch, such as --partition=main."""
    output: Path
    """Folder of the job's output."""
    stages: Sequence[str]
    """Stage files in order, and overrides, as `stages.launch` takes them."""


_SCRIPT = """\
#!/bin/bash
# Trains {stages} on {nodes} node(s). Written by `python -m stages.launch --slurm`; submit it with sbatch.
# Submitted again after any end, it skips the stages that are done and continues the one that was begun.

#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1         # one launcher on each node, which starts {processes} process(es)
{settings}
#SBATCH --exclusive
#SBATCH --mem=0                     # all memory of the nodes
#SBATCH --chdir={here}
#SBATCH --output={output}
#SBATCH --open-mode=append          # a job that begins again goes on writing there
#SBATCH --requeue                   # it does so by itself after preemption and after a node's failure, and by what
#SBATCH --signal=B:USR1@{notice:<12}# stands below when its time is over, of which it is told so many seconds before

set -u

# The nodes meet at the first one, at a port that other jobs are unlikely to have.
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
meeting="$host:$((20000 + SLURM_JOB_ID % 10000))"

# What NCCL has to say besides errors (INFO: which network it found). On most clusters it finds its way by itself; if it
# does not, name the network interface of the first contact and the InfiniBand adapters:
export NCCL_DEBUG="${{NCCL_DEBUG:-WARN}}"
# export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0
# export NCCL_IB_HCA=mlx5

on_each_node() {{
    srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=1 "$@"
}}

echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, begun ${{SLURM_RESTART_COUNT:-0}} times before"

# The notice comes to this script alone, which has the processes of the job asked to save and end. (A SIGTERM to srun
# would end them at once.) Cancelled or preempted, they get SIGTERM from Slurm.
notified=""
trap 'notified=yes; echo "time is over: saving"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

on_each_node {check} --rendezvous "$meeting" || exit 1

on_each_node {launch} --rendezvous "$meeting" &
status=138                          # 128 + USR1: the signal interrupted `wait`
while [ "$status" -eq 138 ]; do
    wait $!
    status=$?
done

if [ -n "$notified" ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def script(job: Job, python: str, here: Path) -> str:
    """The batch script.

    Args:
        job: what it shall do.
        python: the interpreter, by a path that all nodes have.
        here: the checkout, by a path that all nodes have.
    """
    per_node = [f"--gpus-per-node={job.gpus}"] if job.gpus else []
    command, nodes = [python, "-m"], ["--nodes", str(job.nodes)]
    check = [*command, "stages.launch.node_check", *job.stages, *nodes, "--gpus", str(job.gpus)]
    launch = [*command, "stages.launch", *job.stages, *nodes, "--processes", str(job.processes)]
    launch += ["--max-restarts", str(job.max_restarts)]
    return _SCRIPT.format(
        stages=", ".join(one for one in job.stages if "=" not in one),
        name=job.name,
        nodes=job.nodes,
        processes=job.processes,
        settings="\n".join(f"#SBATCH {setting}" for setting in [*per_node, *job.settings]),
        here=shlex.quote(str(here)),
        output=shlex.quote(f"{job.output}/%x-%j.out"),
        notice=job.notice,
        check=shlex.join(check),
        launch=shlex.join(launch),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that are of Slurm."""
    group = parser.add_argument_group("Slurm", "writes a batch script instead of running anything here")
    group.add_argument("--slurm", action="store_true")
    group.add_argument("--gpus-per-node", type=int, default=8, help="default: %(default)s; 0 for nodes without")
    group.add_argument("--partition")
    group.add_argument("--account")
    group.add_argument("--time", help="limit, such as 24:00:00; the job requeues itself until all is done")
    group.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="another one: --sbatch=--qos=high"
    )
    group.add_argument("--notice", type=int, default=300, help="seconds that saving may take; default: %(default)s")
    group.add_argument("--write", type=Path, metavar="FILE", help="where to; by default it is printed")
    group.add_argument("--submit", action="store_true", help="hand it to sbatch")


def hand_in(options: argparse.Namespace, links: Sequence[Link], overrides: Sequence[str]) -> int:
    """Writes, submits or prints the script; returns the exit status.

    Raises:
        FileNotFoundError: to submit there is no sbatch.
    """
    output = links[-1].folder.path.parent
    named = [f"--{key}={getattr(options, key)}" for key in ("partition", "account", "time") if getattr(options, key)]
    job = Job(
        name=output.resolve().name,
        nodes=options.nodes,
        gpus=options.gpus_per_node,
        processes=options.processes or options.gpus_per_node or 1,
        max_restarts=options.max_restarts,
        notice=options.notice,
        settings=[*named, *options.sbatch],
        output=output,
        stages=[*(str(link.file) for link in links), *overrides],
    )
    text = script(job, sys.executable, Path.cwd())
    output.mkdir(parents=True, exist_ok=True)  # or Slurm would drop what the job says
    if options.write:
        options.write.write_text(text, encoding="utf-8")
        log.info("%s is written; submit it with: sbatch %s", options.write, options.write)
    elif not options.submit:
        print(text, end="")
    if options.submit:
        return subprocess.run(["sbatch"], input=text, text=True, check=False).returncode
    return 0
