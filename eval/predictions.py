"""The replies of a run on disk, so that a run that was killed goes on where it stopped.

    OUT/run.json            what was asked, of which model, how; written first
    OUT/predictions.jsonl   {"id": ..., "reply": ...}, one to a line, appended batch by batch and synced to disk

Of several processes each appends to a file of its own, the second to `predictions-1.jsonl`. A line that was cut off is
dropped and its question asked again. A run with another protocol, model, data or split is refused in the same folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

RUN = "run.json"
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the replies in a folder answer."""

    benchmark: str
    protocol: str
    split: str
    subjects: list[str] | None
    """None for all."""
    model: str
    """As the caller names it."""
    model_revision: str
    """Tells the model's weights from others; the model's name where nobody computed one."""
    data: str
    """Folder or file of the questions asked."""
    data_revision: str
    """sha256 of them."""
    max_new_tokens: int
    batch_size: int
    """At the start; a resume may use another."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else must be the same in a resume, by name."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same in a resume."""
        return {
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "split": self.split,
            "subjects": self.subjects,
            "model": self.model_revision,
            "data": self.data_revision,
            "max_new_tokens": self.max_new_tokens,
            **self.settings,
        }


class _Read(NamedTuple):
    replies: dict[str, str]
    end: int
    """Length of the whole lines, in bytes."""


def begin(out: Path, run: Run) -> Run:
    """Starts a run in `out`, or finds it there; as it was begun.

    Raises:
        ValueError: the folder holds the replies of another run.
    """
    earlier = read_run(out)
    if earlier is None:
        if found := _files(out):
            raise ValueError(
                f"{found[0]} is there but {RUN} is not, so nobody knows what it answers; use another folder"
            )
        write_json(out / RUN, asdict(run))
        return run
    check_same(earlier.identity, run.identity, f"{out} holds the replies of another run, of model {earlier.model!r}")
    return earlier


class Predictions:
    """The replies in a folder, open for those of one process."""

    def __init__(self, out: Path, rank: int = 0) -> None:
        """Opens what `begin` began."""
        path = out / (f"predictions-{rank}.jsonl" if rank else PREDICTIONS)
        self.replies = _read_all(out)
        """All that are there, of other processes too."""
        end = _read(path).end if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(end)

    def add(self, replies: Iterable[tuple[str, str]]) -> None:
        """Appends (id, reply) pairs; they are on disk when this returns."""
        new = dict(replies)
        lines = [json.dumps({"id": key, "reply": reply}, ensure_ascii=False) + "\n" for key, reply in new.items()]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.replies |= new

    def share(self, gather: Callable[[dict[str, str]], list[dict[str, str]]]) -> None:
        """Takes in what the other processes have; `gather` gives all processes' replies."""
        for replies in gather(self.replies):
            self.replies |= replies

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
    if not _files(out):
        raise FileNotFoundError(f"no {out / PREDICTIONS}; run without --score-only to make it")
    return _read_all(out)


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
        raise ValueError(f"{path}: not the description of a run: {error}") from error


def write_json(path: Path, content: object, *, indent: int = 2) -> None:
    """Writes `content` whole or not at all."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False))


def write_text(path: Path, text: str) -> None:
    """Writes `text` whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _files(out: Path) -> list[Path]:
    return sorted(out.glob("predictions*.jsonl"))


def _read_all(out: Path) -> dict[str, str]:
    replies: dict[str, str] = {}
    for path in _files(out):
        for key, reply in _read(path).replies.items():
            if key in replies:
                raise ValueError(f"{path}: {key} was answered before, in another file of {out}")
            replies[key] = reply
    return replies


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


def check_same(earlier: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuses to go on with something else.

    Raises:
        ValueError: a value differs; the message begins with `what` and names all that do.
    """
    differences = [
        f"{name} was {earlier.get(name)!r}, now {value!r}" for name, value in now.items() if earlier.get(name) != value
    ]
    if differences:
        raise ValueError(f"{what}: {'; '.join(differences)}. Use another --out, or delete that folder")
