"""Checkpoints count when they are whole, and the last whole one survives whatever happens to the next."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages import checkpoint
from stages.checkpoint import CheckpointError, Checkpoints
from yivl.ranks import Ranks


def state(value: float, size: int = 50) -> list[tuple[str, Tensor]]:
    return [("weight/x", torch.full((size,), value)), ("exp_avg/x", torch.full((size,), -value))]


def saved(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder, Ranks())
    for step in steps:
        checkpoints.save(step, {"broken": step}, state(step))
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept_and_give_back_what_was_saved(tmp_path: Path) -> None:
    newest = saved(tmp_path, 1, 2, 3).newest()
    assert names(tmp_path) == ["step-000000002", "step-000000003"]
    assert newest is not None and newest.step == 3 and newest.facts == {"broken": 3}
    assert {name: tensor.tolist() for name, tensor in newest.tensors.items()} == {
        "weight/x": [3.0] * 50, "exp_avg/x": [-3.0] * 50,
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["a bit", "cut", "gone", "no state.json", "half a state.json", "empty state.json"])
def test_a_damaged_one_is_passed_over_and_made_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path, 2, 4)
    newest = tmp_path / "step-000000004"
    tensors, facts = next(newest.glob("shard-*")), newest / "state.json"
    content = bytearray(tensors.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(content[:-7])
    elif damage == "gone":
        tensors.unlink()
    elif damage == "no state.json":
        facts.unlink()
    else:
        facts.write_bytes(facts.read_bytes()[:40] if damage == "half a state.json" else b"{}")
    found = checkpoints.newest()
    assert found is not None and found.step == 2
    assert "step-000000004 is not used" in caplog.text
    checkpoints.remove_after(found.step)
    assert names(tmp_path) == ["step-000000002"]
    checkpoints.save(4, {}, state(4))
    again = checkpoints.newest()
    assert again is not None and again.step == 4


def test_without_a_whole_one_nothing_begins_anew_unasked(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2, 4)
    for shard in tmp_path.glob("step-*/shard-*"):
        shard.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole; restore one \(step-000000002, step-0000"):
        checkpoints.newest()
    assert names(tmp_path) == ["step-000000002", "step-000000004"]


def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2, 4)
    shard = next(tmp_path.glob("step-000000004/shard-*"))
    content = shard.read_bytes()
    shard.unlink()
    shard.mkdir()  # reading it is an error of the file system, as a failing disk's or a lost mount's is
    with pytest.raises(OSError, match="directory"):
        checkpoints.newest()
    shard.rmdir()
    shard.write_bytes(content)
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 4


def test_a_full_disk_leaves_the_former_one(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the kernel refuses to write more
    try:
        with pytest.raises(CheckpointError, match="the checkpoint of step 1 survives"):
            checkpoints.save(2, {}, state(2, 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    assert names(tmp_path) == ["step-000000001"]


def test_large_states_lie_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FILE_BYTES", 1000)
    checkpoints = Checkpoints(tmp_path, Ranks())
    tensors = {f"weight/{n}": torch.full((100 + n,), float(n)) for n in range(7)}
    checkpoints.save(1, {}, tensors.items())
    assert len(list((tmp_path / "step-000000001").glob("shard-00000-*.safetensors"))) == 4
    newest = checkpoints.newest()
    assert newest is not None and newest.tensors.keys() == tensors.keys()
    assert all(torch.equal(newest.tensors[name], tensor) for name, tensor in tensors.items())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / ".step-000000002").mkdir()
    (tmp_path / ".step-000000002" / "shard-00000-00000.safetensors").write_bytes(b"half")
    newest = checkpoints.newest()
    assert newest is not None and newest.step == 1
    checkpoints.clean()
    assert names(tmp_path) == ["step-000000001"]
