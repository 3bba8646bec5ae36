"""What a viewer that was taken over can do with the kernel, tried from inside.

It has descriptors and its own directories; it executes nothing, connects to nothing,
signals only processes of which it was given a pidfd, and opens no file of the user's.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest
import trio

from broker.cli.run.start import _open_log
from broker.core.errors import SetupError
from broker.helpers.filters.viewer_filter import viewer_filter
from broker.helpers.viewer_confinement import confine_viewer
from broker.ipc.control.api import EventsRequest
from broker.ipc.control.methods import EVENTS, STATUS
from broker.ipc.control.types.base import Nothing
from broker.net.listeners import has_listener
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import world

_libc = ctypes.CDLL(None, use_errno=True)
_TGKILL = 234
_F_SETSIG, _F_SETOWN_EX, _SIOCSPGRP, _SO_PEERPIDFD = 10, 15, 0x8902, 77


@pytest.fixture
def place():
    """A directory with the viewer's own, a secret of the user's, and a service."""
    with short_directory() as base, socket.socket(socket.AF_UNIX) as service:
        (base / "own").mkdir()
        (base / "settings").mkdir()
        (base / "settings/levels").write_text("1")
        (base / "secret").write_text("secret")
        service.bind(str(base / "service"))
        service.listen()
        yield base


def confined(place, action):
    """Do it in a process that is confined as the viewer; how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            confine_viewer(
                viewer_filter(os.getpid()), [place / "settings"], [place / "own"]
            )
            code = 7 if action() else 8
        except OSError as error:
            code = {errno.EACCES: 10, errno.EPERM: 11}.get(error.errno, 12)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


DENIED = {10, 11}


def test_it_executes_and_forks_nothing(place):
    assert confined(place, lambda: os.execv("/bin/true", ["true"])) == -signal.SIGSYS
    assert confined(place, os.fork) == -signal.SIGSYS


def test_it_connects_to_nothing(place):
    def connect():
        socket.socket(socket.AF_UNIX).connect(str(place / "service"))

    assert confined(place, connect) in DENIED


@pytest.mark.parametrize("make", [socket.socket, lambda *a: socket.socketpair(*a)[0]])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_RAW])
def test_it_sends_no_datagram(place, make, kind):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(place / "journal"))

        def send():
            sock = make(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
            sock.sendto(b"READY=1", str(place / "journal"))
            return True

        assert confined(place, send) in DENIED
        journal.setblocking(False)
        with pytest.raises(BlockingIOError):
            journal.recv(10)


@pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK]
)
def test_it_has_no_network(place, family):
    assert confined(place, lambda: socket.socket(family, socket.SOCK_STREAM)) in DENIED


def test_it_signals_and_traces_nobody(place):
    parent = os.getpid()
    assert confined(place, lambda: os.kill(parent, 0)) == -signal.SIGSYS
    assert confined(place, lambda: os.pidfd_open(parent)) == -signal.SIGSYS
    tgkill = confined(place, lambda: _libc.syscall(_TGKILL, parent, parent, 0))
    assert tgkill == -signal.SIGSYS
    assert confined(place, lambda: os.open(f"/proc/{parent}", os.O_RDONLY)) in DENIED
    assert confined(place, lambda: _libc.ptrace(16, parent, 0, 0)) == -signal.SIGSYS


@pytest.fixture
def victim():
    """A process of the user's."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_it_stops_no_process(place, victim):
    """A session child that is stopped does not end a camera with its permit."""
    held = os.pidfd_open(victim)
    stops = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
    for number in (*stops, signal.SIGQUIT, signal.SIGCONT, signal.SIGRTMAX):

        def stop(number=number):
            signal.pidfd_send_signal(held, number)
            return True

        assert confined(place, stop) in DENIED
    assert os.waitpid(victim, os.WNOHANG | os.WUNTRACED) == (0, 0)
    os.close(held)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_a_process_of_which_it_has_a_pidfd(place, number):
    with subprocess.Popen(["sleep", "100"]) as child:
        held = os.pidfd_open(child.pid)

        def end():
            signal.pidfd_send_signal(held, number)
            return True

        assert confined(place, end) == 7
        os.close(held)
        assert child.wait(10) == -number


_THREAD, _THREAD_GROUP, _PROCESS_GROUP = 1, 2, 4
"""PIDFD_SIGNAL_ of Linux 6.9: which processes a pidfd stands for."""


def _signal_group(held, flags, number=signal.SIGKILL):
    signal.pidfd_send_signal(held, number, None, flags)
    return True


@pytest.fixture
def group():
    """The leader of a process group, and another process of it."""
    leader = subprocess.Popen(["sleep", "100"], process_group=0)
    other = subprocess.Popen(["sleep", "100"], process_group=leader.pid)
    with leader, other:
        yield leader, other
        for child in (leader, other):
            child.kill()


@pytest.mark.parametrize("flags", [_THREAD, _THREAD_GROUP, _PROCESS_GROUP, 1 << 30])
def test_it_ends_no_group_of_which_it_has_the_leader(place, group, flags):
    """The pidfd of the fork server of helpers would be the key to all its children."""
    leader, other = group
    held = os.pidfd_open(leader.pid)
    assert confined(place, lambda: _signal_group(held, flags)) in DENIED
    assert (leader.poll(), other.poll()) == (None, None)
    os.close(held)


def test_a_group_is_ended_by_its_leader_without_the_filter(group):
    leader, other = group
    held = os.pidfd_open(leader.pid)
    try:
        _signal_group(held, _PROCESS_GROUP)
    except OSError:
        pytest.skip("Linux 6.9 has signals to a group by a pidfd")
    finally:
        os.close(held)
    assert other.wait(10) == -signal.SIGKILL


_MSG_FASTOPEN, _TCP_FASTOPEN_CONNECT = 0x20000000, 30


@pytest.mark.parametrize("call", ["sendto", "sendmsg", "sendmmsg"])
def test_it_connects_by_no_message(place, call):
    """Neither connect(2) nor Landlock sees it: tcp(7), TCP_FASTOPEN."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        there = service.getsockname()

        def send():
            if call == "sendto":
                sock.sendto(b"GET /", _MSG_FASTOPEN, there)
            elif call == "sendmsg":
                sock.sendmsg([b"GET /"], [], _MSG_FASTOPEN, there)
            else:
                return _sendmmsg(sock, there)
            return True

        with socket.create_server(("127.0.0.1", 0)) as sock:
            # It listened, and was lent; shutdown(2) makes it one that can connect.
            assert confined(place, lambda: not sock.shutdown(socket.SHUT_RDWR)) == 7
            assert confined(place, send) in DENIED
            try:
                assert send(), "it works without the filter"
                service.accept()[0].close()
            except OSError as error:
                # Some kernels do it for no socket that has listened (Linux 6.18).
                if error.errno != errno.EINVAL:
                    raise
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()


def _sendmmsg(sock, there):
    name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", there[1])
    name = ctypes.create_string_buffer(name + socket.inet_aton(there[0]) + bytes(8), 16)
    data = ctypes.create_string_buffer(b"GET /", 5)
    at = ctypes.addressof
    vector = ctypes.create_string_buffer(struct.pack("PN", at(data), 5))
    header = struct.pack("PIPNPNiI", at(name), 16, at(vector), 1, 0, 0, 0, 0)
    flags = ctypes.c_ulong(_MSG_FASTOPEN)
    if _libc.sendmmsg(sock.fileno(), header.ljust(64, bytes(1)), 1, flags) < 0:
        raise OSError(ctypes.get_errno(), "sendmmsg")
    return True


def test_it_makes_no_socket_that_connects_with_its_first_message(place):
    with socket.socket() as lent:

        def prepare():
            lent.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)
            return True

        assert confined(place, prepare) in DENIED
        assert prepare()


def _by_fcntl(sock, pid):
    fcntl.fcntl(sock, fcntl.F_SETOWN, pid)


def _by_fcntl_ex(sock, pid):
    fcntl.fcntl(
        sock, _F_SETOWN_EX, (1).to_bytes(4, "little") + pid.to_bytes(4, "little")
    )


def _by_ioctl(sock, pid):
    fcntl.ioctl(sock, _SIOCSPGRP, pid.to_bytes(4, "little"))


@pytest.mark.parametrize("own", [_by_fcntl, _by_fcntl_ex, _by_ioctl])
def test_no_socket_signals_for_it(place, victim, own):
    def send():
        one, other = socket.socketpair()
        own(one, victim)
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
        return other.send(b"x")

    assert confined(place, send) in DENIED


def test_it_chooses_no_signal_of_a_descriptor(place):
    def choose():
        return not fcntl.fcntl(0, _F_SETSIG, int(signal.SIGKILL))

    assert confined(place, choose) in DENIED


def test_a_connection_gives_no_pidfd(place):
    with socket.socket(socket.AF_UNIX) as mine:
        mine.connect(str(place / "service"))
        peer = (socket.SOL_SOCKET, _SO_PEERPIDFD)
        assert confined(place, lambda: mine.getsockopt(*peer)) in DENIED


def test_it_limits_no_other_process(place, victim):
    def limit():
        return resource.prlimit(victim, resource.RLIMIT_CPU, (0, 0))

    assert confined(place, limit) in DENIED
    scheduling = (
        lambda: os.setpriority(os.PRIO_PROCESS, victim, 9) is None,
        lambda: os.sched_setaffinity(victim, {0}) is None,
    )
    for change in scheduling:
        assert confined(place, change) in DENIED


def test_it_types_into_no_terminal(place):
    """A broker that a shell has started has the shell's terminal."""
    master, slave = os.openpty()

    def type_in():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        fcntl.ioctl(slave, termios.TIOCSTI, b"x")
        return True

    assert confined(place, type_in) in DENIED
    os.close(master)
    os.close(slave)


_LINE = b"vitrail: the rules have an error\n" * 4096
_PUNCH_HOLE, _KEEP_SIZE, _ZERO_RANGE = 2, 1, 16


def _fallocate(fd, mode):
    size = ctypes.c_long(len(_LINE))
    if _libc.fallocate(fd, mode, ctypes.c_long(0), size):
        raise OSError(ctypes.get_errno(), "fallocate")


def _free_space(fd, request):
    """The ioctls of XFS that each file system has: struct space_resv."""
    fcntl.ioctl(fd, request, struct.pack("hxxxxxxqqiI16x", 0, 0, len(_LINE), 0, 0))


def _write_over(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, bytes(len(_LINE)), 0)


CUTS = {
    "ftruncate": lambda fd: os.ftruncate(fd, 0),
    "a hole": lambda fd: _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE),
    "zeros": lambda fd: _fallocate(fd, _ZERO_RANGE),
    "an old hole": lambda fd: _free_space(fd, 0x4030582B),
    "an old hole of 64 bits": lambda fd: _free_space(fd, 0x4030582D),
    "old zeros": lambda fd: _free_space(fd, 0x40305839),
    "written over": _write_over,
    "read": lambda fd: os.pread(fd, 1, 0),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_the_brokers_log_is_only_written_at_its_end(place, cut):
    """It is the standard error of all processes of a broker; Landlock sees no open file."""
    path = place / "broker.log"
    path.write_bytes(_LINE)
    log = _open_log(path)

    def act():
        assert os.write(log, b"more") == 4
        cut(log)
        return True

    ended = confined(place, act)
    os.close(log)
    assert ended in {*DENIED, 12}
    assert path.read_bytes() == _LINE + b"more"


def test_it_attaches_no_memory_of_other_programs(place):
    memory = _libc.shmget(0, 4096, 0o1600)
    _libc.shmat.restype = ctypes.c_void_p

    def attach():
        found = _libc.shmat(memory, None, 0)
        if found == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "shmat")
        return True

    try:
        assert confined(place, attach) in DENIED
    finally:
        _libc.shmctl(memory, 0, None)


def test_a_file_of_the_user_keeps_its_mode_and_times(place):
    secret = place / "secret"
    before = secret.stat()
    for change in (
        lambda: secret.chmod(0o666),
        lambda: os.utime(secret, (1, 1)),
        lambda: os.chown(secret, -1, os.getgid()),
        lambda: os.setxattr(secret, "user.a", b"1"),
        lambda: os.truncate(secret, 0),
    ):
        assert confined(place, lambda change=change: change() is None) in DENIED
    after = secret.stat()
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)


def test_it_hears_of_no_file_of_the_user(place):
    """A watch tells the names in a directory that cannot be listed."""
    events = _libc.inotify_init1(0)
    os.setxattr(place / "secret", "user.origin", b"https://")
    try:
        for attempt in (
            lambda: _libc.inotify_init1(0),
            lambda: _libc.inotify_add_watch(events, os.fsencode(place), 0xFFF),
        ):
            assert confined(place, lambda attempt=attempt: _succeeds(attempt)) in DENIED
        secret = place / "secret"
        assert confined(place, lambda: os.getxattr(secret, "user.origin")) in DENIED
        assert confined(place, lambda: os.listxattr(secret)) in DENIED
    finally:
        os.close(events)


def _succeeds(call):
    """Raise OSError where a function of the library of C has failed."""
    if call() < 0:
        raise OSError(ctypes.get_errno(), "failed")
    return True


@pytest.mark.parametrize("call", ["setxattrat", "file_setattr"])
def test_a_file_keeps_its_attributes_whatever_libseccomp_knows(place, call):
    path = os.fsencode(place / "secret")

    def change():
        value = ctypes.create_string_buffer(b"value")
        given = struct.pack("QII", ctypes.addressof(value), 5, 0)
        calls = {
            "setxattrat": (463, -100, path, 0, b"user.a", given, 16),
            "file_setattr": (469, -100, path, bytes(24), ctypes.c_size_t(24), 0),
        }
        if _libc.syscall(*calls[call]) < 0:
            raise OSError(ctypes.get_errno(), call)
        return True

    # ENOSYS: an older kernel
    assert confined(place, change) in DENIED | {12}


def test_it_makes_no_file_setuid(place):
    file = place / "settings/levels"

    def make():
        os.fchmod(os.open(file, os.O_RDONLY), 0o4755)
        return True

    assert confined(place, make) in DENIED
    assert not file.stat().st_mode & stat.S_ISUID


def test_it_opens_no_file_of_the_user(place):
    for name in ("secret", "settings/../secret"):
        assert confined(place, (place / name).read_text) in DENIED
    root = f"/proc/self/root{place}/secret"
    assert confined(place, lambda: open(root).read()) in DENIED  # noqa: SIM115
    assert confined(place, lambda: os.listdir(place)) in DENIED
    for new in (place / "new", place / "settings/levels"):
        assert confined(place, lambda new=new: new.write_text("x")) in DENIED
    assert confined(place, lambda: os.symlink("/", place / "own/link")) in DENIED
    assert confined(place, lambda: (place / "own/file").rename(place / "f")) != 7
    assert (place / "settings/levels").read_text() == "1"


def test_it_knows_a_socket_that_is_served_from_one_that_was_left(place):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "left"))
    served, left = place / "service", place / "left"
    assert confined(place, lambda: has_listener(served) and not has_listener(left)) == 7


def test_it_does_what_a_viewer_does(place):
    """Threads, sockets that it listens on, descriptors of others, its own files."""

    def work():
        ran = []
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
        (place / "own/log").write_text("line")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(place / "own/display"))
            sock.listen()
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        text = (place / "settings/levels").read_text()
        return ran == [1] and text == "1"

    assert confined(place, work) == 7


def test_a_thread_of_before_is_not_left_out(place):
    """Filter and rules are of the thread that installs them, and of those it starts."""

    def late():
        wait = threading.Event()
        threading.Thread(target=wait.wait, daemon=True).start()
        try:
            confine_viewer(viewer_filter(os.getpid()), [], [])
        except SetupError:
            return True
        return False

    pid = os.fork()
    if pid == 0:
        os._exit(7 if late() else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


async def test_a_viewer_that_runs_is_confined():
    async with world(image=False) as made, made.client() as client:
        status = await client.call(STATUS, Nothing())
        [pid] = [row.pid for row in status.processes if row.role == "broker"]
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "status").read_text().split("\n")
            assert {"NoNewPrivs:\t1", "Seccomp:\t2"} <= set(fields)


async def test_events_are_sent_beside_a_confined_viewer():
    began = trio.Event()

    async def take(_item):
        await trio.lowlevel.checkpoint()
        began.set()

    async with (
        world(image=False) as made,
        made.client() as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.call, EVENTS, EventsRequest(), take)
        with trio.fail_after(60):
            await began.wait()
        nursery.cancel_scope.cancel()
