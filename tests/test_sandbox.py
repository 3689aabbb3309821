"""Programs of a model: what they may do, how they end, and that nothing of them stays. Real processes throughout."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from processes import ROOT

from eval.programs import confined
from eval.programs.sandbox import FAILED, MEMORY, PASSED, SYNTAX, TIMEOUT, Limits, NoSandbox, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's")

QUICK = Limits(processor_seconds=1, seconds=20, memory_bytes=2**28)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(limits=QUICK)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs get their directories, so that a test can tell its own."""
    folder = tmp_path / "folders"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def living(folders: Path) -> list[str]:
    """Commands of the processes that work in one of these directories, deleted ones too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(folders)):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return [command for command in found if command]  # a zombie's is empty


# ------------------------------------------------------------------ how programs end


@pytest.mark.parametrize(
    ("program", "kind", "why"),
    [
        ("def f(n):\n    return n + 1\n\ndef check(g):\n    assert g(1) == 2\n\ncheck(f)", PASSED, ""),
        ("assert 1 + 1 == 3", FAILED, "AssertionError at: assert 1 + 1 == 3"),
        ("def f():\n    return {}['猫']\nf()", FAILED, "KeyError: '猫' at: return {}['猫']"),
        ("def f(n):\r\n    return 1 / n\r\nf(0)", FAILED, "ZeroDivisionError: division by zero at: return 1 / n"),
        ("def f():\n    return f()\nf()", FAILED, "RecursionError: maximum recursion depth exceeded at: return f()"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", FAILED, "<exception str() failed>"),
        ("raise ValueError('x' * 10**6)", FAILED, "ValueError: xxx"),
        ("input()", FAILED, "EOFError: EOF when reading a line at: input()"),
        ("def f(:\n    pass", SYNTAX, "SyntaxError: invalid syntax"),
        ("x = '\0'", SYNTAX, "null bytes"),
        ("x = '\ud800'", SYNTAX, "surrogates not allowed"),
        ("(" * 10**5, SYNTAX, "too many nested parentheses"),
        ("eval('1 +')", FAILED, "SyntaxError: invalid syntax"),
        ("while True: pass", TIMEOUT, "no end after 1 s of processor time"),
        ("10 ** 10 ** 10", TIMEOUT, "no end after 1 s of processor time"),
        ("x = bytearray(2**30)", MEMORY, "MemoryError"),
        ("x = []\nwhile True: x.append(bytes(99))", MEMORY, "MemoryError"),
        ("x = 'x'\nwhile True: x += x", MEMORY, "MemoryError"),
        ("import ctypes\nctypes.string_at(0)", FAILED, "left before the end of its tests, with signal 11"),
        ("if __name__ == '__main__': raise SystemExit(1)", PASSED, ""),
        ("import threading\nthreading.Thread(target=__import__('time').sleep, args=(60,)).start()", PASSED, ""),
    ],
)
def test_a_program_ends_as_it_should(sandbox: Sandbox, program: str, kind: str, why: str) -> None:
    outcome = sandbox.run(program)
    assert outcome.kind == kind and why in outcome.why, outcome
    assert len(outcome.why) < 1000


@pytest.mark.parametrize(
    "leave",
    [
        "import sys; sys.exit(0)",
        "import sys; sys.exit()",
        "raise SystemExit",
        "exit(0)",
        "import os; os._exit(0)",
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start()\nwhile True: pass",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.closerange(3, 64)",
        'import os, sys; os.write(int(sys.argv[1]), b\'{"token": "0"}\\n\'); os._exit(0)',
        "import os, sys; os.write(int(sys.argv[1]), b'[[[' * 99 + b'\\n'); os._exit(0)",
        'import os, sys; os.write(int(sys.argv[1]), b\'{"kind": [], "token": null}\'); os._exit(0)',
        "import signal; signal.raise_signal(signal.SIGKILL)",
        "import atexit; atexit.register(print); import sys; sys.exit(0)",
    ],
)
def test_a_program_that_leaves_before_its_tests_does_not_pass(sandbox: Sandbox, leave: str) -> None:
    assert sandbox.run(f"{leave}\nassert False").kind == FAILED


def test_a_program_that_waits_ends_with_its_time(folders: Path) -> None:
    begun = time.monotonic()
    outcome = Sandbox(limits=Limits(seconds=1.5)).run("import time\ntime.sleep(60)")
    assert outcome == (TIMEOUT, "no end after 1.5 s")
    assert time.monotonic() - begun < 10
    assert not living(folders) and not list(folders.iterdir())


def test_an_endless_program_that_hears_no_signal_ends(sandbox: Sandbox, folders: Path) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    begun = time.monotonic()
    assert sandbox.run(deaf).kind in (FAILED, TIMEOUT)
    assert time.monotonic() - begun < 15
    assert not living(folders)


def test_a_flood_is_thrown_away_or_stopped(folders: Path) -> None:
    sandbox = Sandbox(limits=Limits(seconds=3))
    flood = "for _ in range(200): print('x' * 10**6); __import__('sys').stderr.write('y' * 10**6)"
    assert sandbox.run(flood).kind == PASSED
    told = "import os, sys\nwhile True: os.write(int(sys.argv[1]), b'x' * 10**6)"
    assert sandbox.run(told) == (TIMEOUT, "no end after 3 s")
    assert not living(folders)


def test_several_run_at_once_and_come_back_in_order() -> None:
    begun = time.monotonic()
    programs = [f"import time\ntime.sleep(1)\nassert {number} % 2" for number in range(8)]
    outcomes = Sandbox(workers=8).run_all(programs)
    assert [outcome.kind for outcome in outcomes] == 4 * [FAILED, PASSED]
    assert time.monotonic() - begun < 7


def test_a_program_does_the_same_each_time(sandbox: Sandbox) -> None:
    program = "import random\nraise ValueError(list({'a', 'b', 'c', 'd', 'e', 'f'}), random.random(), hash('x'))"
    first, second = sandbox.run_all([program, program])
    assert first == second and first.why.startswith("ValueError: (['")


# ------------------------------------------------------------------ what programs may do

REFUSED = """
def refused(do, *arguments):
    try:
        do(*arguments)
    except OSError:
        return
    raise SystemExit(f"{do} was possible")
"""


def test_a_program_starts_no_process(sandbox: Sandbox, folders: Path) -> None:
    program = f"""{REFUSED}
import ctypes, multiprocessing, os, pty, subprocess
for _ in range(2000):
    refused(os.fork)
refused(pty.fork)
refused(os.setsid)
assert os.system("true") != 0
refused(subprocess.run, ["/bin/true"])
refused(subprocess.Popen, "true", 0, None, None, None, None, None, True, True)
refused(os.posix_spawn, "/bin/true", ["true"], {{}})
refused(os.execv, "/bin/true", ["true"])
refused(multiprocessing.get_context("fork").Process(target=print).start)
refused(multiprocessing.get_context("spawn").Process(target=print).start)
libc = ctypes.CDLL(None)
assert libc.vfork() == libc.unshare(0x10000000) == libc.syscall(435, None, 0) == -1
"""
    assert sandbox.run(program) == (PASSED, "")
    assert not living(folders)


def test_a_program_harms_no_other_process(sandbox: Sandbox) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        program = f"""{REFUSED}
import os, resource, signal
for process in ({other.pid}, os.getppid(), -1, 0):
    refused(os.kill, process, signal.SIGKILL)
refused(os.killpg, {other.pid}, signal.SIGKILL)
refused(os.setpriority, os.PRIO_PROCESS, {other.pid}, 19)
refused(os.pidfd_open, {other.pid})
refused(resource.prlimit, {other.pid}, resource.RLIMIT_NOFILE, (1, 1))
refused(open, "/proc/{other.pid}/mem", "r+b")
refused(os.sched_setaffinity, {other.pid}, [0])
"""
        assert sandbox.run(program) == (PASSED, "")
        assert other.poll() is None
        other.kill()


CONNECT = """
import socket
def connect(kind, address):
    with socket.socket(kind) as one:
        one.settimeout(2)
        one.connect(address)
        one.sendall(b"x")
connect(socket.AF_INET, ("127.0.0.1", {port}))
connect(socket.AF_UNIX, {path!r})
"""


def listening(folder: Path) -> tuple[socket.socket, socket.socket, str]:
    """A server on the loopback interface and one on a path, and a program that reaches both."""
    local, named = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    named.bind(str(folder / "socket"))
    named.listen()
    for server in (local, named):
        server.settimeout(0.2)
    return local, named, CONNECT.format(port=local.getsockname()[1], path=str(folder / "socket"))


def test_a_program_has_no_network(sandbox: Sandbox, tmp_path: Path) -> None:
    local, named, program = listening(tmp_path)
    with local, named:
        subprocess.run([sys.executable, "-c", program], check=True)  # it does reach them
        for server in (local, named):
            server.accept()[0].close()
        assert sandbox.isolation["network"]
        assert sandbox.run(program).why.startswith("PermissionError: [Errno 1] Operation not permitted at: ")
        each = f"""{REFUSED}
import asyncio, ctypes, socket, urllib.request
for family in range(46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        refused(socket.socket, family, kind)
refused(socket.create_server, ("127.0.0.1", 0))
refused(socket.getaddrinfo, "localhost.localdomain", 80)
refused(urllib.request.urlopen, "http://127.0.0.1:{local.getsockname()[1]}")
assert ctypes.CDLL(None).syscall(425, 1, bytes(120)) == -1
asyncio.run(asyncio.sleep(0))  # which needs no socket, but a pair of them
"""
        assert sandbox.run(each) == (PASSED, "")
        for server in (local, named):
            with pytest.raises(TimeoutError):
                server.accept()


@pytest.mark.parametrize(
    ("means", "error"), [("leave_network", "Network is unreachable"), ("filter_calls", "Operation not permitted")]
)
def test_each_means_alone_keeps_from_the_network(tmp_path: Path, means: str, error: str) -> None:
    local, named, program = listening(tmp_path)
    with local, named:
        ran = subprocess.run(
            [sys.executable, "-c", f"from eval.programs import confined\nif confined.{means}():\n exec({program!r})"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if not ran.stderr and means == "leave_network":
            pytest.skip("no namespaces are permitted here")
        assert error in ran.stderr
        with pytest.raises(TimeoutError):
            local.accept()


def test_a_program_reads_files_and_changes_none(sandbox: Sandbox, folders: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    before = kept.stat()
    program = f"""{REFUSED}
import os, shutil, tempfile
kept = {str(kept)!r}
assert open(kept).read() == "as it was" and not os.listdir(".")
for path in (kept, "new", "/dev/shm/new", "/tmp/new"):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_RDONLY | os.O_CREAT | os.O_EXCL,
                  os.O_RDONLY | os.O_TRUNC, os.O_APPEND | os.O_WRONLY):
        refused(os.open, path, flags)
refused(os.open, ".", os.O_TMPFILE | os.O_WRONLY)
for change in (os.remove, os.rmdir, os.mkdir, os.mkfifo, os.mknod, shutil.rmtree):
    refused(change, kept)
refused(tempfile.mkdtemp)
refused(tempfile.TemporaryFile)
for change in (os.rename, os.replace, os.link, os.symlink):
    refused(change, kept, kept + "2")
    refused(change, "/etc/hostname", kept)
for change, argument in ((os.chmod, 0), (os.truncate, 0), (os.utime, None), (os.utime, (0, 0))):
    refused(change, kept, argument)
refused(os.chown, kept, 1, 1)
refused(os.lchown, kept, 1, 1)
refused(os.setxattr, kept, "user.x", b"x")
with open(kept) as file:
    refused(os.fchmod, file.fileno(), 0)
    refused(os.fchown, file.fileno(), 1, 1)
    refused(os.setxattr, file.fileno(), "user.x", b"x")
memory = os.memfd_create("x")
refused(os.write, memory, b"x")
"""
    assert sandbox.run(program) == (PASSED, "")
    after = kept.stat()
    assert kept.read_text() == "as it was"
    for name in ("st_mode", "st_mtime_ns", "st_ctime_ns"):
        assert getattr(after, name) == getattr(before, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folders", "kept"] and not list(folders.iterdir())


def test_a_program_has_nothing_of_its_callers(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    program = """
import os, resource, sys
assert not {"SECRET", "HOME", "PATH"} & set(os.environ), os.environ
assert not sys.stdin.read() and sys.flags.no_user_site and sys.flags.safe_path
assert set(map(int, os.listdir("/proc/self/fd"))) <= {0, 1, 2, int(sys.argv[1]), int(sys.argv[1]) + 1, 3, 4}
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
assert status["CapEff"] == status["CapPrm"] == 16 * "0" and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    _, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except ValueError:
        continue
    raise SystemExit(f"limit {kind} was raised")
"""
    assert sandbox.run(program) == (PASSED, "")


# ------------------------------------------------------------------ when things go wrong


def test_nothing_goes_on_when_the_sandbox_is_killed(folders: Path) -> None:
    script = f"""
import tempfile
tempfile.tempdir = {str(folders)!r}
from eval.programs.sandbox import Limits, Sandbox
sandbox = Sandbox(limits=Limits(seconds=60))
print("ready", flush=True)
sandbox.run("import time\\ntime.sleep(60)")
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        while not any("confined.py" in command for command in living(folders)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # until it has given up what it could
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    while living(folders):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_isolation_programs_run_only_where_that_is_allowed(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "confined.py"
    elsewhere.write_text(Path(confined.__file__).read_text().replace('"x86_64":', '"a":').replace('"aarch64":', '"b":'))
    monkeypatch.setattr(confined, "__file__", str(elsewhere))
    with pytest.raises(NoSandbox, match=r"no seccomp filter on Linux .*--allow-code unisolated"):
        Sandbox()
    sandbox = Sandbox(unisolated=True, limits=Limits(seconds=10))
    assert sandbox.isolation["processes"] == sandbox.isolation["files"] == []
    fork = "import os, sys, time\nif not os.fork():\n    os.close(int(sys.argv[1]))\n    time.sleep(60)"
    assert sandbox.run(fork) == (PASSED, "")
    deadline = time.monotonic() + 5
    while living(folders):  # killed with its session
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_machine_where_no_program_passes_is_told() -> None:
    with pytest.raises(NoSandbox, match=r"a program's process did not begin|a correct program does not pass"):
        Sandbox(limits=Limits(memory_bytes=2**24))


@pytest.mark.parametrize(
    ("column", "header"),
    [(1, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (2, "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_of_system_calls_are_linuxs(column: int, header: str) -> None:
    if not Path(header).is_file():
        pytest.skip(f"no {header}")
    theirs = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    }
    newest = max(theirs.values())
    ours = {name: number for name, number in confined.refused_calls(column).items() if number <= newest}
    assert len(ours) > 50
    assert ours == {name: theirs.get(name) for name in ours}
    assert set(theirs) & {"open", "creat", "fork", "rename", "mkdir", "unlink", "symlink", "chmod"} <= set(ours)
