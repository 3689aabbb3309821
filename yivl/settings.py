"""Strict settings: a YAML file becomes a frozen dataclass, or an error that names the file, the key and the way out.

    stage = read(Stage, Path("configs/yi-vl-6b/stage1.yaml"), ["global_batch=512"])

A field's type says what it takes. Fields of type `Path` are relative to the file that holds them (on the command line:
to the current folder); strings are taken as they stand. All errors of a file are reported together.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class SettingsError(ValueError):
    """A settings file that can't be used; the message lists every problem."""


def read(cls: type[T], file: Path, overrides: Sequence[str] = ()) -> T:
    """Reads `file` as a `cls`, with `key=value` (or `key.inner=value`) overrides.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: unknown or missing keys, wrong types, impossible values.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no settings file {file}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: expected 'key: value' lines, found {_found(content)}")
    content = _anchor(content, cls, file.parent)
    for override in overrides:
        _override(content, override)
    return parse(cls, content, str(file))


def parse(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """`content` as a `cls`; `where` names its origin in errors."""
    errors: list[str] = []
    value = _dataclass(cls, content, "", errors)
    if errors:
        raise SettingsError("\n".join(f"{where}: {error}" for error in errors))
    return typing.cast(T, value)


def plain(value: Any) -> Any:
    """A settings object as plain dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise SettingsError(f"{override!r}: an override is written key=value")
    *outer, last = key.strip().split(".")
    for name in outer:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise SettingsError(f"{override!r}: {name!r} holds a single value, it has no inner keys")
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{override!r}: not a YAML value; put it in quotes") from error


def _anchor(content: dict[str, Any], cls: Any, folder: Path) -> dict[str, Any]:
    """Paths made relative to the folder of the file they stand in."""
    hints = typing.get_type_hints(cls)
    anchored = dict(content)
    for key, value in content.items():
        if hints.get(key) in (Path, Path | None) and isinstance(value, str):
            anchored[key] = str(folder / value)
    return anchored


def _dataclass(cls: Any, content: Any, at: str, errors: list[str]) -> Any:
    if not isinstance(content, Mapping):
        errors.append(f"key '{at}': expected inner keys, found {_found(content)}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    before = len(errors)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{at}.{key}" if at else str(key)
        if key not in fields:
            errors.append(f"unknown key '{name}'; {_hint(cls, str(key), list(fields))}")
        else:
            values[key] = _value(hints[key], value, name, errors)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in content:
            errors.append(f"key '{f'{at}.{name}' if at else name}' is missing")
    if len(errors) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        errors.append(f"key '{at}': {error}" if at else str(error))
        return None


def _hint(cls: Any, key: str, fields: Sequence[str]) -> str:
    """What may have been meant: what a class says in `ELSEWHERE` of names that other projects use, or a similar key."""
    if known := getattr(cls, "ELSEWHERE", {}).get(key):
        return f"here that is {known}"
    close = difflib.get_close_matches(key, fields, n=1)
    return f"did you mean '{close[0]}'?" if close else f"the keys are {', '.join(fields)}"


def _value(hint: Any, value: Any, at: str, errors: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, at, errors)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, at, errors)
    if origin is typing.Literal:
        if value in arguments:
            return value
        errors.append(f"key '{at}': {_found(value)}, allowed are {', '.join(map(repr, arguments))}")
        return None
    if origin is dict:
        if isinstance(value, Mapping):
            return {k: _value(arguments[1], v, f"{at}.{k}", errors) for k, v in value.items()}
        errors.append(f"key '{at}': expected inner keys, found {_found(value)}")
        return None
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_value(arguments[0], item, f"{at}[{i}]", errors) for i, item in enumerate(value))
        errors.append(f"key '{at}': expected a list, found {_found(value)}")
        return None
    return _scalar(hint, value, at, errors)


_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
}


def _scalar(hint: Any, value: Any, at: str, errors: list[str]) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 takes 1e-4 for a text
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    errors.append(f"key '{at}': {_found(value)}, expected {_NAMES.get(hint, hint)}")
    return None


def _found(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
