"""A viewer that was taken over makes a fork server wait: others' children are late.

The fork server of helpers forks for the host, too.  Its observer is the host's client,
which gets a child while the other one does all it can to hold the server up.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct

import pytest

from broker.ipc import fork_server as messages
from broker.net.refused_descriptors import refuse_descriptors
from broker.programs import local_common, start
from broker.wire import fdpass
from broker.wire.call_messages import ErrorMessage
from tests.attack.test_viewer_confined import DENIED, confined, place  # noqa: F401
from tests.broker.helpers.process.test_fork_server import (
    answer_of,
    order,
    packets,
    receive,
    send_call,
    serving,
    tell_files,
)

_MANY = 4000
"""Answers that fit into no socket."""


def end_at_once(_order, fds):
    """Be a child that has nothing to do."""
    fdpass.close_all(fds)


def order_many(sock):
    """Order more children than a socket has room for answers."""
    for number in range(1, _MANY):
        send_call(sock, number, 0)


def still_serves(other):
    """Whether another client gets a child."""
    ours, pidfd = order(other, 1)
    ours.close()
    os.close(pidfd)
    return True


def full_pipe():
    """Both ends of a pipe that takes no further byte."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write, bytes(4096))
    return read, write


def ended(pidfd):
    """Wait until a child has ended and was reaped by its server."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    assert waiting.poll(30_000)


def test_a_pipe_that_is_full_holds_up_no_fork_server():
    """Where a server writes how a child has ended, the client gives it no pipe."""
    (a, a_end), (b, b_end) = packets(), packets()
    read, write = full_pipe()
    with serving(a_end, b_end, run=end_at_once):
        send_call(a, 1, write)
        fds = answer_of(a, 1)
        ended(fds[0])
        assert still_serves(b)
        fdpass.close_all([*fds, read, write])
        a.close()
        b.close()


def test_a_client_that_fills_the_pipe_of_a_child_holds_up_no_fork_server():
    """It has the end to read, and the kernel gives it the other one by /proc."""
    (a, a_end), (b, b_end) = packets(), packets()
    ours, theirs = socket.socketpair()
    with serving(a_end, b_end, run=lambda _order, fds: os.read(fds[0], 1)):
        send_call(a, 1, theirs.fileno())
        theirs.close()
        pidfd, end = answer_of(a, 1)
        write = os.open(f"/proc/self/fd/{end}", os.O_WRONLY | os.O_NONBLOCK)
        while select.select([], [write], [], 0)[1]:
            os.write(write, bytes(4096))
        # It blocks again, for who shares the open file.
        os.set_blocking(write, True)
        os.set_blocking(end, True)
        ours.close()
        ended(pidfd)
        assert still_serves(b)
        fdpass.close_all([pidfd, end, write])
        a.close()
        b.close()


def test_a_client_that_reads_no_answer_holds_up_no_fork_server():
    (a, a_end), (b, b_end) = packets(), packets()
    with serving(a_end, b_end, run=end_at_once):
        a.settimeout(30)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            order_many(a)
        assert still_serves(b)
        a.close()
        b.close()


def test_a_client_leaves_processes_to_others(monkeypatch):
    monkeypatch.setattr(messages, "CHILDREN", 3)
    (a, a_end), (b, b_end) = packets(), packets()
    with serving(a_end, b_end, run=tell_files):
        first = [order(a, number) for number in range(1, 4)]
        send_call(a, 4, 0)
        refusal, _ = receive(a)
        assert isinstance(refusal, ErrorMessage)
        assert still_serves(b)
        first[0][0].close()
        ended(first[0][1])
        first[0] = order(a, 5)
        for sock, pidfd in first:
            sock.close()
            os.close(pidfd)
        a.close()
        b.close()


def test_it_makes_no_descriptor_slow_to_close(place):  # noqa: F811
    """A socket that lingers makes wait who closes it last: host, authority, server."""
    with socket.socket(socket.AF_INET) as tcp:

        def linger():
            tcp.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60)
            )
            return True

        assert confined(place, linger) in DENIED


def test_it_attaches_nothing_to_what_authority_and_host_read():
    """They need no descriptor of it, and would be who closes it."""
    with socket.socket(socket.AF_UNIX) as probe:
        if not refuse_descriptors(probe):
            pytest.skip("before Linux 6.16")
    ours, theirs = start._client_pair()
    calls = ours.calls, theirs.calls
    pairs = [(ours.requests, theirs.requests), calls, local_common.pair()]
    for viewer, other in pairs:
        with viewer, other, pytest.raises(PermissionError):
            socket.send_fds(viewer, [b"x"], [0])
