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

from stages.ranks import Ranks

LAYOUTS = ("packed", "rows", "uneven", "text")
CASES = {
    2: [Case(name=f"{layout}{zero}", zero=zero, layout=layout) for layout in LAYOUTS for zero in (1, 2, 3)]
    + [Case(name=f"frozen{zero}", zero=zero, frozen=True) for zero in (1, 2, 3)]
    + [Case(name=f"offload{zero}", zero=zero, offload=True) for zero in (1, 2, 3)]
    + [Case(name=f"bf16-{zero}{offload * 'o'}", zero=zero, precision="bf16", offload=offload)
       for zero in (1, 2, 3) for offload in (False, True)],
    4: [Case(name=f"{layout}{zero}", zero=zero, layout=layout) for layout in LAYOUTS for zero in (1, 2, 3)],
}  # fmt: skip


def launch(ranks: int, cases: list[Case], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    process = torchrun(ranks, "tests/engines_case.py", json.dumps([asdict(case) for case in cases]), str(out))
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders with what 2 and 4 processes made of all cases."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in CASES}
    for ranks, folder in folders.items():
        launch(ranks, CASES[ranks], folder)
    return folders


@cache
def reference(case: Case) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return trained(case, Ranks())


def plain(case: Case) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """What plain torch makes of a case in one process. It does not depend on the layout: `test_loss` has that."""
    return reference(replace(case, name="", zero=0, offload=False, layout="packed"))


@pytest.mark.parametrize(("ranks", "name"), [(ranks, case.name) for ranks in CASES for case in CASES[ranks]])
def test_the_training_is_that_of_one_process(launched: dict[int, Path], ranks: int, name: str) -> None:
    case = next(case for case in CASES[ranks] if case.name == name)
    told = json.loads((launched[ranks] / f"{name}.json").read_text())["told"]
    (expected, weights), exact = plain(case), case.precision == "fp32"
    for (loss, norm), (loss_expected, norm_expected) in zip(told, expected, strict=True):
        # bf16: DeepSpeed's layer norms are bf16, autocast's are fp32
        assert loss == pytest.approx(loss_expected, rel=1e-6 if exact else 1e-3)
        assert norm == pytest.approx(norm_expected, rel=1e-5 if exact else 1e-2)
    found = load_file(launched[ranks] / f"{name}.safetensors")
    assert found.keys() == weights.keys()
    for tensor, right in weights.items():
        assert relative(found[tensor], right, tensor) < (1e-5 if exact else 2e-2), tensor


def relative(found: torch.Tensor, expected: torch.Tensor, name: str) -> float:
    """The difference's norm as a share of the weights' own."""
    if name.endswith("in_proj_bias"):  # a key's bias shifts all scores alike: Adam moves it by the sign of rounding
        found, expected = (tensor.view(3, -1)[[0, 2]] for tensor in (found, expected))
    return float((found - expected).float().norm() / expected.float().norm().clamp(min=1e-12))


def test_a_checkpoint_serves_every_engine_and_number_of_processes(tmp_path: Path) -> None:
    """Saved by 2 processes with ZeRO 3, gone on with by 4 with ZeRO 1 and 2 with ZeRO 2; by plain torch; and so on."""
    states = {zero: str(tmp_path / f"state{zero}") for zero in (1, 2, 3)}
    launch(2, [Case(name=f"save{zero}", zero=zero, save=state) for zero, state in states.items()], tmp_path)
    whole = [Case(name=f"whole{zero}", zero=zero) for zero in states]
    same = [Case(name=f"same{zero}", zero=zero, load=state) for zero, state in states.items()]
    launch(2, [*whole, *same, Case(name="2to2", zero=2, load=states[3])], tmp_path)
    launch(4, [Case(name="2to4", zero=1, load=states[3]), Case(name="1to3", zero=3, load=states[1])], tmp_path)
    launch(1, [Case(name="2to1", load=states[2])], tmp_path)
    expected, _ = plain(Case(name=""))
    for name in ("2to2", "2to4", "1to3", "2to1"):
        told = json.loads((tmp_path / f"{name}.json").read_text())["told"]
        assert [loss for loss, _ in told] == pytest.approx([loss for loss, _ in expected[2:]], rel=1e-6), name
    for zero in states:  # on the same number of processes nothing differs by a bit
        once, twice = (json.loads((tmp_path / f"{name}{zero}.json").read_text())["told"] for name in ("whole", "same"))
        assert once[2:] == twice
        once, twice = (load_file(tmp_path / f"{name}{zero}.safetensors") for name in ("whole", "same"))
        assert all(torch.equal(once[name], twice[name]) for name in once)
