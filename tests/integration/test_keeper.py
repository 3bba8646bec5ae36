"""The keeper: what a taken-over jailed half can make it do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import PeerError, UpstreamError
from broker.core.limits import wayland as wayland_limits
from broker.helpers.compositor_connection import connect_compositor
from broker.ipc import keeper as messages
from broker.programs import keeper
from broker.wire import fdpass
from tests.kit.wayland.compositor import short_directory


class Plain:
    """Without a look at what the compositor offers: here it says nothing."""

    def __init__(self, path):
        self.path = Path(path)

    def connect(self):
        return connect_compositor(self.path)

    def descriptors_left(self):
        return 1.0


NOBODY = keeper.Compositor(Path("/no"), "work")


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    theirs.settimeout(30)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def compositor():
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "wayland-1"))
        listener.listen(256)
        yield listener


def test_connections_up_to_the_limit_and_not_one_more(ends, compositor):
    ours, theirs = ends
    path = compositor.getsockname()
    most = limits.WAYLAND_CLIENTS_PER_SANDBOX
    held = {}
    for number in range(most):
        theirs.send(messages.CONNECT)
        keeper._answer(Plain(path), ours, held)
        got = fdpass.receive(theirs, 2000, 1)
        assert got.data == messages.CONNECTED + bytes([number])
        fdpass.close_all(got.fds)
    theirs.send(messages.CONNECT)
    keeper._answer(Plain(path), ours, held)
    assert len(held) == most
    refused = fdpass.receive(theirs, 2000, 1)
    assert refused.data == messages.REFUSED + b"more than %d Wayland clients" % most
    theirs.send(messages.RELEASE + bytes([most - 1]))
    keeper._answer(Plain(path), ours, held)
    assert len(held) == most - 1
    for sock in held.values():
        sock.close()


def test_a_worker_that_releases_a_kept_connection_cannot_use_it(ends, compositor):
    """Taken over, it would else collect connections until the compositor is full."""
    ours, theirs = ends
    path = compositor.getsockname()
    held = {}
    theirs.send(messages.CONNECT)
    keeper._answer(Plain(path), ours, held)
    got = fdpass.receive(theirs, 2000, 1)
    far, _ = compositor.accept()
    with far, socket.socket(fileno=got.fds[0]) as kept:
        theirs.send(messages.RELEASE + got.data[1:])
        keeper._answer(Plain(path), ours, held)
        assert held == {}
        far.settimeout(30)
        assert far.recv(1) == b"", "the compositor hears an end"
        with pytest.raises(BrokenPipeError):
            kept.send(b"x")


@pytest.mark.parametrize("number", [0, 1, 255])
def test_an_unknown_connection_cannot_be_released(ends, number):
    ours, theirs = ends
    theirs.send(messages.RELEASE + bytes([number]))
    with pytest.raises(PeerError):
        keeper._answer(NOBODY, ours, {})


def test_the_reason_why_there_is_no_compositor(ends):
    ours, theirs = ends
    theirs.send(messages.CONNECT)
    keeper._answer(keeper.Compositor(Path("/no/such/socket"), "work"), ours, {})
    said = theirs.recv(2000)
    assert said[:1] == messages.REFUSED
    assert b"compositor at /no/such/socket does not answer: No such file" in said


def test_a_compositor_that_does_not_accept_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "KEEPER_CONNECT_SECONDS", 0.1)
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = directory / "wayland-1"
        listener.bind(str(path))
        listener.listen(0)
        with connect_compositor(path), pytest.raises(UpstreamError):
            connect_compositor(path)


def test_a_compositor_that_takes_connections_and_says_nothing_is_given_up(
    monkeypatch, compositor
):
    monkeypatch.setattr(wayland_limits, "WAYLAND_CONNECT_SECONDS", 0.1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UpstreamError, match="cannot create a security context"):
        keeper.Compositor(Path(compositor.getsockname()), "work").connect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_knowledge_of_a_compositor_ends_with_its_socket(monkeypatch):
    asked = []
    monkeypatch.setattr(
        keeper, "open_context", lambda path, name: asked.append((path, name))
    )
    with short_directory() as directory:
        path = directory / "wayland-1"
        one = keeper.Compositor(path, "work")
        for count in (1, 2):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen(4)
                for _ in range(2):
                    one.connect().close()
                assert asked == [(path, "work")] * count
            path.unlink()
            with pytest.raises(UpstreamError, match="does not answer"):
                one.connect()


@pytest.mark.parametrize("data", [b"x", b"cc", b"r", b"r12", b"c" * 17])
def test_a_malformed_request_is_refused(ends, data):
    ours, theirs = ends
    theirs.send(data)
    with pytest.raises(PeerError):
        keeper._answer(NOBODY, ours, {})


def test_the_end_of_its_requests_is_no_fault(ends):
    ours, theirs = ends
    theirs.close()
    assert keeper._answer(NOBODY, ours, {}) is False


def test_descriptors_are_refused(ends):
    ours, theirs = ends
    before = len(os.listdir("/proc/self/fd"))
    with open("/dev/null") as null:
        fdpass.send(theirs, messages.CONNECT, [null.fileno()])
        with pytest.raises(PeerError):
            keeper._answer(NOBODY, ours, {})
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_asks_and_never_reads_does_not_hold_it(ends):
    ours, theirs = ends
    with pytest.raises(BlockingIOError):  # noqa: PT012
        for _ in range(100_000):
            theirs.send(messages.CONNECT)
            keeper._answer(NOBODY, ours, {})


# Our jailed half in the place of the worker; this process is the keeper.
SCRIPT = """
import os, socket, sys, time
from broker.helpers.worker_jail.entering import fork_jailed
from broker.helpers.worker_jail.worker_filter import lock_worker
from broker.helpers.process.hardening import harden
from broker.helpers.filters.keeper_filter import keeper_filter
from broker.programs import keeper
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
supervisor, ours_too = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
def inside(achieved):
    lock_worker()
    {attack}
    time.sleep(1000)
jailed = fork_jailed(inside, [theirs.fileno()])
theirs.close()
harden(keeper_filter())
{after}
keeper.keep(keeper.KeeperParameters(ours_too, ours, jailed.pidfd, "work", "/no", 1))
print("ended", os.waitstatus_to_exitcode(os.waitpid(jailed.pid, 0)[1]))
print(open("/proc/self/status").read())
"""


def _serve(attack, after=""):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(attack=attack, after=after)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("theirs.send(b'garbage')", id="garbage"),
        pytest.param("socket.send_fds(theirs, [b'c'], [1])", id="descriptor"),
        pytest.param("theirs.close()", id="close"),
        pytest.param("[theirs.send(b'c') for _ in range(100000)]", id="never-reads"),
    ],
)
def test_a_jailed_half_that_attacks_it_is_killed(attack):
    said = _serve(attack)
    assert f"ended {-signal.SIGKILL}" in said
    assert "Seccomp:\t2" in said
    assert "NoNewPrivs:\t1" in said


def test_a_keeper_can_signal_no_process_of_the_session():
    """Not even its parent: only that of which it was given a pidfd."""
    with pytest.raises(subprocess.CalledProcessError) as died:
        _serve("pass", after="os.kill(os.getppid(), 0)")
    assert died.value.returncode == -signal.SIGSYS


def test_when_the_supervisor_closes_the_jailed_half_is_killed():
    said = _serve("pass", after="supervisor.close()")
    assert f"ended {-signal.SIGKILL}" in said
    assert "NoNewPrivs:\t1" in said
