"""The delivery of an application's own connection, past the broker, to the worker."""

from __future__ import annotations

import os
import socket

import pytest

from broker.core.errors import UpstreamError
from broker.ipc import acceptor
from broker.viewer.sandboxes.streams import GuestStreams


class Worker:
    """It keeps the descriptors that it is sent."""

    def __init__(self):
        self.fds = []

    async def send(self, _order, fds):
        self.fds += map(os.dup, fds)


@pytest.fixture
def handle():
    """The broker's handle on a connection, and the acceptor's end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def _deliver(worker, conn):
    streams = GuestStreams.__new__(GuestStreams)
    await streams._deliver(worker, 1, conn)


async def test_the_worker_has_its_end_before_the_acceptor_is_told(handle):
    ours, theirs = handle
    worker = Worker()
    with socket.socket() as end:
        socket.send_fds(theirs, [acceptor.WORKER_END], [end.fileno()])
        await _deliver(worker, ours)
        [got] = worker.fds
        assert os.path.sameopenfile(got, end.fileno())
        os.close(got)
    assert theirs.recv(10) == acceptor.DELIVER


@pytest.mark.parametrize("sent", [b"", acceptor.WORKER_END])
async def test_an_acceptor_without_an_end_for_the_worker_has_failed(handle, sent):
    ours, theirs = handle
    theirs.send(sent)
    worker = Worker()
    with pytest.raises(UpstreamError, match="accepts this sandbox's connections"):
        await _deliver(worker, ours)
    assert worker.fds == []


async def test_an_acceptor_that_has_ended_is_an_error(handle):
    ours, theirs = handle
    theirs.close()
    with pytest.raises(UpstreamError, match="accepts this sandbox's connections"):
        await _deliver(Worker(), ours)
