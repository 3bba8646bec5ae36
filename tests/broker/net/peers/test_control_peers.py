"""Who is served at the user's own sockets, by what the kernel tells."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from broker.core.errors import RefusedError
from broker.core.token_bucket import TokenBucket
from broker.net.peers import control_peers, peer_process
from broker.net.peers.control_peers import why_not_served


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    with here, there:
        yield here


def test_a_program_of_this_namespace_is_served(pair):
    assert why_not_served(pair.fileno()) is None
    assert pair.fileno() >= 0, "the socket stays the caller's"


def test_a_process_of_a_namespace_inside_has_two_numbers(pair, monkeypatch):
    mine = os.getpid()
    own = [mine]
    answers = iter([own, [mine, 7]])
    monkeypatch.setattr(control_peers, "_numbers", lambda pidfd: next(answers))
    assert "containers or boxes" in str(why_not_served(pair.fileno()))


@pytest.mark.parametrize("answers", [[[], [5]], [[5, 6], [5, 6]], [[5], []]])
def test_what_the_kernel_does_not_tell_is_a_no(pair, monkeypatch, answers):
    told = iter(answers)
    monkeypatch.setattr(control_peers, "_numbers", lambda pidfd: next(told))
    assert "does not report" in str(why_not_served(pair.fileno()))


def test_without_a_descriptor_nothing_is_known(pair, monkeypatch):
    def full(pid):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    with pytest.raises(OSError, match="too many open files"):
        control_peers.in_our_pid_namespace(pair)


def test_what_the_kernel_answers_is_said_with_what_to_do(pair, monkeypatch):
    """The message hid both from three users, whose brokers were deaf."""

    def hidden(pidfd):
        raise PermissionError(errno.EACCES, "Permission denied", "/proc/self/fdinfo/9")

    monkeypatch.setattr(control_peers, "_numbers", hidden)
    refused = why_not_served(pair.fileno(), 4711)
    assert "Permission denied: '/proc/self/fdinfo/9'" in refused.message
    assert "process 4711" in refused.hint
    assert "brokerctl stop --broker --force" in refused.hint


class _DeniedSocket:
    """A connection whose peer a filter of system calls hides."""

    def __init__(self, code):
        self.code = code

    def getsockopt(self, level, option, size=0):
        if option == peer_process.SO_PEERPIDFD:
            raise OSError(self.code, os.strerror(self.code))
        return struct.pack("3i", os.getpid(), os.getuid(), os.getgid())


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMFILE])
def test_denied_question_is_not_an_ended_peer(code):
    """The viewer's mixer was deaf, and said that its callers had ended."""
    with pytest.raises(OSError, match=os.strerror(code)):
        peer_process.peer_pidfd(_DeniedSocket(code))


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL, errno.ENODATA])
def test_ended_peer_is_refused_by_each_kernel(code):
    with pytest.raises(RefusedError, match="has ended"):
        peer_process.peer_pidfd(_DeniedSocket(code))


def test_refusals_are_logged_up_to_a_limit(monkeypatch, capsys):
    monkeypatch.setattr(control_peers, "_LINES", TokenBucket(0.1, 10))
    conn = _DeniedSocket(errno.EPERM)
    for _ in range(1000):
        control_peers.log_refusal("the mixer", conn, RefusedError("it is in a box"))
    lines = capsys.readouterr().err.splitlines()
    pid = os.getpid()
    assert lines[0].endswith(f"does not serve process {pid}: it is in a box")
    assert 10 <= len(lines) <= 20


def test_before_linux_6_5_the_number_serves(pair, monkeypatch):
    monkeypatch.setattr(peer_process, "peer_pidfd", lambda conn: -1)
    assert control_peers.in_our_pid_namespace(pair) is True
    monkeypatch.setattr(peer_process, "peer_numbers", lambda conn: (0, 0, 0))
    with pytest.raises(OSError, match=r"Invalid argument|No such process"):
        control_peers.in_our_pid_namespace(pair)


def test_a_process_that_has_ended_is_not_one():
    child = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(child)
    try:
        os.waitpid(child, 0)
        with pytest.raises(RefusedError, match="has ended"):
            control_peers._numbers(pidfd)
    finally:
        os.close(pidfd)
