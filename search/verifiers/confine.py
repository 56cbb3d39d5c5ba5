"""Confine this process and become an untrusted program. Runs alone, as a script, with nothing but the standard library.

Landlock takes away all files but the interpreter's own and all TCP, seccomp every system call that a computation does
not need (processes, sockets, signals, raised limits ...) and every way to open a file but for reading, which Landlock
before version 3 leaves open; rlimits bound memory, time and files; capabilities are dropped, and the program dies with
the process that started it. If any of it fails, it is not started. Linux on x86_64 and aarch64.

What is left: without namespaces of its own (bubblewrap), a program can ask whether a file exists, and how large and old
it is (`stat`, and the error that `open` gives); it learns nothing of what is in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig

# Names and numbers of what a Python program needs: (x86_64, aarch64), None where the call does not exist.
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "dup2": (33, None), "nanosleep": (35, 101), "getpid": (39, 172), "execve": (59, 221), "exit": (60, 93),
    "uname": (63, 160), "getdents": (78, None), "getcwd": (79, 17),
    "gettimeofday": (96, 169), "getrlimit": (97, None), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getppid": (110, 173), "sigaltstack": (131, 132), "arch_prctl": (158, None), "gettid": (186, 178),
    "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "newfstatat": (262, 79),
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "dup3": (292, 24), "pipe2": (293, 59), "getrandom": (318, 278),
    "membarrier": (324, 283), "statx": (332, 291), "rseq": (334, 293), "faccessat2": (439, 439),
}  # fmt: skip
_FCNTL, _IOCTL, _PRLIMIT = (72, 25), (16, 29), (302, 261)
_OPEN, _OPENAT, _CAPSET = (2, None), (257, 56), (126, 91)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # __O_TMPFILE; the same on both machines
_OWNER_COMMANDS = (8, 10, 15)  # of fcntl: F_SETOWN, F_SETSIG and F_SETOWN_EX have the kernel send signals
_HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH

_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # SECCOMP_RET_ALLOW, _ERRNO | EPERM, _KILL_PROCESS
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_SET_SECCOMP, _FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38  # prctl
_DIE_WITH_PARENT, _DROP_FROM_BOUND, _SECURE_BITS, _AMBIENT, _CLEAR_ALL = 1, 24, 28, 47, 4
_ROOT_IS_NOBODY = 0x2F  # secure bits: root gets no capabilities from its number, and none of this can be undone
_CAPABILITIES_3 = 0x20080522  # version of capset's arguments
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock's system calls, on all machines
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8  # of LANDLOCK_ACCESS_FS_*
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # all of them, by version
_TCP, _SCOPES = 3, 3  # bind and connect (version 4), abstract sockets and signals (version 6)

_libc = ctypes.CDLL(None, use_errno=True)


def filter_program(machine: str) -> bytes:
    """The seccomp filter of a machine as BPF instructions: an allow list; KeyError on a machine without a table."""
    column, architecture = _MACHINES[machine]
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    bodies = {numbers[column]: [(_RETURN, 0, 0, _ALLOW)] for numbers in _ALLOWED.values()}
    for call, flags in ((_OPEN, 1), (_OPENAT, 2)):
        to_write = [(_ANY_BIT, 0, 1, _WRITES), (_RETURN, 0, 0, _DENY)]
        bodies[call[column]] = [_argument(flags), *to_write, (_RETURN, 0, 0, _ALLOW)]
    bodies[_FCNTL[column]] = [_argument(1), *_if_equal(_OWNER_COMMANDS, _DENY), (_RETURN, 0, 0, _ALLOW)]
    bodies[_IOCTL[column]] = [_argument(1), *_if_equal(_HARMLESS_IOCTLS, _ALLOW), (_RETURN, 0, 0, _DENY)]
    reads_only: list[tuple[int, int, int, int]] = []  # a limit may be read, but root could raise it
    for word in (0, 4):
        reads_only += [_argument(2, word), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _DENY)]
    bodies[_PRLIMIT[column]] = [*reads_only, (_RETURN, 0, 0, _ALLOW)]
    for number, body in bodies.items():
        if number is not None:
            code += [(_EQUAL, 0, len(body), number), *body]
    code.append((_RETURN, 0, 0, _DENY))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _argument(index: int, word: int = 0) -> tuple[int, int, int, int]:
    return _LOAD, 0, 0, 16 + 8 * index + word


def _if_equal(values: tuple[int, ...], verdict: int) -> list[tuple[int, int, int, int]]:
    return [part for value in values for part in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict))]


def install_filter() -> None:
    """Leave this process, and what it becomes, with the calls of the allow list."""
    program = filter_program(platform.machine())
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check(_libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), header, 0, 0), "seccomp")


def die_with(parent: int) -> None:
    """End this process, and what it becomes, when the one that started it ends; now if that is gone already.

    parent: its id; 0: it is not to be compared, as in a namespace of its own.
    """
    _check(_libc.prctl(_DIE_WITH_PARENT, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "parent-death signal")
    if parent not in (0, os.getppid()):
        raise OSError("the process that wanted it has ended")


def drop_capabilities() -> None:
    """Leave this process, and what it becomes, with no more rights than any user: root's, too."""
    _libc.prctl(_SECURE_BITS, ctypes.c_ulong(_ROOT_IS_NOBODY), 0, 0, 0)  # these three fail for those without any
    _libc.prctl(_AMBIENT, ctypes.c_ulong(_CLEAR_ALL), 0, 0, 0)
    for capability in range(64):
        _libc.prctl(_DROP_FROM_BOUND, ctypes.c_ulong(capability), 0, 0, 0)
    header, nothing = struct.pack("Ii", _CAPABILITIES_3, 0), struct.pack("6I", *[0] * 6)
    column, _ = _MACHINES[platform.machine()]
    _check(_libc.syscall(_CAPSET[column], header, nothing), "capabilities")


def landlock_version() -> int:
    """The version of Landlock that the kernel offers; 0 without it."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def restrict_files(readable: list[str], executable: list[str]) -> int:
    """Take away all files but these, which can be read (below, if folders) or executed; Landlock's version."""
    version = landlock_version()
    if version < 1:
        raise OSError("the kernel has no Landlock")
    rights = _FILE_RIGHTS[max(v for v in _FILE_RIGHTS if v <= version)]
    attributes = struct.pack("QQQ", rights, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for path, allowed in [(path, _READ_FILE | _READ_DIR) for path in readable] + [
        (path, _READ_FILE | _EXECUTE) for path in executable
    ]:
        if os.path.exists(path):
            rule = struct.pack("=Qi", allowed if os.path.isdir(path) else allowed & ~_READ_DIR, _handle(path))
            _check(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock for {path}")
    _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)
    return version


def _handle(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _mapped_libraries() -> list[str]:
    """Files of machine code that this interpreter has mapped."""
    with open("/proc/self/maps" if os.path.exists("/proc/self/maps") else os.devnull) as maps:
        return sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line and " /" in line})


def main() -> None:
    """Read what to run from the first argument, report on `status`, and become the program."""
    order = json.loads(sys.argv[1])
    status = order["status"]
    os.set_inheritable(status, False)
    try:
        libraries = _mapped_libraries()
        loaders = [path for path in libraries if os.path.basename(path).startswith("ld")]
        readable = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/etc/ld.so.cache"]
        readable += [order["program"], *sorted({os.path.dirname(path) for path in libraries})]
        python = os.path.realpath(sys.executable)
        for name, amount in order["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))
        drop_capabilities()
        die_with(order["parent"])
        _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
        version = restrict_files(readable, [python, *loaders])
        install_filter()
        os.write(status, json.dumps({"landlock": version, "seccomp": True}).encode())
    except Exception as error:  # whatever it is, the program must not run
        os.write(status, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(126)
    os.execve(python, [python, "-I", "-S", "-B", "-X", "utf8", order["program"]], {})


if __name__ == "__main__":
    main()
