"""Streams that no task waits for."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import trio
import trio.testing

from broker.core.errors import UpstreamError
from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.pump.process import start_pump
from broker.ipc.pump import EndReason, StreamEnd, Submit
from tests.kit.relay.sockets import fds, running


@pytest.fixture
def handle():
    """Sync, so that the fork comes before trio."""
    return start_pump(pump_filter())


@pytest.fixture
async def pump(handle):
    async with running(handle) as pump:
        yield pump


class Ends:
    """How streams ended, in order."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[StreamEnd](10_000)

    async def next(self) -> StreamEnd:
        with trio.fail_after(30):
            return await self.receive.receive()


async def test_its_end_is_reported_and_its_descriptors_stay_the_callers(pump):
    ends = Ends()
    client, a = socket.socketpair()
    b, server = socket.socketpair()
    with client, server:
        with a, b:
            before = fds()
            assert pump.submit(a.fileno(), b.fileno(), Submit(0), ends.send.send_nowait)
            assert fds() == before
        client.send(b"word")
        assert await trio.to_thread.run_sync(server.recv, 10) == b"word"
    end = await ends.next()
    assert (end.reason, end.bytes_ab, end.bytes_ba) == (EndReason.END, 4, 0)
    assert pump.statistics().streams == 0


async def test_a_dead_pump_ends_each_and_takes_no_other(handle, pump):
    ends = Ends()
    kept = [socket.socketpair() for _ in range(3)]
    for one, two in kept:
        assert pump.submit(one.fileno(), two.fileno(), Submit(0), ends.send.send_nowait)
    os.kill(handle.pid, signal.SIGKILL)
    for _ in kept:
        assert (await ends.next()).reason is EndReason.PUMP_DIED
    one, two = kept[0]
    with pytest.raises(UpstreamError, match="has died"):
        pump.submit(one.fileno(), two.fileno(), Submit(0), ends.send.send_nowait)
    for pair in kept:
        for sock in pair:
            sock.close()


async def test_a_pump_that_takes_no_message_is_waited_for(handle, pump):
    ends = Ends()
    one, two = socket.socketpair()
    with one, two:
        os.kill(handle.pid, signal.SIGSTOP)
        taken = 0
        while pump.submit(one.fileno(), two.fileno(), Submit(0), ends.send.send_nowait):
            taken += 1
            assert taken < 4000, "its socket never fills"
        assert pump.statistics().streams == taken, "the last one is not a stream"
        os.kill(handle.pid, signal.SIGCONT)
        with trio.fail_after(30):
            await pump.wait_room()
        assert pump.submit(one.fileno(), two.fileno(), Submit(0), ends.send.send_nowait)
        one.shutdown(socket.SHUT_RDWR)
    for _ in range(taken + 1):
        await ends.next()
    assert pump.statistics().streams == 0


async def test_all_who_wait_for_a_pump_are_told_that_it_died(handle, pump):
    """The second one waited on a closed descriptor, which is our mistake."""
    ends, told = Ends(), []
    one, two = socket.socketpair()

    def submit():
        return pump.submit(one.fileno(), two.fileno(), Submit(0), ends.send.send_nowait)

    async def until_taken():
        while not submit():
            await pump.wait_room()

    async def wait():
        with pytest.raises(UpstreamError, match="has died"):
            await until_taken()
        told.append(True)

    with one, two, trio.fail_after(30):
        os.kill(handle.pid, signal.SIGSTOP)
        while submit():
            pass
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(handle.pid, signal.SIGKILL)
    assert len(told) == 3
