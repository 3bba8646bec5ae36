"""Hanging up: the far end reads an end, not a reset, whatever it has sent."""

from __future__ import annotations

import socket

import pytest

from broker.net import hangup
from broker.net.hangup import given, hang_up
from tests.kit.link.roles import pair

MOST = hangup._READ_BYTES * hangup._READS


def fill(sock, number):
    """Send without blocking, up to so many bytes; returns how many went."""
    sock.setblocking(False)
    sent = 0
    while sent < number:
        try:
            sent += sock.send(b"x" * min(1 << 16, number - sent))
        except BlockingIOError:
            break
    sock.settimeout(30)
    return sent


@pytest.mark.parametrize("number", [0, 1, 100_000, 1 << 22], ids=str)
def test_the_far_end_reads_an_end(number):
    """As much as its buffer takes; close(2) alone would be ECONNRESET."""
    ours, theirs = pair()
    with ours:
        fill(ours, number)
        hang_up(theirs)
        assert theirs.fileno() == -1
        assert ours.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            ours.send(b"x")


def test_what_a_default_buffer_holds_is_read():
    ours, theirs = pair()
    with ours, theirs:
        assert fill(ours, 1 << 24) <= MOST


def test_the_far_end_is_gone_already():
    ours, theirs = pair()
    fill(ours, 1000)
    ours.close()
    hang_up(theirs)
    assert theirs.fileno() == -1


def test_a_passed_socket_is_only_closed():
    ours, theirs = pair()
    with ours:
        kept = theirs.dup()
        with given(theirs):
            pass
        assert theirs.fileno() == -1
        with kept:
            kept.sendall(b"still open")
            assert ours.recv(100) == b"still open"


def test_an_error_hangs_up_the_connection_itself():
    ours, theirs = pair()
    with ours:
        kept = theirs.dup()
        fill(ours, 1000)
        with pytest.raises(ZeroDivisionError), given(theirs):
            raise ZeroDivisionError
        with kept:
            assert theirs.fileno() == -1
            ours.settimeout(30)
            assert ours.recv(1) == b"", "also where others hold a descriptor of it"


def test_it_may_have_been_detached():
    """``given`` around a conn whose descriptor went to the pump."""
    ours, theirs = pair()
    with ours:
        with given(theirs):
            fd = theirs.detach()
        with socket.socket(fileno=fd) as taken:
            taken.sendall(b"x")
            assert ours.recv(1) == b"x"
