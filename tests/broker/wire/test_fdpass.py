"""Descriptors over sockets: counted, close-on-exec, none left open."""

from __future__ import annotations

import os
import socket

import pytest

from broker.core.errors import PeerError
from broker.wire import fdpass


@pytest.fixture(params=[socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def pair(request):
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def some():
    """More descriptors than any limit in these tests."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    yield fds
    fdpass.close_all(fds)


def _open():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [0, 1, 2, 27, 28])
def test_up_to_the_limit_arrives_whole(pair, some, count):
    ours, theirs = pair
    assert fdpass.send(theirs, b"bytes", some[:count]) == 5
    got = fdpass.receive(ours, 100, 28)
    assert got.data == b"bytes"
    assert len(got.fds) == count
    for fd in got.fds:
        assert not os.get_inheritable(fd)
    fdpass.close_all(got.fds)


@pytest.mark.parametrize(("limit", "count"), [(28, 29), (28, 40), (1, 2), (0, 1)])
def test_one_more_ends_it_and_leaves_none_open(pair, some, limit, count):
    ours, theirs = pair
    before = _open()
    fdpass.send(theirs, b"bytes", some[:count])
    with pytest.raises(PeerError, match=f"more than {limit} file descriptors"):
        fdpass.receive(ours, 100, limit)
    assert _open() == before


def test_a_packet_that_is_too_long_is_refused(some):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = _open()
        fdpass.send(theirs, b"x" * 101, some[:1])
        with pytest.raises(PeerError, match="longer than 100 bytes"):
            fdpass.receive(ours, 100, 1)
        assert _open() == before
        fdpass.send(theirs, b"x" * 100)
        assert len(fdpass.receive(ours, 100, 1).data) == 100


def test_credentials_are_not_descriptors(pair):
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    theirs.send(b"x")
    with pytest.raises(PeerError):
        fdpass.receive(ours, 100, 28)


def test_the_end_is_empty(pair):
    ours, theirs = pair
    theirs.close()
    assert fdpass.receive(ours, 100, 28) == fdpass.Received(b"", ())


def test_bytes_of_two_messages_with_descriptors_do_not_merge(some):
    """What Wayland relies on: descriptors stay at their place in the stream."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        fdpass.send(theirs, b"one", some[:1])
        fdpass.send(theirs, b"two", some[:2])
        first = fdpass.receive(ours, 100, 28)
        second = fdpass.receive(ours, 100, 28)
        assert (first.data, len(first.fds)) == (b"one", 1)
        assert (second.data, len(second.fds)) == (b"two", 2)
        fdpass.close_all(first.fds + second.fds)


def test_descriptors_without_a_byte_are_no_end(some):
    """A caller takes an empty packet for the end, and would keep them open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        fdpass.send(theirs, b"", some[:2])
        before = _open()
        with pytest.raises(PeerError, match="without data"):
            fdpass.receive(ours, 100, 28)
        assert _open() == before
