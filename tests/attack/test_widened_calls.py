"""Flags and siblings that do what a list of system calls denies, tried in each list.

Each row of ``docs/tables/system_calls.py`` is a call, made once without a filter and
once in a process under each: what is closed there ends otherwise, what is not ends alike.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.helpers.filters import (
    box_filters,
    carrying_filters,
    keeper_filter,
    program_filters,
    session_filters,
    viewer_filter,
)
from broker.helpers.filters.descriptor_filter import descriptor_rules
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import LATE_CALLS
from broker.helpers.process.hardening import confine
from broker.helpers.process.jail import fork_server_filter
from broker.helpers.worker_jail.worker_filter import worker_filter
from docs.tables.system_calls import LISTS, WIDENINGS, Widening, markdown
from shims.files.syscalls import filter_program

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_PROGRAMS: dict[str, Callable[[], bytes]] = {
    "authority": session_filters.authority_filter,
    "viewer": lambda: viewer_filter.viewer_filter(0),
    "keeper": keeper_filter.keeper_filter,
    "workers": fork_server_filter,
    "worker": worker_filter,
    "pump": carrying_filters.pump_filter,
    "acceptor": carrying_filters.acceptor_filter,
    "frames": lambda: descriptor_rules(libseccomp.KILL_PROCESS).program(),
    "vmm": program_filters.vmm_filter,
    "renderer": program_filters.renderer_filter,
    "ports": program_filters.port_mux_filter,
    "folders": program_filters.folder_server_filter,
    "box": box_filters.box_filter,
    "tool": lambda: box_filters.box_filter(unix=False),
    "tree": box_filters.tree_filter,
    "files": lambda: filter_program(os.uname().machine),
}

_FD, _THIS = -100, os.getpid
_EMPTY_PATH = 0x1000
_NEWUSER, _SIGHAND = 0x10000000, 0x800
_MISSING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY}


@pytest.fixture(scope="module")
def programs() -> dict[str, bytes]:
    return {name: program() for name, program in _PROGRAMS.items()}


@dataclass
class Place:
    """What the attempts act on: another process, files, sockets, a terminal."""

    stack: ExitStack
    victim: int
    pidfd: int
    file: int
    path: bytes
    directory: bytes
    terminal: int
    pipe: tuple[int, int]
    near: socket.socket
    packet: socket.socket
    service: bytes
    sealed: int
    events: int
    kept: list[object] = field(default_factory=list)

    def fresh(self) -> int:
        """Return a new TCP socket: after one attempt it may be connected."""
        return self.stack.enter_context(socket.socket()).fileno()

    def filled(self) -> int:
        """Return the end of a pipe that can be read."""
        os.write(self.pipe[1], b"-")
        return self.pipe[0]

    def memory(self, content: bytes | int) -> int:
        """Return the address of these bytes, or of a number of zeros."""
        kept = (
            ctypes.create_string_buffer(content, len(content))
            if isinstance(content, bytes)
            else ctypes.create_string_buffer(content)
        )
        self.kept.append(kept)
        return ctypes.addressof(kept)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        file = tmp_path / "file"
        file.write_text("of the user")
        file.chmod(0o600)
        victim = stack.enter_context(
            subprocess.Popen(
                ["sh", "-c", "trap '' TERM STOP IO; echo; while :; do sleep 9; done"],
                process_group=0,
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(os.killpg, victim.pid, signal.SIGKILL)
        assert victim.stdout is not None
        victim.stdout.readline()  # it ignores what follows
        numbers = [
            os.pidfd_open(victim.pid),
            os.open(file, os.O_RDONLY),
            *os.openpty(),
            *os.pipe(),
            os.memfd_create("pool", os.MFD_ALLOW_SEALING),
            _libc.inotify_init1(0),
        ]
        for number in numbers:
            stack.callback(os.close, number)
        pidfd, opened, _, terminal, read, write, sealed, events = numbers
        near, far = socket.socketpair()
        packet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there.bind(("127.0.0.1", 0))
        service = socket.create_server(("127.0.0.1", 0))
        for sock in (near, far, packet, there, service):
            stack.enter_context(sock)
        packet.connect(there.getsockname())
        yield Place(
            stack,
            victim.pid,
            pidfd,
            opened,
            os.fsencode(file),
            os.fsencode(tmp_path),
            terminal,
            (read, write),
            near,
            packet,
            struct.pack("=H", socket.AF_INET)
            + struct.pack("!H", service.getsockname()[1])
            + socket.inet_aton("127.0.0.1")
            + bytes(8),
            sealed,
            events,
        )


def _owner(at: Place) -> int:
    return at.memory(struct.pack("ii", 1, at.victim))


def _message(at: Place) -> bytes:
    """A ``struct msghdr`` with the address of the service."""
    vector = at.memory(struct.pack("PN", at.memory(b"x"), 1))
    return struct.pack("PIPNPNi", at.memory(at.service), 16, vector, 1, 0, 0, 0)


_FASTOPEN = 0x20000000
_MEMORY = (0, 4096)
_PRIVATE, _NORESERVE, _HUGETLB = 0x22, 0x4000, 0x40000

_ATTEMPTS: dict[tuple[str, str], Callable[[Place], tuple[int, ...]]] = {
    ("pidfd_send_signal", "PIDFD_SIGNAL_PROCESS_GROUP"): lambda at: (
        *(at.pidfd, signal.SIGTERM, 0, 4),
    ),
    ("pidfd_send_signal", "SIGSTOP"): lambda at: (at.pidfd, signal.SIGSTOP, 0, 0),
    ("tgkill", "another process"): lambda at: (at.victim, at.victim, signal.SIGTERM),
    ("fcntl", "F_SETOWN"): lambda at: (at.near.fileno(), fcntl.F_SETOWN, at.victim),
    ("fcntl", "F_SETOWN_EX"): lambda at: (at.near.fileno(), 15, _owner(at)),
    ("fcntl", "F_SETSIG"): lambda at: (at.near.fileno(), fcntl.F_SETSIG, 9),
    ("ioctl", "FIOSETOWN"): lambda at: (
        *(at.near.fileno(), 0x8901, at.memory(struct.pack("i", at.victim))),
    ),
    ("fcntl", "F_SETFL with O_ASYNC"): lambda at: (
        *(at.terminal, fcntl.F_SETFL, os.O_RDWR | fcntl.FASYNC),
    ),
    ("ioctl", "FIOASYNC"): lambda at: (
        *(at.terminal, 0x5452, at.memory(struct.pack("i", 1))),
    ),
    ("ioctl", "TIOCSTI"): lambda at: (at.terminal, 0x5412, at.memory(b"x")),
    ("prlimit64", "another process"): lambda at: (
        *(at.victim, 4, at.memory(struct.pack("QQ", 0, 0)), 0),  # RLIMIT_CORE
    ),
    ("sched_setaffinity", "another process"): lambda at: (
        *(at.victim, 8, at.memory(struct.pack("Q", 1))),
    ),
    ("migrate_pages", "another process"): lambda at: (
        *(
            at.victim,
            64,
            at.memory(struct.pack("Q", 1)),
            at.memory(struct.pack("Q", 1)),
        ),
    ),
    ("prctl", "PR_SCHED_CORE"): lambda at: (62, 2, at.victim, 1, 0),
    ("getsockopt", "SO_PEERPIDFD"): lambda at: (
        *(at.near.fileno(), socket.SOL_SOCKET, 77),
        *(at.memory(4), at.memory(struct.pack("I", 4))),
    ),
    # ENOEXEC: it is no program
    ("execveat", "AT_EMPTY_PATH"): lambda at: (
        *(at.sealed, at.memory(b"\0"), 0, 0, _EMPTY_PATH),
    ),
    # EINVAL: no structure is of this size
    ("clone3", "flags behind a pointer"): lambda at: (at.memory(64), 1),
    # EINVAL: with handlers shared, but not the memory
    ("clone", "CLONE_NEWUSER"): lambda at: (_NEWUSER | _SIGHAND, 0, 0, 0, 0),
    ("unshare", "CLONE_NEWUSER"): lambda at: (_NEWUSER,),
    ("sendto", "MSG_FASTOPEN"): lambda at: (
        *(at.fresh(), at.memory(b"x"), 1, _FASTOPEN),
        *(at.memory(at.service), 16),
    ),
    ("sendmsg", "MSG_FASTOPEN"): lambda at: (
        *(at.fresh(), at.memory(_message(at)), _FASTOPEN),
    ),
    ("sendmmsg", "MSG_FASTOPEN"): lambda at: (
        *(at.fresh(), at.memory(_message(at).ljust(64, b"\0")), 1, _FASTOPEN),
    ),
    ("setsockopt", "TCP_FASTOPEN_CONNECT"): lambda at: (
        *(at.fresh(), socket.IPPROTO_TCP, 30, at.memory(struct.pack("i", 1)), 4),
    ),
    ("connect", "AF_UNSPEC"): lambda at: (at.packet.fileno(), at.memory(16), 16),
    ("sendto", "an address"): lambda at: (
        *(at.packet.fileno(), at.memory(b"x"), 1, 0, at.memory(at.service), 16),
    ),
    # EOPNOTSUPP, from the family's own code
    ("socketpair", "another family"): lambda at: (
        *(socket.AF_INET, socket.SOCK_STREAM, 0, at.memory(8)),
    ),
    ("socketpair", "SOCK_RAW"): lambda at: (
        *(socket.AF_UNIX, socket.SOCK_RAW, 0, at.memory(8)),
    ),
    ("fcntl", "F_SETLEASE"): lambda at: (at.file, 1024, fcntl.F_RDLCK),
    ("mmap", "MAP_HUGETLB"): lambda at: (
        *(0, 2 << 20, 3, _PRIVATE | _NORESERVE | _HUGETLB, -1, 0),
    ),
    ("memfd_create", "MFD_HUGETLB"): lambda at: (at.memory(b"x\0"), 4),
    ("io_setup", "a context"): lambda at: (1, at.memory(8)),
    ("fcntl", "F_ADD_SEALS with F_SEAL_FUTURE_WRITE"): lambda at: (
        *(at.sealed, 1033, 16),
    ),
    ("fcntl", "F_SETPIPE_SZ"): lambda at: (at.pipe[1], fcntl.F_SETPIPE_SZ, 4096),
    ("mmap", "PROT_EXEC and PROT_WRITE"): lambda at: (*_MEMORY, 7, _PRIVATE, -1, 0),
    ("mprotect", "PROT_EXEC"): lambda at: (_page(), 4096, 7),
    ("pkey_mprotect", "PROT_EXEC"): lambda at: (_page(), 4096, 7, -1),
    ("newfstatat", "a path"): lambda at: (
        *(_FD, at.memory(at.path + b"\0"), at.memory(256), _EMPTY_PATH),
    ),
    ("statx", "a path"): lambda at: (
        *(_FD, at.memory(at.path + b"\0"), 0, 0x7FF, at.memory(256)),
    ),
    ("fchmodat2", "AT_EMPTY_PATH"): lambda at: (
        *(at.file, at.memory(b"\0"), 0o644, _EMPTY_PATH),
    ),
    ("fchmodat2", "a set-id bit"): lambda at: (
        *(at.file, at.memory(b"\0"), 0o4755, _EMPTY_PATH),
    ),
    ("openat2", "a mode behind a pointer"): lambda at: (
        *(_FD, at.memory(at.directory + b"/new\0")),
        *(at.memory(struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0)), 24),
    ),
    ("fchmod", "of a file to read"): lambda at: (at.file, 0o644),
    ("fsetxattr", "of a file to read"): lambda at: (
        *(at.file, at.memory(b"user.a\0"), at.memory(b"1"), 1, 0),
    ),
    ("ioctl", "FS_IOC_SETFLAGS"): lambda at: (
        *(at.file, 0x40086602, at.memory(struct.pack("l", 0x40))),  # FS_NODUMP_FL
    ),
    ("setxattrat", "Linux 6.13"): lambda at: (
        *(_FD, at.memory(at.path + b"\0"), 0, at.memory(b"user.a\0")),
        *(at.memory(struct.pack("QII", at.memory(b"1"), 1, 0)), 16),
    ),
    ("inotify_add_watch", "a directory"): lambda at: (
        *(at.events, at.memory(at.directory + b"\0"), 0xFFF),
    ),
    ("shmget", "a key"): lambda at: (0x76747278, 4096, 0),  # ENOENT
    ("splice", "without SPLICE_F_NONBLOCK"): lambda at: (
        *(at.filled(), 0, at.near.fileno(), 0, 1, 0),
    ),
}

_OTHERWISE = {
    # A file system without such flags
    ("ioctl", "FS_IOC_SETFLAGS"): {0, errno.EOPNOTSUPP, errno.ENOTTY},
    # EINVAL: a kernel, or a processor, without it
    ("prctl", "PR_SCHED_CORE"): {0, errno.EINVAL},
    ("execveat", "AT_EMPTY_PATH"): {errno.EACCES, errno.ENOEXEC},
    ("clone3", "flags behind a pointer"): {errno.EINVAL},
    ("clone", "CLONE_NEWUSER"): {errno.EINVAL},
    ("socketpair", "another family"): {errno.EOPNOTSUPP},
    ("shmget", "a key"): {errno.ENOENT},
}
"""How a call ends without a filter that it reaches and that fails there."""


def _page() -> int:
    """Return the address of a page."""
    call = (_number("mmap"), 0, 4096, 3, _PRIVATE, -1, 0)
    return int(_libc.syscall(*map(ctypes.c_long, call)))


def _number(name: str) -> int:
    known = LATE_CALLS.get(name)
    if known is None:
        known = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, name)
    assert known >= 0, name
    return known


def _outcome(call: tuple[ctypes.c_long, ...], program: bytes) -> int:
    """Make the call in a child, under a filter; its errno, or minus a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            if program:
                confine(program)
            failed = _libc.syscall(*call) == -1
            os._exit(ctypes.get_errno() if failed else 0)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _name(row: Widening) -> str:
    return f"{row.call} {row.form}"


@pytest.mark.parametrize("row", WIDENINGS, ids=_name)
def test_a_widened_call(row: Widening, place: Place, programs: dict[str, bytes]):
    key = row.call, row.form

    def outcome(program: bytes = b"") -> int:
        arguments = _number(row.call), *_ATTEMPTS[key](place)
        return _outcome(tuple(map(ctypes.c_long, arguments)), program)

    worked = outcome()
    if worked not in _OTHERWISE.get(key, {0}):
        # EPERM: this machine denies it to all (dev.tty.legacy_tiocsti, user namespaces)
        assert worked in _MISSING | {errno.EPERM}, os.strerror(worked)
        pytest.skip(f"this kernel or file system has none: {os.strerror(worked)}")
    ended = {name: outcome(program) for name, program in programs.items()}
    closed = {name for name, code in ended.items() if code != worked}
    assert closed == row.closed, ended


def test_each_list_and_each_attempt_has_its_row():
    assert set(_PROGRAMS) == set(LISTS)
    assert set(_ATTEMPTS) == {(row.call, row.form) for row in WIDENINGS}
    assert len(_ATTEMPTS) == len(WIDENINGS)
    for row in WIDENINGS:
        assert row.closed <= set(LISTS)
        assert bool(row.left) == (row.closed != set(LISTS)), _name(row)


def test_the_page_has_the_table():
    """Mend with: python -m docs.tables.system_calls, between the marks."""
    text = (Path(__file__).parents[2] / "docs/jails.md").read_text()
    begin, end = "<!-- calls: begin -->\n", "<!-- calls: end -->"
    assert text.split(begin)[1].split(end)[0].strip() == markdown().strip()
