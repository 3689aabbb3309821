"""A plan says whether a run fits, what to change where it doesn't, and how long it takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import captions

from data.mixture import Mixture
from data.store import Store
from stages.planning.plan import Plan, plan
from stages.planning.sources import ASSUMED, Lengths, mean_lengths, planned_sources
from stages.stage import Stage
from yivl.assembly import ModelSource
from yivl.prompt import SYSTEM
from yivl.settings import SettingsError, read

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def planned(
    size: str, number: int, *overrides: str, ranks: int = 1, device: str = "a100", mfu: float | None = None
) -> Plan:
    stage = read(Stage, CONFIGS / f"yi-vl-{size}" / f"stage{number}.yaml", ["data=/nowhere", "run=/none", *overrides])
    return plan(
        stage, read(ModelSource, stage.model), read(Mixture, stage.mixture), ranks=ranks, device=device, mfu=mfu
    )


def test_a_stage_that_fits_says_with_how_much_room() -> None:
    found = planned("6b", 1, ranks=128)
    assert not found.fit.remedies
    shown = str(found)
    assert f"{found.fit.memory.total / 2**30:.2f}  of 79.10: fits" in shown
    assert found.fit.every == {"vision": 0, "language": 0} and shown.count("none") == 2
    # a larger device has room for longer rows, up to the last of the usual sizes that fits
    roomy = planned("6b", 1, device="h200").fit
    assert roomy.most_tokens > found.fit.most_tokens
    for tokens, fits in ((roomy.most_tokens, True), (24576, False)):
        other = planned("6b", 1, f"tokens_per_micro_batch={tokens}", device="h200").fit
        assert (other.every == roomy.every) == fits


def test_every_remedy_is_one() -> None:
    """34B in stage 3 needs 600 GB where nothing is shared."""
    found = planned("34b", 3, "zero=0", ranks=8, device="h200")
    assert "does not fit" in str(found) and found.fit.memory.total > 500 * 2**30
    assert found.fit.every == {"vision": 1, "language": 1}
    assert [one.split(":")[0] for one in found.fit.remedies] == ["zero", "zero"]
    for remedy in found.fit.remedies:
        assert remedy in str(found)
        changes = remedy.replace(": ", "=").split(" with ")
        assert not planned("34b", 3, *changes, ranks=8, device="h200").fit.remedies
    assert "zero: 3" in found.fit.remedies
    hopeless = planned("34b", 3, device="24")
    assert not hopeless.fit.remedies and "does not fit, nor with zero: 3, offload: true" in str(hopeless)


def test_where_no_single_change_helps_several_together_are_named() -> None:
    [remedy] = planned("34b", 3, ranks=8, device="24").fit.remedies
    found = re.fullmatch(r"zero: 3 with offload: true and tokens_per_micro_batch: (\d+)", remedy)
    assert found
    changed = planned("34b", 3, "offload=true", f"tokens_per_micro_batch={found[1]}", ranks=8, device="24")
    assert not changed.fit.remedies and "24.00: fits" in str(changed)
    assert "planned for 8 processes, zero: 3, offload, on GPUs of 24 GiB\n" in str(changed)
    assert changed.fit.offloaded == 16 * sum(part.parameters for part in changed.parts if part.rate) // 8


def test_shorter_rows_and_free_checkpointing_are_remedies() -> None:
    found = planned("6b", 1, "checkpointing.vision=0", "checkpointing.language=0", "tokens_per_micro_batch=16384")
    assert found.fit.every == {"vision": 0, "language": 0}
    assert "checkpointing left out" in found.fit.remedies
    tokens = next(one for one in found.fit.remedies if one.startswith("tokens_per_micro_batch"))
    assert "zero: 1" in found.fit.remedies and int(tokens.split()[-1]) <= 12288


def test_time_is_the_samples_flops_at_the_stated_rate() -> None:
    found = planned("6b", 1, ranks=128, mfu=0.5)
    assert found.pace.sample == pytest.approx(7.84e12, rel=0.005)  # worked out by hand
    assert found.pace.total == pytest.approx(found.pace.sample * 24_414 * 4096)
    days = 7.84e20 / (128 * 312e12 * 0.5) / 86400
    assert found.pace.days == pytest.approx(days, rel=0.005)
    assert f"{24 * days:.1f}" in str(found.pace) and "50%, as given" in str(found.pace)
    assert "40%, assumed" in str(planned("6b", 1, ranks=128).pace)


def test_a_run_that_has_begun_tells_its_own_speed(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "tflops": 100.0 if step < 50 else 150.0}) for step in range(200)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    found = planned("6b", 1, f"run={tmp_path}", ranks=8)
    assert found.pace.tflops == 150 and "as measured" in str(found.pace)
    assert planned("6b", 1, f"run={tmp_path}", ranks=8, mfu=0.1).pace.tflops == pytest.approx(31.2)


def test_devices_are_named_or_given_in_gib() -> None:
    assert planned("6b", 1, device="H100").pace.tflops == pytest.approx(0.4 * 989.4)
    unknown = planned("6b", 1, device="48")
    assert unknown.fit.room == 48 * 2**30 and unknown.pace.days is None and "not known" in str(unknown)
    assert planned("6b", 1, "peak_tflops=362", device="48", mfu=0.5).pace.tflops == 181
    for wrong in ({"device": "b100"}, {"ranks": 0}, {"mfu": 1.5}):
        with pytest.raises(SettingsError):
            planned("6b", 1, **wrong)  # type: ignore[arg-type]


def test_a_tiny_stage_fits_this_machine(stage_file: Callable[..., Path]) -> None:
    stage = read(Stage, stage_file())
    found = plan(stage, read(ModelSource, stage.model), read(Mixture, stage.mixture))
    assert not found.fit.remedies and found.fit.every == {"vision": 0, "language": 0}
    assert found.pace.days is None  # nobody knows what a CPU can do
    assert found.fit.tokens == 1024


def test_lengths_on_disk_are_those_of_the_samples(stage_file: Callable[..., Path], shards: Path) -> None:
    stage = read(Stage, stage_file())
    found = {one.name: one for one in planned_sources(read(Mixture, stage.mixture), Store(shards))}
    texts = [sample["txt"] for sample in captions(60, np.random.default_rng(0))]  # as the fixture makes them
    expected = np.mean([len(text.strip()) + 1 for text in texts]) / 3
    assert found["captions"].lengths == pytest.approx(Lengths(images=1, text=expected, supervised=expected))
    assert found["chats"].lengths.images == 35 / 40
    system = len(SYSTEM.encode()) / 3
    assert system < found["chats"].lengths.text < system + 60
    assert 0 < found["chats"].lengths.supervised < 40
    both = mean_lengths(list(found.values()))  # 50 captions, by the mixture's cap, and 40 conversations
    assert both.images == pytest.approx((50 * 1 + 40 * 35 / 40) / 90)


def test_lengths_of_what_is_not_on_disk_are_assumed(tmp_path: Path) -> None:
    sources = {
        "near": {"shards": "near/*.tar", "format": "caption", "pairs": 300},
        "far": {"shards": "https://example.org/{0..3}.tar", "format": "conversation", "pairs": 100},
    }
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}))
    (tmp_path / "mixture.yaml").write_text(
        yaml.safe_dump({"catalogue": "sources.yaml", "sources": {"near": {}, "far": {}}}, sort_keys=False)
    )
    found = planned_sources(read(Mixture, tmp_path / "mixture.yaml"), Store(tmp_path))
    assert [one.lengths for one in found] == [ASSUMED["caption"], ASSUMED["conversation"]]
    assert mean_lengths(found).text == (3 * 48 + 400) / 4
