"""The house: imports point down, no file is named like a module it would hide, the wheel ships `yivl` alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"yivl": set(), "data": {"yivl"}, "eval": {"yivl"}, "stages": {"yivl", "data", "eval"}}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_imports_point_down(floor: str) -> None:
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    for file in files:
        upward = (imported(file) & MAY_IMPORT.keys()) - MAY_IMPORT[floor] - {floor}
        assert not upward, f"{file.relative_to(ROOT)} imports {upward}"


def test_no_file_hides_a_standard_module() -> None:
    names = {file.stem for floor in MAY_IMPORT for file in (ROOT / floor).rglob("*.py")} - {"__init__", "__main__"}
    names -= {"inspect"}  # the command is called so; imports are absolute, and it runs as `python -m data.inspect`
    assert not names & sys.stdlib_module_names


def test_the_wheel_ships_yivl_alone(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        tops = {name.split("/")[0] for name in wheel.namelist()}
        entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert b"yivl = yivl.cli:main" in wheel.read(entry)
    assert {top for top in tops if not top.endswith(".dist-info")} == {"yivl"}
