"""Which stages a command means, and in which order: each starts from what the one before writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from stages.run_folder import RunFolder
from stages.stage import Stage
from yivl.settings import SettingsError, read

_OF_STAGES = {"run", "learning_rate", "global_batch"}
"""Keys that tell a stage file from the other YAML files of a folder (mixtures, models, catalogues)."""


class Link(NamedTuple):
    """A stage of a chain."""

    file: Path
    stage: Stage

    @property
    def folder(self) -> RunFolder:
        """What it writes."""
        return RunFolder(Path(self.stage.run))


def chain(paths: Sequence[Path], overrides: Sequence[str]) -> list[Link]:
    """The stages of `paths`, each followed by the one that starts from it.

    Args:
        paths: stage files, and folders of which all stage files are meant.
        overrides: `key=value`, for every stage.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: a stage file can't be used, or the stages make no chain.
    """
    named = [file for path in paths for file in (_stage_files(path) if path.is_dir() else [path])]
    files = list({file.resolve(): file for file in named}.values())
    for override in overrides if len(files) > 1 else ():
        if (key := override.split("=")[0]) in ("run", "start_from"):
            raise SettingsError(f"{override}: each of {len(files)} stages has its own {key}; name one stage file")
    return _in_order([Link(file, read(Stage, file, overrides)) for file in files])


def _stage_files(folder: Path) -> list[Path]:
    found = [file for file in sorted(folder.glob("*.yaml")) if _OF_STAGES & _keys(file)]
    if not found:
        raise SettingsError(f"{folder} holds no stage file")
    return found


def _keys(file: Path) -> set[str]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    return set(content) if isinstance(content, dict) else set()


def _in_order(links: Sequence[Link]) -> list[Link]:
    writers: dict[Path, Link] = {}
    for link in links:
        if (other := writers.setdefault(link.folder.model.resolve(), link)) is not link:
            raise SettingsError(f"{other.file} and {link.file} both write {link.folder.path}")
    following: dict[Path | None, list[Link]] = defaultdict(list)  # by the file of the stage before
    for link in links:
        before = writers.get(Path(link.stage.start_from).resolve()) if link.stage.start_from else None
        following[before.file if before else None].append(link)
    for file, rivals in following.items():
        if len(rivals) > 1:
            start = f"start from what {file} writes" if file else "start from none of the others"
            raise SettingsError(f"{_listed(rivals)} both {start}: name the stages of one chain")
    ordered: list[Link] = []
    while nexts := following.get(ordered[-1].file if ordered else None):
        ordered += nexts
    if rest := [link for link in links if link not in ordered]:
        raise SettingsError(f"{_listed(rest)}: none is the first, what they start from only they write")
    return ordered


def _listed(links: Sequence[Link]) -> str:
    return " and ".join(str(link.file) for link in links)
