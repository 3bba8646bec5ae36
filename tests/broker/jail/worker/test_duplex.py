"""A core between two sockets: writer, end and last words are the same for all kinds."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import PeerError, UpstreamError
from broker.jail.worker.duplex import DuplexConnection


class Core:
    def __init__(self):
        self.down, self.up = bytearray(), bytearray()
        self.fault = None
        self.closed = False

    def fail(self, error):
        self.fault = error
        self.down += b"the error"

    def close(self):
        self.closed = True


class Plain(DuplexConnection):
    """Sends what its core has; reads nothing."""

    KIND = "test"

    def __init__(self, client, server):
        super().__init__(client, server)
        self.core = Core()
        self.rounds = 0

    def _tasks(self):
        return ()

    async def _begin(self):
        await trio.lowlevel.checkpoint()

    async def _close(self):
        await self._last_words(to_client=True)
        self.core.close()

    def _send(self, *, to_client):
        sock = self._client if to_client else self._server
        data = self.core.down if to_client else self.core.up
        while data:
            try:
                count = sock.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            del data[:count]
        return True

    async def _drain(self, *, to_client):
        sock = self._client if to_client else self._server
        try:
            while not self._send(to_client=to_client):
                await trio.lowlevel.wait_writable(sock)
        except OSError as error:
            self._lost(error)

    def _sent(self):
        self.rounds += 1


@pytest.fixture
def ends():
    pairs = [socket.socketpair() for _ in range(2)]
    (near, client), (far, server) = pairs
    near.settimeout(30)
    far.settimeout(30)
    with near, client, far, server:
        yield Plain(client, server), near, far


def everything(sock):
    data = b""
    while piece := sock.recv(1 << 20):
        data += piece
    return data


async def test_what_a_socket_did_not_take_is_sent_when_it_can(ends):
    mine, near, _far = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.run)
        await wait_all_tasks_blocked()
        mine.core.down += bytes(5_000_000)
        mine._work.set()
        await wait_all_tasks_blocked()
        left = len(mine.core.down)
        assert 0 < left < 5_000_000
        taken = 0
        while taken < 5_000_000:
            taken += len(await trio.to_thread.run_sync(near.recv, 1 << 20))
        await wait_all_tasks_blocked()
        assert (len(mine.core.down), mine.rounds) == (0, 1)
        mine._end(reason="the test is over")
    assert (mine.reason, mine.core.closed) == ("the test is over", True)


async def test_the_first_error_counts_and_reaches_the_client(ends):
    mine, near, _far = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.run)
        await wait_all_tasks_blocked()
        mine._end(PeerError("too much"))
        mine._end(UpstreamError("something else"), reason="later")
    assert (mine.reason, str(mine.core.fault)) == ("too much", "too much")
    mine._client.close()
    assert everything(near) == b"the error"


async def test_a_client_that_reads_nothing_holds_up_no_end(ends, autojump_clock):
    mine, _near, _far = ends
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.run)
            await wait_all_tasks_blocked()
            mine.core.down += bytes(5_000_000)
            mine._end(PeerError("too much"))
    assert mine.core.closed
    assert mine.core.down


@pytest.mark.parametrize(
    ("code", "reason", "fault"),
    [
        (errno.EPIPE, "one end closed the connection", None),
        (errno.ECONNRESET, "one end closed the connection", None),
        (errno.ENOMEM, "a test socket failed: Cannot allocate memory", UpstreamError),
    ],
)
async def test_a_socket_that_fails(ends, code, reason, fault):
    mine, _near, _far = ends
    mine._lost(OSError(code, os.strerror(code)))
    assert mine.reason == reason
    assert (type(mine.core.fault) if mine.core.fault else None) is fault
    assert mine._over.is_set()


async def test_a_fault_of_another_task_ends_it_when_something_is_sent(ends):
    mine, _near, _far = ends
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.run)
            await wait_all_tasks_blocked()
            mine.core.fault = PeerError("a person ended it")
            mine._work.set()
    assert mine.reason == "a person ended it"
