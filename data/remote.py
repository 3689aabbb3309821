"""Shards that lie elsewhere: their addresses, and fetching them whole, through drops, stalls and truncation.

An address is what fsspec opens (`s3://`, `gs://`, `hf://`, `http://`, …; the protocol's own package must be installed)
or, as in webdataset, `pipe:COMMAND`, whose output is the shard. `{00000..00099}` stands for many; `*` too, where the
protocol can list.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import braceexpand
import fsspec

_PIPE = "pipe:"
_HTTP = ("http://", "https://")
_CHUNK = 8 * 2**20
_LOOK = 0.05
"""Seconds between looks at a command."""
_OWN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class RemoteError(OSError):
    """A shard that could not be fetched; the message says from where and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to go on trying."""

    attempts: int = 8
    """Failures in a row, without a byte in between, after which a fetch is given up."""
    first_wait: float = 1.0
    """Seconds before the second attempt; doubles with each, up to a minute."""
    stall: float = 60.0
    """Seconds without a byte after which an HTTP connection or a command counts as dropped."""
    sleep: Callable[[float], None] = time.sleep
    """Waits so many seconds."""


def is_remote(address: str) -> bool:
    """True for an address, false for a path."""
    return "://" in address or address.startswith(_PIPE)


def is_command(address: str) -> bool:
    """True for `pipe:COMMAND`."""
    return address.startswith(_PIPE)


def beside(address: str, suffix: str) -> str:
    """The address of the file whose name is longer by `suffix`."""
    path, mark, query = address.partition("?")
    return path + suffix + mark + query


def expand(pattern: str) -> list[str]:
    """The addresses that a pattern stands for, in order.

    Raises:
        ValueError: two shards would have one name, or a command names no tar.
    """
    addresses = []
    for address in braceexpand.braceexpand(pattern):
        if "*" in address and not is_command(address):
            files, path = fsspec.url_to_fs(address)
            addresses += sorted(files.unstrip_protocol(found) for found in files.glob(path))
        else:
            addresses.append(address)
    named: dict[str, str] = {}
    for address in addresses:
        if (other := named.setdefault(local_name(address), address)) != address:
            raise ValueError(f"{other} and {address} have the same file name; name them as two sources")
    return addresses


def local_name(address: str) -> str:
    """The file name of a shard: the last part of its address; of a command, the last word that ends in `.tar`."""
    if not is_command(address):
        return PurePosixPath(address.split("?", 1)[0]).name
    tars = [word for word in address.removeprefix(_PIPE).replace("'", " ").replace('"', " ").split() if ".tar" in word]
    if not tars:
        raise ValueError(f"{address}: the command names no file that ends in .tar, so its shard has no name")
    return PurePosixPath(tars[-1].split("?", 1)[0]).name


def fetch(address: str, file: Path, size: int | None = None, patience: Patience | None = None) -> None:
    """Brings a shard to `file`. What of it is there already, from a fetch that failed or was killed, is continued.

    Args:
        address: where it lies.
        file: what to write; complete when this returns.
        size: bytes it must have; when it has others, the fetch failed.
        patience: how long to go on trying.

    Raises:
        FileNotFoundError, PermissionError: there is no such shard, or not for us; this is not tried again.
        RemoteError: it could not be fetched.
    """
    patience = patience or Patience()
    failures = 0
    while True:
        before = file.stat().st_size if file.exists() else 0
        try:
            _continue(address, file, patience.stall)
            found = file.stat().st_size
            if size is not None and found > size:
                file.unlink()
                raise RemoteError(f"it has {found:,} bytes or more, its index was made for one of {size:,}")
            if size is not None and found < size:
                raise RemoteError(f"it ended after {found:,} of {size:,} bytes")
            return
        except (FileNotFoundError, PermissionError, ImportError):
            raise
        except Exception as error:  # each protocol's package raises errors of its own
            failures = 1 if file.exists() and file.stat().st_size > before else failures + 1
            if failures >= patience.attempts or _own(error):
                raise RemoteError(f"{address}: {failures} attempts failed, the last with: {error!r}") from error
            patience.sleep(min(60.0, patience.first_wait * 2 ** (failures - 1)))


def _own(error: Exception) -> bool:
    """Errors of this machine, such as a full disk, that no second attempt mends."""
    return isinstance(error, OSError) and error.errno in _OWN


def _continue(address: str, part: Path, stall: float) -> None:
    """Appends to `part` what of the shard it lacks; of a command's output all is taken anew."""
    if is_command(address):
        _run(address.removeprefix(_PIPE), part, stall)
        return
    with part.open("ab") as file:
        if address.startswith(_HTTP):
            _download(address, file, stall)
            return
        files, path = fsspec.url_to_fs(address)
        with files.open(path, "rb", cache_type="none") as remote:
            remote.seek(file.tell())
            shutil.copyfileobj(remote, file, _CHUNK)


def _run(command: str, part: Path, stall: float) -> None:
    """Writes what a command gives; when it gives nothing for `stall` seconds, it is ended."""
    with part.open("wb") as file, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, shell=True, stdout=file, stderr=complaints, start_new_session=True)
        try:
            size, since = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(_LOOK)
                if (grown := part.stat().st_size) > size:
                    size, since = grown, time.monotonic()
                elif time.monotonic() - since > stall:
                    raise RemoteError(f"the command gave nothing for {stall:g} seconds")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            complaints.seek(0)
            message = complaints.read().decode(errors="replace").strip()[-300:]
            raise RemoteError(f"the command ended with status {process.returncode}: {message}")


def _download(address: str, file: BinaryIO, stall: float) -> None:
    """Appends to a file what it lacks of an HTTP address. fsspec can't be used here: of a server without ranges it may
    take the beginning for the rest."""
    have = file.tell()
    request = Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=stall) as response:
            if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                file.truncate(0)  # the server gives whole files only
            stated = response.headers.get("Content-Length")
            begun = file.seek(0, os.SEEK_END)
            shutil.copyfileobj(response, file, _CHUNK)
            if stated is not None and file.tell() - begun < int(stated):
                raise RemoteError(f"the connection ended after {file.tell() - begun:,} of {int(stated):,} bytes")
    except HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"there is no {address}") from error
        if error.code in (401, 403):
            raise PermissionError(f"{address}: the server refuses it ({error})") from error
        if error.code == 416:  # what is here is longer than what is there
            file.truncate(0)
        raise
