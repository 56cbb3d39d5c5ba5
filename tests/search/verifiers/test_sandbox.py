"""The attack list: at every level that this machine has, a program reaches nothing but its input and its output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.errors import ConfigError
from search.verifiers import confine, sandbox
from search.verifiers.sandbox import Allowance, NotConfined, Outcome

LEVELS = sandbox.levels()
PATIENT = Allowance(seconds=60)  # the machine may be busy; an attack that succeeds does so at once
ATTEMPT = """
import os, sys
def attempt(action):
    try:
        print("DID", action())
    except BaseException as error:
        print("refused", type(error).__name__)
"""


@pytest.fixture(params=LEVELS or ["none"])
def level(request) -> str:
    if request.param == "none":
        pytest.skip("this machine has no sandbox, and refuses to run a program")
    return request.param


def attack(program: str, level: str, given: str = "", limits: Allowance = PATIENT) -> Outcome:
    outcome = sandbox.run(ATTEMPT + program, given.encode(), limits, level)
    assert outcome.level == level
    return outcome


def refused(outcome: Outcome, attempts: int) -> None:
    """Every attempt of the program was made and refused."""
    lines = outcome.output.decode().splitlines()
    assert outcome.reason == "exit" and len(lines) == attempts, outcome
    assert all(line.startswith("refused") for line in lines), lines


def test_a_harmless_program_runs(level: str) -> None:
    program = """
import collections, fractions, functools, itertools, json, math, random, re, time
numbers = list(map(int, input().split()))
print(sum(numbers), fractions.Fraction(1, 3), math.sqrt(16), json.dumps(sorted(numbers)))
"""
    outcome = sandbox.run(program, b"3 1 2", PATIENT, level)
    assert outcome.output == b"6 1/3 4.0 [1, 2, 3]\n" and outcome.reason == "exit" and outcome.code == 0


def test_no_network(level: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        datagrams.settimeout(0.2)
        program = f"""
import socket
attempt(lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]})))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", {datagrams.getsockname()}))
attempt(lambda: socket.socket(socket.AF_UNIX))
attempt(lambda: socket.socketpair())
attempt(lambda: socket.create_server(("127.0.0.1", 0)))
attempt(lambda: socket.getaddrinfo("localhost", 80))
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def ring():
    assert libc.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0  # io_uring, which goes round seccomp
attempt(ring)
"""
        refused(attack(program, level), 7)
        with pytest.raises(TimeoutError):
            server.accept()
        with pytest.raises(TimeoutError):
            datagrams.recv(1)


def test_nothing_is_written(level: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    program = f"""
victim, new = {str(victim)!r}, {str(tmp_path / "new")!r}
attempt(lambda: open(new, "w"))
attempt(lambda: open(victim, "a"))
attempt(lambda: open("/dev/shm/sandbox-attack", "w"))
attempt(lambda: open("/tmp/sandbox-attack", "w"))
attempt(lambda: open("here", "w"))
attempt(lambda: open(__file__, "a"))
attempt(lambda: os.remove(victim))
attempt(lambda: os.remove(__file__))
attempt(lambda: os.rename(victim, new))
attempt(lambda: os.truncate(victim, 0))
attempt(lambda: os.chmod(victim, 0))
attempt(lambda: os.utime(victim, (0, 0)))
attempt(lambda: os.mkdir(new))
attempt(lambda: os.symlink(victim, new))
attempt(lambda: os.link(victim, new))
attempt(lambda: os.mkfifo(new))
attempt(lambda: os.memfd_create("x"))
"""
    before = victim.stat()
    refused(attack(program, level), 17)
    after = victim.stat()
    assert victim.read_text() == "whole" and list(tmp_path.iterdir()) == [victim]
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert not Path("/tmp/sandbox-attack").exists() and not Path("/dev/shm/sandbox-attack").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_no_open_flag_changes_a_file_where_landlock_does_not_see_it(
    level: str, version: int, monkeypatch, tmp_path: Path
) -> None:
    """Before version 3 Landlock lets a file be opened for neither reading nor writing (3), and truncated by that."""
    source = Path(confine.__file__).read_text()
    older = source.replace("    version = landlock_version()", f"    version = {version}")
    assert older != source
    (tmp_path / "confine.py").write_text(older)
    monkeypatch.setattr(sandbox, "_CONFINE", tmp_path / "confine.py")
    victim = tmp_path / "victim"
    victim.write_text("whole")
    program = f"""
import ctypes
libc = ctypes.CDLL(None)
def opened(path, flags):
    number = libc.open(path.encode(), flags, 0o600)
    if number < 0:
        raise OSError("refused")
    return number
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3):
    for path in ({str(victim)!r}, __file__):  # nothing of the machine's own, which a failure would cost
        attempt(lambda: opened(path, flags | os.O_TRUNC))
        attempt(lambda: opened(path, flags | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC))
for flags in (os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TMPFILE, os.O_TMPFILE | os.O_RDWR, 3, 3 | os.O_APPEND):
    attempt(lambda: opened({str(victim)!r}, flags))
attempt(lambda: libc.syscall(437, -100, {str(victim)!r}.encode(), b"\\0" * 24, 24) >= 0 or 1 / 0)  # openat2
attempt(lambda: libc.creat({str(victim)!r}.encode(), 0o600) >= 0 or 1 / 0)
"""
    refused(attack(program, level), 4 * 2 * 2 + 6 + 2)
    assert victim.read_text() == "whole"


def test_links_are_not_followed_and_folders_not_entered(level: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    program = f"""
for path in ({str(tmp_path / "link")!r}, "/proc/self/exe", "/proc/self/cwd"):
    attempt(lambda: os.readlink(path))
for path in ("/", "/tmp", {str(tmp_path)!r}):
    attempt(lambda: os.chdir(path))
"""
    refused(attack(program, level), 6)


CAPABILITIES = """
import os
from search.verifiers import confine
confine.drop_capabilities()
confine._check(confine._libc.prctl(confine._NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
os.execv("/bin/cat", ["cat", "/proc/self/status"])
"""


def test_root_is_left_without_capabilities() -> None:
    said = subprocess.run([sys.executable, "-c", CAPABILITIES], capture_output=True, text=True, check=True).stdout
    sets = {line[:6]: int(line.split()[1], 16) for line in said.splitlines() if line.startswith("Cap")}
    assert {name: sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapAmb"), 0
    )
    assert sets["CapBnd"] == 0 or os.geteuid() != 0


KILLED = "from search.verifiers import sandbox; sandbox.run('import time; time.sleep(1e6)', level={!r})"


def test_a_program_ends_with_the_verifier_that_is_killed_and_its_folder_is_removed_later(
    level: str, tmp_path: Path, monkeypatch
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    verifier = subprocess.Popen([sys.executable, "-c", KILLED.format(level)], env=environment)
    while not _running(tmp_path):
        assert verifier.poll() is None
        time.sleep(0.01)
    verifier.kill()
    verifier.wait()
    while _running(tmp_path):
        time.sleep(0.01)
    (left,) = tmp_path.glob("sandbox-*")
    monkeypatch.setattr(sandbox, "_START", 0.0)
    in_use = os.open(left, os.O_RDONLY)
    fcntl.flock(in_use, fcntl.LOCK_EX)
    sandbox._clear_scratch.__wrapped__(str(tmp_path))
    assert left.exists()
    os.close(in_use)
    sandbox._clear_scratch.__wrapped__(str(tmp_path))
    assert not left.exists()


def _running(place: Path) -> bool:
    """Whether a program from below this folder runs anywhere on the machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().rstrip(b"\0")
            if words.endswith(b"program.py") and bytes(place) in words:
                return True
    return False


def test_nothing_outside_is_read(level: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "secret").write_text("SECRET")
    monkeypatch.setenv("SANDBOX_SECRET", "SECRET")
    program = f"""
for path in ({str(tmp_path / "secret")!r}, "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ",
             "/proc/{os.getpid()}/environ", "/proc/{os.getpid()}/mem", "/proc/self/maps", "/dev/mem", "/dev/tty",
             {str(Path(__file__))!r}, {str(Path(confine.__file__))!r}):
    attempt(lambda: open(path, "rb").read(100))
for path in ("/", "/proc", "/home", "/root", "/tmp", os.path.dirname(os.getcwd()), {str(tmp_path)!r}):
    attempt(lambda: os.listdir(path))
attempt(lambda: os.chdir("/") or open("etc/passwd").read())
attempt(lambda: os.chroot("/"))
"""
    outcome = attack(program, level)
    refused(outcome, 21)
    assert b"SECRET" not in outcome.output


def test_no_environment_no_arguments_no_open_files_of_the_parent(level: str, monkeypatch) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", "SECRET")
    with open(__file__):
        program = """
print(dict(os.environ), sys.argv[1:], os.path.basename(sys.argv[0]))
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
print([number for number in range(1000) if is_open(number)])
"""
        lines = attack(program, level).output.decode().splitlines()
    assert "SECRET" not in lines[0] and lines[0].endswith("[] program.py")
    assert lines[1] == "[0, 1, 2]"


def test_no_processes_and_no_threads(level: str) -> None:
    program = """
import subprocess, threading, multiprocessing, ctypes
attempt(os.fork)
attempt(os.forkpty)
attempt(lambda: subprocess.run([sys.executable, "-c", "print(1)"]))
attempt(lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", "print(1)"], {}))
attempt(lambda: os.system("echo 1") and 1 / 0)
attempt(lambda: threading.Thread(target=print).start())
attempt(lambda: os.execv("/bin/sh", ["sh", "-c", "echo DID"]))
attempt(lambda: os.execv("/usr/bin/env", ["env"]))
libc = ctypes.CDLL(None, use_errno=True)
def vfork():
    assert libc.syscall(58) >= 0
attempt(vfork)
"""
    refused(attack(program, level), 9)


def test_a_fork_bomb_is_one_process(level: str) -> None:
    began = time.monotonic()
    outcome = attack(
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass", level, limits=Allowance(1)
    )
    assert outcome.reason in ("time", "exit") and outcome.code != 0 and outcome.output == b""
    assert time.monotonic() - began < 60


def test_nobody_gets_a_signal(level: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        program = f"""
import signal, fcntl
attempt(lambda: os.kill({victim.pid}, signal.SIGKILL))
attempt(lambda: os.kill(os.getppid(), signal.SIGTERM))
attempt(lambda: os.kill(-1, signal.SIGKILL))
attempt(lambda: os.killpg(0, signal.SIGKILL))
attempt(lambda: signal.pidfd_send_signal(os.pidfd_open({victim.pid}), signal.SIGKILL))
attempt(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, {victim.pid}))
attempt(lambda: os.setpriority(os.PRIO_PROCESS, {victim.pid}, 19))
"""
        refused(attack(program, level), 7)
        assert victim.poll() is None
        victim.communicate(b"\n")


def test_other_processes_and_the_kernel_stay_untouched(level: str) -> None:
    program = f"""
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno())
for number in (101, 310, 311, 165, 161, 175, 246, 321, 298, 323, 272, 308, 250, 169, 434, 438):
    attempt(lambda: call(number, {os.getpid()}, 0, 0, 0, 0))  # ptrace, process_vm_*, mount, modules, bpf ...
attempt(lambda: resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000)))
attempt(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
attempt(lambda: os.setuid(0))
attempt(lambda: os.setsid())
"""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of these calls are those of x86_64")
    refused(attack(program, level), 20)


def test_memory_ends_at_its_limit(level: str) -> None:
    program = """
attempt(lambda: len(bytearray(1 << 40)))
attempt(lambda: len(bytearray(600 << 20)))
attempt(lambda: [bytearray(1 << 20) for _ in range(1000)])
"""
    refused(attack(program, level, limits=Allowance(60, memory=256 * 2**20)), 3)


def test_output_ends_at_its_limit(level: str) -> None:
    for stream in ("stdout", "stderr"):
        program = f"while True: sys.{stream}.write('x' * 65536)"
        outcome = attack(program, level, limits=Allowance(1, output=100_000))
        assert outcome.reason == ("output" if stream == "stdout" else "time")
        assert len(outcome.output) <= 100_000


def test_time_ends_at_its_limit(level: str) -> None:
    for program in ("while True: pass", "import time; time.sleep(1e6)", "os.close(1); os.close(2)\nwhile True: pass"):
        began = time.monotonic()
        outcome = attack(program, level, limits=Allowance(1))
        assert outcome.reason == "time" or outcome.code != 0
        assert time.monotonic() - began < 60


def test_an_early_exit_is_only_an_exit(level: str) -> None:
    for program in ("os._exit(0)", "sys.exit(0)", "raise SystemExit", "sys.stdout = None"):
        outcome = attack(program + "\nprint('right')", level)
        assert outcome.output == b"" and outcome.reason == "exit" and outcome.code == 0


def test_a_program_cannot_start_unconfined_again(level: str) -> None:
    program = """
if len(sys.argv) < 2:
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, "again"], {"PATH": "/bin"})
attempt(os.fork)
attempt(lambda: open("/etc/passwd").read())
attempt(lambda: len(bytearray(600 << 20)))
"""
    refused(attack(program, level), 3)


def test_a_sandbox_that_cannot_be_set_up_runs_nothing(level: str, monkeypatch, tmp_path: Path) -> None:
    source = Path(confine.__file__).read_text()
    proof = tmp_path / "ran"
    for broken in (
        source.replace("install_filter()\n        os.write", "raise OSError('no seccomp')\n        os.write"),
        source.replace("_RESTRICT_SELF = 444", "_RESTRICT_SELF = 999"),
        source.replace("order = json.loads(sys.argv[1])", "sys.exit(0)"),
    ):
        assert broken != source
        (tmp_path / "confine.py").write_text(broken)
        monkeypatch.setattr(sandbox, "_CONFINE", tmp_path / "confine.py")
        with pytest.raises(NotConfined, match="the sandbox could not be set up"):
            sandbox.run(f"open({str(proof)!r}, 'w'); print(1)", b"", PATIENT, level)
    assert not proof.exists()


def test_a_machine_without_a_sandbox_refuses(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "levels", lambda: ())
    with pytest.raises(ConfigError, match="sandbox: this machine cannot confine a program, so none is run"):
        sandbox.run("print(1)")
    monkeypatch.setattr(sandbox, "levels", lambda: ("landlock+seccomp",))
    with pytest.raises(ConfigError, match=r"this machine has no bubblewrap\+landlock\+seccomp"):
        sandbox.run("print(1)", level="bubblewrap+landlock+seccomp")
    with pytest.raises(ConfigError, match=r"sandbox.level: is 'none'"):
        sandbox.run("print(1)", level="none")


def test_filters_know_their_machines() -> None:
    for machine in ("x86_64", "aarch64"):
        code = confine.filter_program(machine)
        assert len(code) % 8 == 0 and len(code) // 8 < 4096
    with pytest.raises(KeyError):
        confine.filter_program("riscv64")
