"""Reading tar files by offset.

Python's tarfile ends a listing without an error at a damaged header; here every header's checksum is verified, and a
file that ends early is an error. Only regular files are read; nothing is ever extracted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"


class BadTar(ValueError):
    """A tar file that is damaged or cut off; the message says where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file in a tar."""

    name: str
    start: int
    """Offset of its first header block (an extended header, where it has one)."""
    data: int
    """Offset of its content."""
    size: int
    """Bytes of its content."""

    @property
    def end(self) -> int:
        """Offset of what follows it."""
        return self.data + -(-self.size // BLOCK) * BLOCK


def members(file: BinaryIO, name: str, end: int | None = None) -> Iterator[Member]:
    """The regular files up to an offset, in order.

    Args:
        file: opened for reading; its position is moved.
        name: of the tar, for errors.
        end: where to stop; by default at the end-of-archive marker, which must be there.

    Raises:
        BadTar: a damaged header, or the file ends inside a member or before its marker, or goes on after it.
    """
    total = os.fstat(file.fileno()).st_size if end is None else end
    at, first, long_name = 0, 0, ""
    while end is None or at < end:
        file.seek(at)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            if end is None:
                _check_rest(file, name)
            return
        if len(header) < BLOCK:
            raise BadTar(f"{name}: cut off at byte {at + len(header)}; no end-of-archive marker")
        kind, size = header[156:157], _checked_size(header, name, at)
        member = Member(long_name or _header_name(header), first, at + BLOCK, size)
        if member.end > total:
            raise BadTar(f"{name}: cut off: {member.name} at byte {at} needs {member.end} bytes, the file has {total}")
        if kind in (_PAX, _GNU_NAME):
            content = file.read(size)
            try:
                long_name = _pax_path(content) or long_name if kind == _PAX else content.rstrip(b"\0").decode()
            except ValueError as error:
                raise BadTar(f"{name}: damaged extended header at byte {at}") from error
        elif kind in (_PAX_GLOBAL, _GNU_LINK):
            pass
        else:
            if kind in _REGULAR:
                yield member
            long_name = ""
            first = member.end
        at = member.end


def _check_rest(file: BinaryIO, name: str) -> None:
    """After its end an archive holds zeros at most: a damaged header, or another tar put behind, is more."""
    while rest := file.read(2**20):
        if rest.strip(b"\0"):
            raise BadTar(f"{name}: content after the end-of-archive marker, before byte {file.tell()}")


def _checked_size(header: bytes, name: str, at: int) -> int:
    try:
        stated = _octal(header[148:156])
        raw = header[124:136]
        size = int.from_bytes(raw[1:], "big") if raw[0] & 0x80 else _octal(raw)
    except ValueError as error:
        raise BadTar(f"{name}: damaged header at byte {at}") from error
    if stated != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise BadTar(f"{name}: damaged header at byte {at} (its checksum does not match)")
    return size


def _octal(digits: bytes) -> int:
    text = digits.split(b"\0")[0].strip()
    if text.strip(b"01234567"):  # int() would take a sign, and a negative size would lead nowhere
        raise ValueError(f"{text!r} is not octal")
    return int(text or b"0", 8)


def _header_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:262] == b"ustar" and header[262:264] == b"\0" + b"0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", errors="replace")


def _pax_path(content: bytes) -> str:
    while content:
        length, _, rest = content.partition(b" ")
        if int(length) <= 0:
            raise ValueError("an empty record")
        record, content = rest[: int(length) - len(length) - 2], content[int(length) :]
        if record.startswith(b"path="):
            return record[5:].decode()
    return ""


def read(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes of a file; fewer where it ends. Moves no position: processes may share the file."""
    return os.pread(file.fileno(), size, offset)
