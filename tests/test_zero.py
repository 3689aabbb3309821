"""DeepSpeed's processes make the training that plain torch makes in one: same losses, same weights.

The engines of one launch run one after the other in the same processes, because a launch takes longer than they do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from engines_case import Case, trained
from processes import torchrun
from safetensors.torch import load_file

from yivl.ranks import Ranks

LAYOUTS = ("packed", "rows", "uneven", "text")
STAGES = (1, 2, 3)
MATRIX = [Case(name=f"{layout}{zero}", zero=zero, layout=layout) for layout in LAYOUTS for zero in STAGES]
CASES = {
    2: MATRIX
    + [Case(name=f"frozen{zero}", zero=zero, frozen=True) for zero in STAGES]
    + [Case(name=f"offload{zero}", zero=zero, offload=True) for zero in STAGES]
    + [Case(name=f"bf16-{zero}", zero=zero, precision="bf16") for zero in STAGES]
    + [Case(name=f"bad{zero}", zero=zero, bad=True) for zero in (2, 3)]
    + [Case(name=f"bad-bf16-offload{zero}", zero=zero, bad=True, precision="bf16", offload=True) for zero in STAGES],
    4: MATRIX,
}


def launch(ranks: int, cases: list[Case], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    process = torchrun(ranks, "tests/engines_case.py", json.dumps([asdict(case) for case in cases]), str(out))
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all cases, and in `stateN` what ZeRO N saved after two of the four steps."""
    folder = tmp_path_factory.mktemp("two")
    saves = [Case(name=f"save{zero}", zero=zero, save=str(folder / f"state{zero}")) for zero in STAGES]
    launch(2, CASES[2] + saves, folder)
    return folder


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes made of theirs."""
    folder = tmp_path_factory.mktemp("four")
    launch(4, CASES[4], folder)
    return folder


@cache
def reference(case: Case) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return trained(case, Ranks())


def plain(case: Case) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """What plain torch makes of a case in one process. It does not depend on the layout: `test_loss` has that."""
    return reference(replace(case, name="", zero=0, offload=False, layout="packed", bad=False))


@pytest.mark.parametrize("case", CASES[2], ids=lambda case: case.name)
def test_two_processes_train_as_one(two: Path, case: Case) -> None:
    assert_trained_as_one(two, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[4], ids=lambda case: case.name)
def test_four_processes_train_as_one(four: Path, case: Case) -> None:
    assert_trained_as_one(four, case)


def told_in(folder: Path, name: str) -> list[list[float]]:
    """Losses and gradient norms of a case."""
    told: list[list[float]] = json.loads((folder / f"{name}.json").read_text())["told"]
    return told


def assert_trained_as_one(folder: Path, case: Case) -> None:
    (expected, weights), exact = plain(case), case.precision == "fp32"
    for (loss, norm), (loss_expected, norm_expected) in zip(told_in(folder, case.name), expected, strict=True):
        # bf16: DeepSpeed's layer norms are bf16, autocast's are fp32
        assert loss == pytest.approx(loss_expected, rel=1e-6 if exact else 1e-3)
        assert norm == pytest.approx(norm_expected, rel=1e-5 if exact else 1e-2)
    found = load_file(folder / f"{case.name}.safetensors")
    assert found.keys() == weights.keys()
    for tensor, right in weights.items():
        assert relative(found[tensor], right, tensor) < (1e-5 if exact else 2e-2), tensor


def relative(found: torch.Tensor, expected: torch.Tensor, name: str) -> float:
    """The difference's norm as a share of the weights' own."""
    if name.endswith("in_proj_bias"):  # a key's bias shifts all scores alike: Adam moves it by the sign of rounding
        found, expected = (tensor.view(3, -1)[[0, 2]] for tensor in (found, expected))
    return float((found - expected).float().norm() / expected.float().norm().clamp(min=1e-12))


def losses_after_a_resume(told: list[list[float]]) -> None:
    expected, _ = plain(Case(name=""))
    assert [loss for loss, _ in told] == pytest.approx([loss for loss, _ in expected[2:]], rel=1e-6)


def test_a_resume_differs_by_no_bit(two: Path, tmp_path: Path) -> None:
    """In the same engine on as many processes; and its checkpoint serves the other engines."""
    same = [Case(name=f"same{zero}", zero=zero, load=str(two / f"state{zero}")) for zero in STAGES]
    others = [Case(name="3to2", zero=2, load=str(two / "state3")), Case(name="1to3", zero=3, load=str(two / "state1"))]
    launch(2, same + others, tmp_path)
    for zero in STAGES:
        assert told_in(two, f"packed{zero}")[2:] == told_in(tmp_path, f"same{zero}")
        whole, resumed = load_file(two / f"packed{zero}.safetensors"), load_file(tmp_path / f"same{zero}.safetensors")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        losses_after_a_resume(trained(Case(name="", load=str(two / f"state{zero}")), Ranks())[0])  # in plain torch
    for case in others:
        losses_after_a_resume(told_in(tmp_path, case.name))


@pytest.mark.slow
def test_a_checkpoint_serves_another_number_of_processes(two: Path, tmp_path: Path) -> None:
    cases = [Case(name=f"from{zero}", zero=zero, load=str(two / f"state{zero}")) for zero in STAGES]
    for ranks in (1, 4):
        launch(ranks, cases, tmp_path / str(ranks))
        for case in cases:
            losses_after_a_resume(told_in(tmp_path / str(ranks), case.name))
