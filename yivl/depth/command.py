"""The command `yivl depth`: which layers of a language model can be repeated, and the deeper model.

yivl depth measure MODEL… [--text TEXT] [--file F…] [--json FILE] [--figures DIR]
yivl depth expand MODEL [OUT] --repeat A:B | --solar | --suggest N
yivl depth compare MODEL --file F… [--repeat A:B]… [--solar] [--suggest N] [--json FILE] [--figures DIR]
yivl depth unpack FILE.gguf OUT
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from yivl.depth.comparison import compare
from yivl.depth.cosine import QUIZ, Profile, Text, measure
from yivl.depth.expand import Original, check_empty, expand
from yivl.depth.expansion import repeated, solar
from yivl.depth.gguf import check_unpacked, unpack
from yivl.depth.report import compared_record, compared_text, measured_record, measured_text
from yivl.depth.suggestion import suggest
from yivl.language_model import LanguageModel, load

_SHARD_GB = 5.0


def add_to(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    depth = commands.add_parser("depth", help="which layers can be repeated, and the deeper model")
    parts = depth.add_subparsers(dest="part", required=True)
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument(
        "--text", action="append", default=[], help=f"to read; compare wants one, the others by default read {QUIZ!r}"
    )
    reading.add_argument("--file", nargs="+", type=Path, default=[], metavar="F", help="files of text to read")
    reading.add_argument("--window", type=int, metavar="N", help="tokens read at once; by default the model's context")
    reading.add_argument("--dtype", help="float32, bfloat16, ...; by default that of the weights")
    reading.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default the first GPU, or else the CPU")
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    writing.add_argument("--figures", type=Path, metavar="DIR", help="draw it there, as SVG files")

    measuring = parts.add_parser("measure", parents=[reading, writing], help="each layer's cosine of input and output")
    measuring.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folders, such as checkpoints")
    measuring.add_argument(
        "--skip-first",
        type=int,
        choices=(1, 2),
        default=1,
        help="first layers that the model's value leaves out, as well as the last two (default 1)",
    )
    expanding = parts.add_parser("expand", parents=[reading], help="write the model with a block of layers repeated")
    expanding.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    expanding.add_argument("out", type=Path, nargs="?", metavar="OUT", help="left out, it is only said what would be")
    expanding.add_argument("--shard-gb", type=float, default=_SHARD_GB, metavar="GB", help="most in a file (default 5)")
    block = expanding.add_mutually_exclusive_group(required=True)
    block.add_argument("--repeat", metavar="A:B", help="layers A to B, without B, twice; Yi-9B: 12:28")
    block.add_argument("--solar", action="store_true", help="the middle layers, all but a quarter at either end")
    block.add_argument("--suggest", type=int, metavar="N", help="the N layers whose repetition disturbs least")
    comparing = parts.add_parser("compare", parents=[reading, writing], help="what repeating blocks does to the model")
    comparing.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    comparing.add_argument("--repeat", action="append", default=[], metavar="A:B", help="may be given several times")
    comparing.add_argument("--solar", action="store_true", help="see expand")
    comparing.add_argument("--suggest", type=int, metavar="N", help="see expand")
    unpacking = parts.add_parser("unpack", help="write a GGUF file's weights as a model folder")
    unpacking.add_argument("file", type=Path, metavar="FILE.gguf")
    unpacking.add_argument("out", type=Path, metavar="OUT")


def run(options: argparse.Namespace) -> None:
    """Runs one of the sub-commands.

    Raises:
        FileNotFoundError, OSError, ValueError, ImportError: what was asked for can't be done; the message says why.
    """
    {"measure": _measure, "expand": _expand, "compare": _compare, "unpack": _unpack}[options.part](options)


def _measure(options: argparse.Namespace) -> None:
    figures, texts = _figures(options), _texts(options) or [Text(QUIZ, QUIZ)]
    measured: dict[str, dict[str, Profile]] = {}
    for name, folder in zip(_names(options.models), options.models, strict=True):
        language = _load(folder, options)
        measured[name] = {}
        for text in texts:
            _told(f"{name} reads {text.name!r}")
            measured[name][text.name] = measure(language, text, options.window)
    print(measured_text(measured, options.skip_first), end="")
    _write_json(options, measured_record(measured, options.skip_first))
    if figures:
        figures.draw_measured(measured, options.skip_first, options.figures)


def _expand(options: argparse.Namespace) -> None:
    check_unpacked(options.model)
    original = Original(options.model)
    if options.out:
        check_empty(options.out)
    if options.suggest is not None:
        language = _load(options.model, options)
        suggestion = suggest(measure(language, _one_text(options), options.window), options.suggest)
        print(f"{suggestion.reason}\n")
        expansion = suggestion.expansion
    else:
        expansion = solar(original.depth) if options.solar else repeated(options.repeat, original.depth)
    deeper = original.expanded(expansion)
    new = expansion.new
    print(f"{options.model}: {original.depth} layers, {original.parameters(original.tensors)} parameters")
    print(
        f"layers {expansion.start} to {expansion.end - 1} twice: {len(expansion.layers)} layers, "
        f"{new[0]} to {new[-1]} new, {original.parameters(deeper)} parameters"
    )
    if options.out:
        shard_bytes = round(options.shard_gb * 1e9)
        expand(original, expansion, options.out, shard_bytes=shard_bytes, told=_told)
        print(options.out)


def _compare(options: argparse.Namespace) -> None:
    if not (options.file or options.text):
        raise ValueError("say what to read: --file or --text, of some thousand tokens")
    if not (options.repeat or options.solar or options.suggest is not None):
        raise ValueError("say what to compare: --repeat A:B (as often as you like), --solar, --suggest N")
    figures, text = _figures(options), _one_text(options)
    language = _load(options.model, options)
    depth = language.model.config.num_hidden_layers
    expansions = {f"repeat {block}": repeated(block, depth) for block in options.repeat}
    if options.solar:
        expansions[f"solar {solar(depth)}"] = solar(depth)
    if options.suggest is not None:
        suggestion = suggest(measure(language, text, options.window), options.suggest)
        print(f"{suggestion.reason}\n")
        expansions[f"suggested {suggestion.expansion}"] = suggestion.expansion
    outcomes = compare(language, text, expansions, options.window, _told)
    print(compared_text(text.name, outcomes), end="")
    _write_json(options, compared_record(outcomes))
    if figures:
        figures.draw_compared(text.name, outcomes, options.figures)


def _unpack(options: argparse.Namespace) -> None:
    unpack(options.file, options.out)
    print(options.out)


def _load(folder: Path, options: argparse.Namespace) -> LanguageModel:
    check_unpacked(folder)
    return load(folder, options.device, options.dtype)


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _texts(options: argparse.Namespace) -> list[Text]:
    """Files by their names without suffix."""
    texts = [Text(content, content) for content in options.text]
    for file in options.file:
        try:
            texts.append(Text(file.stem, file.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text in UTF-8: {error}") from error
    names = [text.name for text in texts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two texts are called {twice.pop()!r}; a file is called by its name without suffix")
    return texts


def _one_text(options: argparse.Namespace) -> Text:
    """Where several are given, one behind the other."""
    texts = _texts(options) or [Text(QUIZ, QUIZ)]
    return Text(", ".join(text.name for text in texts), "\n\n".join(text.content for text in texts))


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders from each other: of `run/step-100/model` and `run/step-200/model` 100 and 200."""
    if len(set(folders)) < len(folders):
        raise ValueError("a model is named twice")
    if len(folders) == 1:
        return [str(folders[0])]
    parts = [list(folder.resolve().parts) for folder in folders]
    for end in (0, -1):
        while all(parts) and len({part[end] for part in parts}) == 1:
            for part in parts:
                part.pop(end)
    names = ["/".join(part) for part in parts]
    numbered = [re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in names]
    if len({match and match.group(1, 3) for match in numbered}) == 1 and numbered[0]:
        return [match[2] for match in numbered if match]
    return names


def _figures(options: argparse.Namespace) -> ModuleType | None:
    """What draws, where that is asked for; looked for before anything takes long."""
    if not options.figures:
        return None
    if find_spec("matplotlib") is None:
        raise ImportError("figures need matplotlib: pip install 'yivl[depth]'")
    # everything else goes without the package
    from yivl.depth import figures  # noqa: PLC0415

    return figures


def _write_json(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
