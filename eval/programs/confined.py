"""Runs one program that a model wrote, in a process that first gives up all it could do harm with.

    python -s -P -B confined.py FD < REQUEST        `eval.programs.sandbox` starts it so

REQUEST is JSON: `program`, `token`, the limits `processor_seconds` and `memory_bytes`, and `unisolated`, which is true
where the program may run without isolation. To the descriptor FD goes a line of JSON with the isolation in force, and
at the program's end another: `{"token": ...}` where it ran to its end, `{"kind": ..., "error": ...}` where it did not.
Of a program that left before its end there is no second line.

The program is executed as openai/human-eval executes it: as the text of a module without a name, so that what stands
behind `if __name__ == "__main__"` is left out. The generator of `random` begins at a fixed seed.

What is given up, by Linux's means that need no privileges and can't be undone:

- `limit`: time, memory and descriptors; not a byte is written to any file.
- `leave_network`: in a user namespace of its own there is a network without interfaces. Containers often forbid it.
- `drop_capabilities`: root is a user like any other.
- `filter_calls`: a seccomp filter refuses sockets, processes, other programs, signals, and every way to make, change or
  delete a file. Threads remain, and files can be read.

Only the standard library is imported here: this file is run by its path.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import random
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "<program>"
"""The program's file name in tracebacks."""

_WHY = 300
"""Most characters that are told of an error, and of the line it came from."""
_OPEN_FILES = 64
_RESERVE = 2**20
"""Bytes that are freed when memory has run out, so that it can be told."""

_libc = ctypes.CDLL(None)


def main(descriptor: int) -> None:
    """Runs the program of the request on standard input."""
    request: dict[str, Any] = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    isolation = give_up(request["processor_seconds"], request["memory_bytes"])
    _tell(descriptor, {"isolation": isolation})
    if isolated(isolation) or request["unisolated"]:
        random.seed(0)
        _tell(descriptor, _run(request["program"]) or {"token": request["token"]})
    os._exit(0)  # at once, whatever threads and exit handlers the program has left


def _tell(descriptor: int, what: Mapping[str, Any]) -> None:
    os.write(descriptor, json.dumps(what).encode() + b"\n")


# ------------------------------------------------------------------ the program


def _run(program: str) -> dict[str, str] | None:
    """What kept the program from its end; None where it got there."""
    reserve = bytearray(_RESERVE)
    try:
        code = compile(program, NAME, "exec", dont_inherit=True)
    except MemoryError as error:
        return {"kind": "memory", "error": _told(error)}
    except Exception as error:  # ValueError for a null byte or a lone surrogate, RecursionError for deep nesting
        return {"kind": "syntax", "error": _told(error)}
    try:
        exec(code, {})
    except MemoryError as error:
        del reserve
        return {"kind": "memory", "error": _told(error)}
    except BaseException as error:
        return {"kind": "error", "error": f"{_told(error)}{_at(error, program)}"}
    return None


def _told(error: BaseException) -> str:
    """The last line of its traceback."""
    return " ".join(traceback.format_exception_only(error)[-1].split())[:_WHY]


def _at(error: BaseException, program: str) -> str:
    """The program's line that it came through last."""
    lines = program.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    came = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == NAME]
    return f" at: {lines[came[-1] - 1].strip()[:_WHY]}" if came and came[-1] <= len(lines) else ""


# ------------------------------------------------------------------ isolation


def give_up(processor_seconds: int, memory_bytes: int) -> dict[str, list[str]]:
    """Does all of the above that this machine permits.

    Returns:
        What stands between this process and the network, processes and the writing of files, by Linux's names.
    """
    limit(processor_seconds, memory_bytes)
    if sys.platform != "linux":
        return {"network": [], "processes": [], "files": []}
    namespace = ["namespace"] if leave_network() else []
    drop_capabilities()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing is left behind where the sandbox is killed
    seccomp = ["seccomp"] if filter_calls() else []
    return {"network": namespace + seccomp, "processes": seccomp, "files": seccomp}


def isolated(isolation: Mapping[str, Sequence[str]]) -> bool:
    """True where a program has no network and starts no process, so that killing it ends all of it."""
    return bool(isolation["network"] and isolation["processes"])


def limit(processor_seconds: int, memory_bytes: int) -> None:
    """Sets limits that can't be raised again.

    None of processes: Linux counts all those of the user, and of root none.
    """
    bounds = {
        resource.RLIMIT_CPU: (processor_seconds, processor_seconds + 1),  # SIGXCPU, then SIGKILL
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, bound)


_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000


def leave_network() -> bool:
    """Moves into a user, a network and an IPC namespace of its own; False where that is not permitted."""
    return bool(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0)


_CAPABILITY_VERSION_3 = 0x20080522


def drop_capabilities() -> None:
    """Gives up every capability, also those within a namespace.

    Raises:
        OSError: the kernel refuses.
    """
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0))
    if _libc.capset(header, bytes(24)):
        raise OSError("capset: the capabilities of root can't be given up")


def _prctl(option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *padded))


# ------------------------------------------------------------------ the filter of system calls

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2

_MACHINES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}
"""What linux/audit.h calls a machine, and its column in `_CALLS`."""

_CALLS = """
socket 41 198               io_uring_setup 425 425
clone 56 220                clone3 435 435              fork 57 -                   vfork 58 -
execve 59 221               execveat 322 281            unshare 272 97              setns 308 268
kill 62 129                 tkill 200 130               tgkill 234 131              pidfd_send_signal 424 424
rt_sigqueueinfo 129 138     rt_tgsigqueueinfo 297 240   pidfd_open 434 434          pidfd_getfd 438 438
ptrace 101 117              process_vm_readv 310 270    process_vm_writev 311 271   kcmp 312 272
process_madvise 440 440     process_mrelease 448 448    migrate_pages 256 238       move_pages 279 239
setpriority 141 140         sched_setparam 142 118      sched_setscheduler 144 119  sched_setattr 314 274
sched_setaffinity 203 122   ioprio_set 251 30           setsid 112 157              setpgid 109 154
prlimit64 302 261           bpf 321 280                 perf_event_open 298 241     userfaultfd 323 282
keyctl 250 219              add_key 248 217             request_key 249 218         mq_open 240 180
shmget 29 194               semget 64 190               msgget 68 186
open 2 -                    openat 257 56               openat2 437 437             open_by_handle_at 304 265
creat 85 -                  truncate 76 45              mknod 133 -                 mknodat 259 33
rename 82 -                 renameat 264 38             renameat2 316 276           mkdir 83 -
mkdirat 258 34              rmdir 84 -                  unlink 87 -                 unlinkat 263 35
link 86 -                   linkat 265 37               symlink 88 -                symlinkat 266 36
chmod 90 -                  fchmod 91 52                fchmodat 268 53             fchmodat2 452 452
chown 92 -                  fchown 93 55                lchown 94 -                 fchownat 260 54
utime 132 -                 utimes 235 -                futimesat 261 -             utimensat 280 88
setxattr 188 5              lsetxattr 189 6             fsetxattr 190 7
removexattr 197 14          lremovexattr 198 15         fremovexattr 199 16
"""
"""System calls that are refused, whole or in part: name, number on x86_64, on aarch64. Source: Linux,
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h."""

_NEWEST = 462
"""Calls with higher numbers are refused as absent: what they do was not looked at when this was written."""
_ABSENT = ("openat2", "clone3")
"""Refused as absent as well: their arguments lie in memory, where a filter can't look. The C library then takes the
older call."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD = 0x00010000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Codes of instructions. Source: linux/bpf_common.h."""
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
"""What a filter returns. Source: linux/seccomp.h."""
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in what a filter reads, `struct seccomp_data`."""


def filter_calls() -> bool:
    """Installs the filter in this process, for good; False on a machine that it is not written for, or a kernel without
    seccomp."""
    known = _MACHINES.get(platform.machine())
    if known is None or sys.maxsize < 2**32:
        return False
    program = _filter(*known)
    code = ctypes.create_string_buffer(program, len(program))
    bound = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    pointer = ctypes.create_string_buffer(bound, len(bound))
    return bool(
        _prctl(_PR_SET_NO_NEW_PRIVS, 1) == 0
        and _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer)) == 0
    )


def refused_calls(column: int) -> dict[str, int]:
    """Numbers of the refused calls that a machine has, by name; its column is 1 for x86_64, 2 for aarch64."""
    words = _CALLS.split()
    rows = [words[first : first + 3] for first in range(0, len(words), 3)]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _filter(machine: int, column: int) -> bytes:
    """The filter in classic BPF, eight bytes to an instruction."""
    conditions = {
        "open": _refuse_if(1, _WRITES),
        "openat": _refuse_if(2, _WRITES),
        "prlimit64": _refuse_if(0, 0xFFFFFFFF),  # limits of another process
        "clone": _refuse_unless(0, _CLONE_THREAD),
    }
    program = _step(_LOAD, _MACHINE_AT) + _step(_EQUAL, machine, 1, 0) + _step(_RETURN, _KILL)
    program += _step(_LOAD, _NUMBER_AT) + _step(_AT_LEAST, _NEWEST + 1, 0, 1) + _refuse(errno.ENOSYS)  # and x32's
    for name, number in refused_calls(column).items():
        block = conditions.get(name) or _refuse(errno.ENOSYS if name in _ABSENT else errno.EPERM)
        program += _step(_EQUAL, number, 0, len(block) // 8) + block
    return program + _step(_RETURN, _ALLOW)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """An instruction; of a comparison, how many to leave out where it holds and where it does not."""
    return struct.pack("HBBI", code, then, otherwise, value)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERRNO | error)


def _refuse_if(argument: int, bits: int) -> bytes:
    """Refuses a call whose argument has any of these bits."""
    return _load(argument) + _step(_ANY_BIT, bits, 0, 1) + _refuse(errno.EPERM) + _step(_RETURN, _ALLOW)


def _refuse_unless(argument: int, bits: int) -> bytes:
    """Refuses a call whose argument has none of these bits."""
    return _load(argument) + _step(_ANY_BIT, bits, 1, 0) + _refuse(errno.EPERM) + _step(_RETURN, _ALLOW)


def _load(argument: int) -> bytes:
    """The lower half of an argument, on machines that store it first."""
    return _step(_LOAD, _ARGUMENTS_AT + 8 * argument)


if __name__ == "__main__":
    main(int(sys.argv[1]))
