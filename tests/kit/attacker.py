"""Run one of our programs and attack from inside it, where it has confined itself.

Its first arguments are the file of a report and the name of the process that attacks
(empty: the first that confines itself), then ``Target``'s fields, then the words after
``python -I`` that start the program.  As the program installs its filter of system calls,
each attempt is made in a fork of it that has installed the filter, too: with the program's
descriptors, memory and rights.  The program ends with that, and reads no byte.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import runpy
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_PTRACE_SEIZE = 0x4206
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE, _ANONYMOUS = 2, 0x20
_TIOCSTI, _FIOASYNC, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x5452, 0x8901, 0x8902
_CLONE_NEWUSER = 0x10000000


@dataclass(frozen=True)
class Target:
    """What of the user's is attacked."""

    pid: str
    """Another process."""
    file: str
    stream: str
    """A listening UNIX socket's path, as of the session bus or the compositor."""
    datagrams: str
    """The path of a UNIX socket of datagrams, as of a service manager or a log, and the
    abstract name of another one."""
    port: str
    """Of UDP, at 127.0.0.1."""


class Attempts:
    """The attempts.  Each returns when it was achieved, and raises OSError otherwise.

    ``own``: the descriptors that are attacked with; all that are open, if not given.
    """

    def __init__(
        self, target: Target, call: Callable[..., int], own: Sequence[int] = ()
    ) -> None:
        self._target, self._call = target, call
        self._pid = int(target.pid)
        self._path = os.fsencode(target.file)
        self._buffer = ctypes.create_string_buffer(4096)
        found = own or sorted(map(int, os.listdir("/proc/self/fd")))
        self._own = [fd for fd in found if _is_open(fd)]

    def named(self) -> dict[str, Callable[[], object]]:
        """Return all of them by name."""
        return {**self._files(), **self._others(), **self._kernel(), **self._fds()}

    def _files(self) -> dict[str, Callable[[], object]]:
        path, buffer, call = self._path, self._buffer, self._call
        how = struct.pack("QQQ", 0, 0, 0)
        return {
            "open": partial(call, "open", path, 0),
            "openat": partial(call, "openat", _AT_FDCWD, path, 0),
            "openat2": partial(call, "openat2", _AT_FDCWD, path, how, len(how)),
            "look": partial(call, "newfstatat", _AT_FDCWD, path, buffer, 0),
            "look at a path as if at a descriptor": partial(
                call, "newfstatat", _AT_FDCWD, path, buffer, _AT_EMPTY_PATH
            ),
            "statx": partial(call, "statx", _AT_FDCWD, path, 0, 0x7FF, buffer),
            "may open": partial(call, "faccessat", _AT_FDCWD, path, 0),
            "list": partial(call, "getdents64", 0, buffer, 4096),
            "truncate": partial(call, "truncate", path, 1),
            "rename": partial(call, "rename", path, path),
            "mode": partial(call, "fchmodat", _AT_FDCWD, path, 0o777),
            "watch": partial(call, "inotify_init1", 0),
        }

    def _others(self) -> dict[str, Callable[[], object]]:
        pid, buffer, call = self._pid, self._buffer, self._call
        part = struct.pack("PN", ctypes.addressof(buffer), 8)
        return {
            "fork": _fork,
            "clone": partial(self._child, "clone", signal.SIGCHLD, 0, 0, 0, 0),
            "clone3": partial(call, "clone3", 0, 0),
            "execute": partial(self._execute, "execve"),
            "execute a descriptor": partial(self._execute, "execveat", _AT_FDCWD),
            "signal": partial(call, "kill", pid, 0),
            "signal a thread": partial(call, "tkill", pid, 0),
            "signal a thread of a group": partial(call, "tgkill", pid, pid, 0),
            "queue a signal": partial(call, "rt_sigqueueinfo", pid, 0, bytes(128)),
            "pidfd": partial(call, "pidfd_open", pid, 0),
            "trace": partial(call, "ptrace", _PTRACE_SEIZE, pid, 0, 0),
            "read memory": partial(call, "process_vm_readv", pid, part, 1, part, 1, 0),
            "compare": partial(call, "kcmp", pid, pid, 0, 0, 0),
            "limit": partial(call, "prlimit64", pid, 4, 0, buffer),
            "place": partial(call, "sched_getaffinity", pid, 128, buffer),
            "priority": partial(call, "setpriority", 0, pid, 19),
        }

    def _kernel(self) -> dict[str, Callable[[], object]]:
        call, buffer = self._call, self._buffer
        both = _READ | _WRITE
        return {
            "socket of the session": self._connect,
            "socket of the session by a name": self._send_to_a_name,
            "socket of the network": partial(
                call, "socket", socket.AF_INET, socket.SOCK_DGRAM, 0
            ),
            "sockets": partial(
                call, "socketpair", socket.AF_UNIX, socket.SOCK_DGRAM, 0, buffer
            ),
            "mount": partial(call, "mount", b"x", b"/mnt", b"tmpfs", 0, 0),
            "namespace": partial(call, "unshare", _CLONE_NEWUSER),
            "root": partial(call, "chroot", b"/"),
            "key": partial(call, "add_key", b"user", b"vitrail", b"x", 1, -2),
            "keyring": partial(call, "keyctl", 0, -3, 0),
            "bpf": partial(call, "bpf", 0, buffer, 0),
            "performance": partial(call, "perf_event_open", buffer, 0, -1, -1, 0),
            "io_uring": partial(call, "io_uring_setup", 1, buffer),
            "faults": partial(call, "userfaultfd", 1),
            "memory file": partial(call, "memfd_create", b"x", 0),
            "shared memory": partial(call, "shmget", 0, 4096, 0o1600),
            "map code": partial(self._map, _READ | _EXECUTE),
            "make code": lambda: call(
                "mprotect", self._map(both), 4096, _READ | _EXECUTE
            ),
            "make code by a key": lambda: call(
                "pkey_mprotect", self._map(both), 4096, _READ | _EXECUTE, -1
            ),
            "all memory is code": partial(call, "personality", 0x0400000),
            "tracer": partial(call, "prctl", 0x59616D61, -1, 0, 0, 0),
            "user": partial(call, "setuid", os.getuid()),
            "group": partial(call, "setpgid", 0, 0),
        }

    def _fds(self) -> dict[str, Callable[[], object]]:
        target, call = self._target, self._call
        here = os.fsencode(target.datagrams)
        unix = struct.pack("=H", socket.AF_UNIX) + here + b"\0"
        inet = struct.pack(
            "=H2s4s8x",
            socket.AF_INET,
            struct.pack(">H", int(target.port)),
            socket.inet_aton("127.0.0.1"),
        )
        each: dict[str, Callable[[int], object]] = {
            "connect": lambda fd: call("connect", fd, unix, len(unix)),
            "send to a path": lambda fd: call(
                "sendto", fd, b"x", 1, 0, unix, len(unix)
            ),
            "send to a port": lambda fd: call(
                "sendto", fd, b"x", 1, 0, inet, len(inet)
            ),
            "send a message to a path": lambda fd: call(
                "sendmsg", fd, self._message(unix), 0
            ),
            "own": lambda fd: call("fcntl", fd, fcntl.F_SETOWN, self._pid),
            "own signal": lambda fd: call("fcntl", fd, fcntl.F_SETSIG, signal.SIGKILL),
            "asynchronous": lambda fd: call("fcntl", fd, fcntl.F_SETFL, os.O_ASYNC),
            "lease": lambda fd: call("fcntl", fd, fcntl.F_SETLEASE, fcntl.F_RDLCK),
            "type": lambda fd: call("ioctl", fd, _TIOCSTI, b"x"),
            "owner": lambda fd: call(
                "ioctl", fd, _FIOSETOWN, struct.pack("i", self._pid)
            ),
            "group of a socket": lambda fd: call(
                "ioctl", fd, _SIOCSPGRP, struct.pack("i", self._pid)
            ),
            "asynchronous ioctl": lambda fd: call("ioctl", fd, _FIOASYNC, b"\1\0\0\0"),
            "signal a pidfd": lambda fd: call("pidfd_send_signal", fd, 0, 0, 0),
            "take a descriptor": lambda fd: call("pidfd_getfd", fd, 0, 0),
            "enter": lambda fd: call("setns", fd, 0),
        }
        return {what: partial(self._any, one) for what, one in each.items()}

    def _message(self, address: bytes) -> ctypes.Array[ctypes.c_char]:
        """Return the struct msghdr of a byte for an address."""
        part = struct.pack("PN", ctypes.addressof(self._buffer), 1)
        # Kept: the kernel reads them by their addresses.
        self._kept = [ctypes.create_string_buffer(one) for one in (address, part)]
        name, parts = map(ctypes.addressof, self._kept)
        head = struct.pack("PI4xPNPNi4x", name, len(address), parts, 1, 0, 0, 0)
        return ctypes.create_string_buffer(head)

    def _any(self, attempt: Callable[[int], object]) -> None:
        """Try a descriptor each; raise the least refusing of all errors."""
        errors: list[int] = []
        for fd in self._own:
            try:
                attempt(fd)
            except OSError as error:
                errors.append(error.errno or 0)
            else:
                return
        raise OSError(next((n for n in errors if n != errno.EPERM), errno.EPERM), "")

    def _child(self, name: str, *arguments: int) -> None:
        if self._call(name, *arguments) == 0:
            os._exit(0)

    def _execute(self, name: str, *first: int) -> None:
        argv = (ctypes.c_char_p * 2)(b"true", None)
        last = (0,) if first else ()
        self._call(name, *first, b"/bin/true", argv, 0, *last)

    def _connect(self) -> None:
        fd = self._call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = os.fsencode(self._target.stream) + b"\0"
        there = struct.pack("=H", socket.AF_UNIX) + address
        self._call("connect", fd, there, len(there))

    def _send_to_a_name(self) -> None:
        fd = self._call("socket", socket.AF_UNIX, socket.SOCK_DGRAM, 0)
        name = struct.pack("=Hx", socket.AF_UNIX) + os.fsencode(self._target.datagrams)
        self._call("sendto", fd, b"x", 1, 0, name, len(name))

    def _map(self, protection: int) -> int:
        flags = _PRIVATE | _ANONYMOUS
        return self._call("mmap", 0, 4096, protection, flags, -1, 0)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _caller(seccomp: object) -> Callable[..., int]:
    """Return what makes a system call by its name, and raises OSError."""
    resolve = seccomp.resolve_syscall  # type: ignore[attr-defined]
    arch = seccomp.system_arch()  # type: ignore[attr-defined]
    _libc.syscall.restype = ctypes.c_long

    def call(name: str, *arguments: object) -> int:
        number = resolve(arch, name)
        if number < 0:
            raise OSError(errno.EPERM, f"{name} is not there")
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = int(_libc.syscall(ctypes.c_long(number), *wide))
        if result == -1:
            raise OSError(ctypes.get_errno(), name)
        return result

    return call


def outcome(attempt: Callable[[], object], confine: Callable[[], object]) -> str:
    """Return how an attempt ended in a confined fork of this process."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            confine()
            try:
                attempt()
                code = 0
            except OSError as error:
                code = error.errno or 254
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return signal.Signals(-code).name
    return errno.errorcode.get(code, f"code {code}") if code else "achieved"


def report(place: str, target: Target, confine: Callable[[], object]) -> None:
    """Write what this process has, and what it achieves once it is confined."""
    # Late: the program's own, whichever of the bindings that is.
    from broker.helpers.filters.libseccomp import seccomp

    named = Attempts(target, _caller(seccomp)).named()
    found = {
        "outcomes": {what: outcome(one, confine) for what, one in named.items()},
        "descriptors": {
            fd: os.readlink(f"/proc/self/fd/{fd}")
            for fd in map(int, os.listdir("/proc/self/fd"))
            if _is_open(fd)
        },
        "variables": dict(os.environ),
        "initial": Path("/proc/self/environ").read_bytes().hex(),
        "directory": os.getcwd(),
    }
    part = Path(f"{place}.part")
    part.write_text(json.dumps(found))
    part.rename(place)


def take_over(place: str, target: Target, name: str = "") -> None:
    """Have this process attack in place of the filter that it would install.

    Or, of the processes that are forked from it, the one with this name.
    """
    from broker.helpers.process import hardening

    install = hardening.install

    def attacked(program: bytes) -> None:
        if name in {"", Path("/proc/self/comm").read_text().strip()}:
            report(place, target, partial(install, program))
            os._exit(0)
        install(program)

    hardening.install = attacked


def words(place: str, target: Target, argv: Sequence[str], name: str = "") -> list[str]:
    """Return the command line of a program of ours (``our_program``), taken over."""
    at = next(n for n, word in enumerate(argv) if n and word.endswith("/broker"))
    return [*argv[:at], __file__, place, name, *astuple(target), *argv[at:]]


def main() -> None:
    """Entry point; see the head of this module."""
    place, name, *fields, package = sys.argv[1:9]
    module = sys.argv[9]
    # As ``python -I broker MODULE`` does.
    sys.path[0] = str(Path(package).resolve().parent)
    sys.argv = [package, *sys.argv[10:]]
    take_over(place, Target(*fields), name)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
