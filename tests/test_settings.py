"""Settings are strict: what is wrong, where, and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.stage import Stage
from yivl.settings import SettingsError, parse, plain, read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutoin": 224}, "unknown key 'resolutoin'; did you mean 'resolution'?"),
        ({"lora": {"r": 8}}, "unknown key 'lora'; here that is adapter"),
        ({"per_device_train_batch_size": 4}, "here that is tokens_per_micro_batch, and global_batch for the optimiser"),
        ({"epochs": "two"}, "key 'epochs': 'two' (str), expected a whole number"),
        ({"epochs": 1.5}, "key 'epochs': 1.5 (float), expected a whole number"),
        ({"epochs": True}, "key 'epochs': True (bool), expected a whole number"),
        ({"precision": "fp16"}, "key 'precision': 'fp16' (str), allowed are 'bf16', 'fp32'"),
        ({"learning_rate": {"vison": 1e-3}}, "unknown part 'vison' in learning_rate; the parts are vision, projector"),
        ({"learning_rate": {"vision": 0.0}}, "leave a part out to freeze it"),
        ({"learning_rate": {}}, "nothing would be trained"),
        ({"learning_rate": 1e-3}, "key 'learning_rate': expected inner keys, found 0.001 (float)"),
        ({"global_batch": 0}, "either global_batch (samples) or batch_tokens"),
        ({"warmup": 3}, "warmup is 3.0; between 0 and 1"),
        ({"clip_norm": None}, "key 'clip_norm': nothing, expected a number"),
    ],
)
def test_wrong_settings_name_file_key_and_way_out(
    stage_file: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    file = stage_file(**changes)
    with pytest.raises(SettingsError) as error:
        read(Stage, file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_all_problems_are_reported_together(stage_file: Callable[..., Path]) -> None:
    content = yaml.safe_load(stage_file(batch=1, epochs="x").read_text())
    del content["mixture"]
    with pytest.raises(SettingsError) as error:
        parse(Stage, content, "here")
    assert len(str(error.value).splitlines()) == 3
    assert "key 'mixture' is missing" in str(error.value)


def test_overrides_replace_settings(stage_file: Callable[..., Path]) -> None:
    stage = read(Stage, stage_file(), ["global_batch=7", "learning_rate.language=2e-5", "name=other"])
    assert (stage.global_batch, stage.name) == (7, "other")
    assert stage.learning_rate == {"vision": 1e-3, "projector": 1e-3, "language": 2e-5}
    with pytest.raises(SettingsError, match="written key=value"):
        read(Stage, stage_file(), ["global_batch"])


def test_paths_are_relative_to_the_file_that_names_them(stage_file: Callable[..., Path], tmp_path: Path) -> None:
    assert read(Stage, stage_file()).mixture == tmp_path / "mixture.yaml"


def test_settings_survive_being_saved(stage_file: Callable[..., Path]) -> None:
    stage = read(Stage, stage_file())
    assert parse(Stage, yaml.safe_load(yaml.safe_dump(plain(stage))), "saved") == stage


def test_missing_and_invalid_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no settings file"):
        read(Stage, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SettingsError, match=r"bad\.yaml: not valid YAML"):
        read(Stage, tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SettingsError, match="expected 'key: value' lines"):
        read(Stage, tmp_path / "list.yaml")


def test_names_of_other_projects_lead_to_ours() -> None:
    ours = {field.name for field in fields(Stage)}
    for name, told in Stage.ELSEWHERE.items():
        assert name not in ours and re.match(r"\w+", told)[0] in ours  # type: ignore[index]
