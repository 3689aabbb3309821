"""Chains of stages, on processes and nodes, by hand and as a Slurm job."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from test_ranks import assert_same_run

from stages.launch import __main__ as launch
from stages.launch import node_check
from stages.launch.chain import chain
from stages.launch.node_check import Asked, Measured, Node, problems
from stages.stage import Stage
from stages.train import train
from yivl.settings import SettingsError, read

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.fixture
def two_stages(stage_file: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of two stages, of which the one that comes last in the alphabet runs first."""
    first = stage_file(name="first", run=str(tmp_path / "runs" / "1"), global_batch=45, save_every=1)
    first.rename(tmp_path / "z.yaml")
    after = str(tmp_path / "runs" / "1" / "model")
    second = stage_file(name="second", run=str(tmp_path / "runs" / "2"), start_from=after, global_batch=45)
    second.rename(tmp_path / "a.yaml")
    return tmp_path


def steps(run: Path) -> list[int]:
    log = run / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []


def await_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while len(steps(run)) < count:
        assert time.monotonic() < deadline, f"{run} has made {steps(run)}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_folder_is_its_stages_in_order() -> None:
    for name in ("yi-vl-6b", "yi-vl-34b"):
        links = chain([ROOT / "configs" / name], [])
        assert [link.file.name for link in links] == ["stage1.yaml", "stage2.yaml", "stage3.yaml"]
    quickstart = [ROOT / "configs" / "quickstart"]
    assert [link.stage.name for link in chain(quickstart, ["epochs=7"])] == ["text", "stage1", "stage2", "stage3"]
    assert all(link.stage.epochs == 7 for link in chain(quickstart, ["epochs=7"]))


def test_stages_that_make_no_chain_are_refused(two_stages: Path) -> None:
    def other(name: str, **changes: str) -> Path:
        content = yaml.safe_load((two_stages / "a.yaml").read_text()) | changes
        (two_stages / name).write_text(yaml.safe_dump(content))
        return two_stages / name

    run, model = str(two_stages / "runs" / "3"), str(two_stages / "runs" / "3" / "model")
    for changes, problem in (
        ({"run": run}, r"a.yaml and .*b.yaml both start from what .*z.yaml writes"),
        ({"run": run, "start_from": ""}, r"b.yaml and .*z.yaml both start from none of the others"),
        ({"run": run, "start_from": model}, r"b.yaml: none is the first"),
        ({}, r"a.yaml and .*b.yaml both write"),
        ({"runn": run}, "unknown key 'runn'; did you mean 'run'"),
    ):
        other("b.yaml", **changes)
        with pytest.raises(SettingsError, match=problem):
            chain([two_stages], [])
    with pytest.raises(SettingsError, match="each of 2 stages has its own run; name one stage file"):
        chain([two_stages / "a.yaml", two_stages / "z.yaml"], ["run=elsewhere"])
    with pytest.raises(SettingsError, match="holds no stage file"):
        chain([ROOT / "configs" / "mixture"], [])


def test_stages_run_in_order_past_what_is_done_until_one_fails(two_stages: Path) -> None:
    runs = two_stages / "runs"
    shutil.copytree(TINY, runs / "1" / "model")  # the first is done
    for number, data in ((3, "nowhere"), (4, "shards")):
        content = yaml.safe_load((two_stages / "a.yaml").read_text()) | {"name": str(number), "data": data}
        content |= {"start_from": str(runs / str(number - 1) / "model"), "run": str(runs / str(number))}
        (two_stages / f"{number}.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "stages.launch", str(two_stages), "schedule=constant", "device_gib=0.5"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert steps(runs / "2") == [1, 2]
    assert yaml.safe_load((runs / "2" / "stage.yaml").read_text())["schedule"] == "constant"
    told = [line for line in ended.stderr.splitlines() if " is done: " in line or "ended" in line]
    assert told == [f"first is done: {runs / '1' / 'model'}", "3 ended with status 1"], ended.stderr
    foreseen = [line for line in ended.stderr.splitlines() if " on 1 device: does not fit" in line]
    assert [line.split()[0] for line in foreseen] == ["second", "3", "4"]
    assert ended.stderr.count("error: ") == 1  # what can't succeed is not tried again
    assert not (runs / "4").exists()


@pytest.mark.slow
def test_two_nodes_make_the_run_of_one_process_through_a_crash_and_a_stop(
    stage_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A process is killed: those of both nodes begin again. One launcher is asked to end: both save and end."""
    stage = stage_file(global_batch=7, tokens_per_micro_batch=400, max_length=400, epochs=6)
    train(read(Stage, stage, [f"run={tmp_path / 'one'}"]))
    run = tmp_path / "two"
    command = [str(stage), f"run={run}", "--nodes", "2", "--processes", "1", "--rendezvous",
               f"127.0.0.1:{free_port()}", "--node-rank"]  # fmt: skip
    other = subprocess.Popen([sys.executable, "-m", "stages.launch", *command, "1"], cwd=ROOT)

    def disturb() -> None:
        await_steps(run, 3)
        [process] = multiprocessing.active_children()
        process.kill()
        process.join()
        await_steps(run, len(steps(run)) + 2)  # what was made since the last checkpoint is made again
        other.terminate()

    with ThreadPoolExecutor() as pool:
        disturbed = pool.submit(disturb)
        assert launch.main([*command, "0"]) == 143
    disturbed.result()
    assert other.wait(timeout=60) == 143
    assert 5 <= len(steps(run)) < 77
    train(read(Stage, stage, [f"run={run}"]))
    assert_same_run(run, tmp_path / "one")


def node(name: str, *tflops: float) -> Node:
    devices = [Measured(name="GPU", gib=100, free_gib=99, tflops=each, error=0.003) for each in tflops]
    return Node(
        name=name, gpus=len(devices), devices=devices, run_gib=500, cache_gib=300, sees_run=True, clock=1000.0,
        software={"commit": "abc", "torch": "2"},
    )  # fmt: skip


def test_the_check_names_the_node_and_what_is_wrong_with_it() -> None:
    asked = Asked(gpus=2, run_gib=400, cache_gib=200, floor=0.8)
    good = [node("n0", 600, 610), node("n1", 590, 620)]
    assert problems(good, asked) == []
    slow = node("n2", 300, 600)
    assert problems([*good, slow], asked) == ["n2, device 0: 300 TFLOP/s, below 0.8 of the median, 600"]
    taken = dataclasses.replace(slow.devices[1], free_gib=50.0, error=float("nan"))
    for changes, words in (
        ({"gpus": 1}, "n2: 1 GPUs, not 2"),
        ({"devices": [taken, taken]}, "n2, device 1: 50.0 of 100.0 GiB are free; who else is on it?"),
        ({"devices": [taken, taken]}, "n2, device 0: a bf16 matrix product is off by nan%"),
        ({"run_gib": 20.0}, "n2: 20 GiB free for runs, about 400 are needed"),
        ({"cache_gib": 20.0}, "n2: 20 GiB for the cache, cache_gib is 200"),
        ({"sees_run": False}, "n2: does not see the run folder of n0; it must lie on shared storage"),
        ({"clock": 900.0}, "n2: its clock is -100.0 s from that of n0"),
        ({"software": {"commit": "def", "torch": "2"}}, "n2: commit is def; on n0 abc"),
    ):
        assert words in problems([*good, dataclasses.replace(node("n2", 600, 600), **changes)], asked)  # type: ignore[arg-type]


def test_nodes_meet_to_be_checked(two_stages: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [str(two_stages), "--nodes", "2", "--rendezvous", f"127.0.0.1:{free_port()}"]

    def check(rank: int, *options: str) -> int:
        return node_check.main([*command, "--node-rank", str(rank), *options])

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(check, (0, 1))) == [0, 0]
    said = capfd.readouterr().out
    assert said.count(socket.gethostname()) == 2
    assert os.listdir(two_stages / "runs") == []

    command[4] = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda rank: check(rank, "--gpus", "8"), (0, 1))) == [1, 1]
    assert capfd.readouterr().err.count("0 GPUs, not 8") == 2


def test_the_batch_script_says_what_was_asked(two_stages: Path) -> None:
    script = two_stages / "job.sh"
    odd = f"data={two_stages}/it's here"
    assert launch.main([str(two_stages), odd, "--slurm", "--nodes", "16", "--partition", "gpu", "--time", "24:00:00",
                        "--sbatch=--qos=high", "--write", str(script)]) == 0  # fmt: skip
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    for option in ("--nodes=16", "--gpus-per-node=8", "--partition=gpu", "--time=24:00:00", "--qos=high", "--requeue"):
        assert f"\n#SBATCH {option}" in text
    words = shlex.split(next(line for line in text.splitlines() if "stages.launch " in line and "on_each" in line))
    at = words.index("stages.launch")
    assert words[at + 1 : at + 4] == [str(two_stages / "z.yaml"), str(two_stages / "a.yaml"), odd]


FAKES = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        for rank in 0 1; do SLURM_NODEID=$rank "$@" & echo $! >> $SPOOL/tasks; done
        worst=0
        for task in $(jobs -p); do wait $task; status=$?; (( status > worst )) && worst=$status; done
        rm $SPOOL/tasks
        exit $worst
    """,
    "scancel": "kill -TERM $(cat $SPOOL/tasks)",
    "scontrol": "[[ $1 == show ]] && printf '127.0.0.1\\n127.0.0.1\\n' || echo $2 > $SPOOL/requeued",
    "sbatch": """
        cat > $SPOOL/script
        export SLURM_JOB_ID=7 SLURM_JOB_NODELIST='n[0-1]' SLURM_CPUS_ON_NODE=1 SLURM_RESTART_COUNT=0
        job() {
            rm -f $SPOOL/requeued
            bash $SPOOL/script & echo $! > $SPOOL/batch
            wait $!; echo $? > $SPOOL/status
        }
        {
            job
            while [ -e $SPOOL/requeued ]; do ((SLURM_RESTART_COUNT++)); job; done
            touch $SPOOL/ended
        } &> $SPOOL/output &
        echo Submitted batch job 7
    """,
}
"""Stand in for Slurm: a job of two nodes, which are both this machine."""


@pytest.mark.slow
def test_a_slurm_job_whose_time_is_over_saves_and_goes_on_when_it_begins_again(
    two_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = two_stages / "spool"
    spool.mkdir()
    for name, lines in FAKES.items():
        (spool / name).write_text(f"#!/bin/bash\n{lines}\n")
        (spool / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{spool}:{os.environ['PATH']}")
    monkeypatch.setenv("SPOOL", str(spool))
    monkeypatch.chdir(ROOT)
    settings = ["global_batch=5", "epochs=5"]
    assert launch.main([str(two_stages), *settings, "--slurm", "--nodes", "2", "--gpus-per-node", "0", "--submit"]) == 0
    run = two_stages / "runs" / "1"
    await_steps(run, 4)
    os.kill(int((spool / "batch").read_text()), signal.SIGUSR1)
    deadline = time.monotonic() + 600
    while not (spool / "ended").exists():
        assert time.monotonic() < deadline, (spool / "output").read_text()
        time.sleep(0.1)
    said = (spool / "output").read_text()
    assert "begun 0 times before" in said and "begun 1 times before" in said, said
    assert (spool / "status").read_text() == "0\n", said
    for number in ("1", "2"):
        assert steps(two_stages / "runs" / number) == list(range(1, 91))
    train(read(Stage, two_stages / "z.yaml", [*settings, f"run={two_stages / 'one'}"]))
    assert_same_run(run, two_stages / "one")
