"""Text that every Python comes with: its manual and docstrings as English, its standard library as code."""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

_HELD_OUT = 20
"""One of so many pages and modules is held out."""
_SHORTEST = 200
"""Characters; docstrings of less say little."""


def write_corpus(folder: Path) -> None:
    """Writes `english.jsonl` and `code.jsonl` into a folder, and beside them `held_out_english.jsonl` and
    `held_out_code.jsonl`: of other modules and other pages, since a module's docstrings stand in its code as well."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in corpus().items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def corpus() -> dict[str, list[str]]:
    """The documents of each file: the manual's pages and each module's docstrings together; each module's source."""
    found: dict[str, list[str]] = {f"{held}{name}": [] for name in ("english", "code") for held in ("", "held_out_")}
    for page, text in topics.topics.items():
        found[f"{_held_out(page)}english"].append(text)
    for name, source, tree in _modules():
        found[f"{_held_out(name)}code"].append(source)
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)]
        text = "\n\n".join(one for one in docstrings if one)
        if len(text) >= _SHORTEST:
            found[f"{_held_out(name)}english"].append(text)
    return found


def _modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Name and source code of the modules of the standard library in the order of their paths, without tests and the
    one that holds the manual."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "lib2to3", "pydoc_data"} & set(name.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # a few are examples of what must fail
        if source.strip():
            yield name.as_posix(), source, tree


def _held_out(name: str) -> str:
    """Which file a page or module goes to, by its name."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return "" if int.from_bytes(digest, "little") % _HELD_OUT else "held_out_"
