"""What a process that trains on a CPU keeps: memory that a step freed, and few kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

_READ = ("MALLOC_", "GLIBC_TUNABLES", "LRU_", "ONEDNN_")
_WATCHED = """
import json, os, resource, sys
import torch
from stages.engines import on_cpu

on_cpu.prepare()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

def round():
    return len([torch.ones(2**20) for _ in range(64)])  # 256 MiB, all free afterwards

round()
before = faults()
for _ in range(10):
    round()
again = faults() - before
weight = torch.randn(512, 256).bfloat16()
for rows in range(400, 510):
    if rows == 410:
        few = resident()
    out = torch.randn(rows, 256).bfloat16() @ weight.T
    out @ weight
    out.T @ torch.randn(rows, 256).bfloat16()
grown = resident() - few
print(json.dumps({"faults": again, "grown": grown, "kept": os.environ["LRU_CACHE_CAPACITY"]}))
"""


def watched(**environment: str) -> dict[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_READ)}
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED], env=clean | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc and Linux")
def test_freed_memory_is_used_again_and_rows_of_new_lengths_take_none() -> None:
    found = watched()
    assert found["faults"] < 100_000  # else all 65,536 pages, ten times
    assert found["grown"] < 20 * 2**20  # else a MB for each length


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc and Linux")
def test_what_the_environment_says_stays() -> None:
    found = watched(MALLOC_TRIM_THRESHOLD_="131072", LRU_CACHE_CAPACITY="1024")
    assert found["kept"] == "1024"
    assert found["faults"] > 500_000
