"""One end of a connection in a process without an event loop."""

from __future__ import annotations

import errno
import os
import socket

import msgspec
import pytest

from broker.wire import fdpass
from broker.wire.blocking import BlockingEnd
from broker.wire.fdpass import DescriptorsLostError
from broker.wire.row import Empty, ProcessKind, Row
from tests.kit.wire_bytes import call_bytes

OPEN = Row(
    "Open",
    Empty,
    Empty,
    frozenset({ProcessKind.SESSION_CHILD}),
    frozenset({ProcessKind.VIEWER}),
    takes=2,
)


@pytest.fixture
def child():
    """The end that serves the row, and the far end's socket."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = BlockingEnd(
        near, ProcessKind.SESSION_CHILD, ProcessKind.VIEWER, {OPEN.name: OPEN}
    )
    with near, far:
        yield end, far


def test_call_is_received_and_answered(child):
    end, far = child
    read, write = os.pipe()
    fdpass.send(far, call_bytes(1, OPEN), [read, write])
    received = end.receive()
    assert received.event.call == 1
    fdpass.close_all([*received.fds, read, write])
    end.answer(1)
    assert far.recv(1 << 16)


def test_descriptors_beyond_the_limit_end_it_and_are_closed(child):
    end, far = child
    read, write = os.pipe()
    open_before = len(os.listdir("/proc/self/fd"))
    fdpass.send(far, call_bytes(1, OPEN), [read, write, read, write])
    with pytest.raises(DescriptorsLostError):
        end.receive()
    assert len(os.listdir("/proc/self/fd")) == open_before
    fdpass.close_all([read, write])


def test_moment_without_memory_ends_no_process(child, monkeypatch):
    end, far = child
    real, failures = fdpass.receive, [errno.ENOMEM, errno.ENOBUFS]

    def fail_twice(*args):
        if failures:
            raise OSError(failures.pop(), "no memory")
        return real(*args)

    monkeypatch.setattr(fdpass, "receive", fail_twice)
    far.send(msgspec.msgpack.encode(b""))
    far.close()
    with pytest.raises(Exception, match="no message"):
        end.receive()
    assert failures == []
