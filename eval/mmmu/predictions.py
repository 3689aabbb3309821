"""The replies of a run on disk, so that a run that was killed goes on where it stopped.

    OUT/run.json            what was asked, of which model, how; written first
    OUT/predictions.jsonl   {"id": ..., "reply": ...}, one to a line, appended batch by batch and synced to disk

A line that was cut off is dropped and its question asked again. A run with another protocol, model, data or split is
refused in the same folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

RUN = "run.json"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the replies in a folder answer."""

    protocol: str
    split: str
    subjects: list[str]
    model: str
    """As the caller names it."""
    model_revision: str
    """Tells the model's weights from others; the model's name where nobody computed one."""
    data_revision: str
    """`Dataset.revision` of the questions asked."""
    max_new_tokens: int
    batch_size: int
    """At the start; a resume may use another."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same in a resume."""
        return {
            "protocol": self.protocol,
            "split": self.split,
            "subjects": self.subjects,
            "model": self.model_revision,
            "data": self.data_revision,
            "max_new_tokens": self.max_new_tokens,
        }


class _Read(NamedTuple):
    replies: dict[str, str]
    end: int
    """Length of the whole lines, in bytes."""


class Predictions:
    """The replies of one run, open for more.

    Raises:
        ValueError: the folder holds the replies of another run.
    """

    def __init__(self, out: Path, run: Run) -> None:
        """Opens the run in `out`, or starts it there."""
        earlier = read_run(out)
        path = out / PREDICTIONS
        if earlier is None and path.exists():
            raise ValueError(f"{path} is there but {RUN} is not, so nobody knows what it answers; use another folder")
        if earlier is not None:
            _same(earlier, run, out)
        else:
            write_json(out / RUN, asdict(run))
        found = _read(path) if path.exists() else _Read({}, 0)
        self.run = earlier or run
        self.replies = found.replies
        self._file = path.open("ab")
        self._file.truncate(found.end)

    def add(self, replies: Iterable[tuple[str, str]]) -> None:
        """Appends (id, reply) pairs; they are on disk when this returns."""
        new = dict(replies)
        lines = [json.dumps({"id": key, "reply": reply}, ensure_ascii=False) + "\n" for key, reply in new.items()]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.replies |= new

    def __enter__(self) -> Predictions:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the file."""
        self._file.close()


def read_replies(out: Path) -> dict[str, str]:
    """Replies by id.

    Raises:
        FileNotFoundError: `out` holds none.
        ValueError: a line other than the last is no prediction, or an id comes twice.
    """
    path = out / PREDICTIONS
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; run without --score-only to make it")
    return _read(path).replies


def read_run(out: Path) -> Run | None:
    """What the replies in `out` answer; None where it does not say.

    Raises:
        ValueError: it says it in another form.
    """
    path = out / RUN
    if not path.exists():
        return None
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the description of an MMMU run: {error}") from error


def write_json(path: Path, content: object, *, indent: int = 2) -> None:
    """Writes `content` whole or not at all."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Writes `text` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _read(path: Path) -> _Read:
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    replies: dict[str, str] = {}
    end = 0
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no end of line")
            record = json.loads(line)
            key, reply = record["id"], record["reply"]
            if not (isinstance(key, str) and isinstance(reply, str)):
                raise ValueError("id and reply should be strings")
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break  # cut off when the run was killed
            raise ValueError(f"{path}, line {number}: not a prediction: {error!r}") from error
        if key in replies:
            raise ValueError(f"{path}, line {number}: {key} was answered before")
        replies[key] = reply
        end += len(line)
    return _Read(replies, end)


def _same(earlier: Run, run: Run, out: Path) -> None:
    differences = [
        f"{name} was {earlier.identity[name]!r}, now {value!r}"
        for name, value in run.identity.items()
        if earlier.identity[name] != value
    ]
    if differences:
        raise ValueError(
            f"{out} holds the replies of another run, of model {earlier.model!r}: {'; '.join(differences)}. "
            "Use another --out, or delete that folder"
        )
