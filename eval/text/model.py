"""The language model that is asked: its weights are loaded with the first question, once for all tasks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from eval.revision import of_folder
from yivl import language_model
from yivl.language_model import LanguageModel


class Model:
    """The model in a folder.

    Args:
        folder: see `yivl.language_model.load`.
        out: where results go, perhaps within that folder.
        device: see `yivl.language_model.load`.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path, out: Path, device: str | None) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no model folder {folder}")
        self.folder = folder
        self._out, self._device = out, device

    @cached_property
    def revision(self) -> str:
        """Tells its files from others."""
        return of_folder(self.folder, without=self._out)

    @cached_property
    def language(self) -> LanguageModel:
        """Loaded."""
        return language_model.load(self.folder, self._device)
