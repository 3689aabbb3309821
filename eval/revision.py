"""A short name for the exact content of some files, by which data and weights are told apart in results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of_files(folder: Path, files: Iterable[Path]) -> str:
    """sha256 over the files' names, relative to `folder`, and contents, in the order of the names."""
    names = {file.relative_to(folder).as_posix(): file for file in files}
    total = hashlib.sha256()
    for name, file in sorted(names.items()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def of_folder(folder: Path, *, without: Path) -> str:
    """`of_files` for all files in `folder`, hidden ones and those under `without` left out."""
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.resolve().is_relative_to(without.resolve())
    ]
    return of_files(folder, files)
