"""A Wayland connection passed through: order, descriptors, back-pressure, ends."""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core import fdpass, limits
from broker.core.errors import PeerError
from broker.session.passthrough import Connection, Forward, Packet, Side


class Joined:
    """The far ends of a connection that runs."""

    def __init__(self, core):
        self.client, client = socket.socketpair()
        self.compositor, compositor = socket.socketpair()
        self.connection = Connection(client, compositor, core)
        self.reason = None
        self.ended = trio.Event()

    async def run(self):
        self.reason = await self.connection.run()
        self.ended.set()


@asynccontextmanager
async def joined(core=None):
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        made = Joined(core or Forward())
        nursery.start_soon(made.run)
        with made.client, made.compositor:
            yield made
        nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before


async def receive(sock, size=65536, fds=28):
    sock.setblocking(False)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(sock)
    return fdpass.receive(sock, size, fds)


async def test_bytes_pass_both_ways_and_are_counted():
    async with joined() as both:
        both.client.send(b"request")
        assert (await receive(both.compositor)).data == b"request"
        both.compositor.send(b"an event")
        assert (await receive(both.client)).data == b"an event"
        assert both.connection.counts.to == {Side.COMPOSITOR: 7, Side.CLIENT: 8}


@pytest.mark.parametrize("sender", ["client", "compositor"])
async def test_descriptors_keep_their_place(sender):
    async with joined() as both:
        here = getattr(both, sender)
        there = both.compositor if sender == "client" else both.client
        pipes = [os.pipe() for _ in range(3)]
        fdpass.send(here, b"one", [pipes[0][1]])
        fdpass.send(here, b"two", [pipes[1][1], pipes[2][1]])
        seen = []
        for words in (b"one", b"two"):
            got = await receive(there)
            assert got.data == words
            seen += got.fds
        for (read, write), fd in zip(pipes, seen, strict=True):
            os.write(fd, b"x")
            assert os.read(read, 1) == b"x"
            fdpass.close_all([read, write, fd])


async def test_28_descriptors_at_once_pass_and_29_end_the_connection():
    with open("/dev/null") as null:
        async with joined() as both:
            fdpass.send(both.client, b"x", [null.fileno()] * 28)
            got = await receive(both.compositor)
            assert len(got.fds) == limits.WAYLAND_FDS_PER_READ == 28
            fdpass.close_all(got.fds)
            fdpass.send(both.client, b"x", [null.fileno()] * 29)
            await both.ended.wait()
            assert "more than 28 file descriptors" in both.reason
            assert (await receive(both.client)).data == b""


async def test_a_side_that_does_not_read_stalls_only_what_goes_to_it():
    async with joined() as both:
        both.client.setblocking(False)
        sent = 0
        while True:
            try:
                sent += both.client.send(b"x" * 65536)
            except BlockingIOError:
                await trio.testing.wait_all_tasks_blocked()
                try:
                    sent += both.client.send(b"x" * 65536)
                except BlockingIOError:
                    break
        # Two socket buffers and one read of ours: constant, not growing.
        assert sent < 3 * (1 << 20)
        both.compositor.send(b"event")
        assert (await receive(both.client)).data == b"event"
        received = 0
        while received < sent:
            received += len((await receive(both.compositor)).data)
        assert received == sent


async def test_a_closed_compositor_ends_the_client_soon(autojump_clock):
    async with joined() as both:
        both.compositor.close()
        before = trio.current_time()
        await both.ended.wait()  # this client never closes
        took = trio.current_time() - before
        assert took == pytest.approx(limits.WAYLAND_LINGER_SECONDS)
        assert both.reason == "compositor closed"


async def test_what_was_sent_before_the_end_arrives():
    async with joined() as both:
        both.client.send(b"last words")
        both.client.shutdown(socket.SHUT_WR)
        assert (await receive(both.compositor)).data == b"last words"
        assert (await receive(both.compositor)).data == b""
        both.compositor.send(b"answer")
        both.compositor.close()
        assert (await receive(both.client)).data == b"answer"
        await both.ended.wait()
        assert both.reason == "client closed"


async def test_a_reset_is_no_end():
    async with joined() as both:
        both.compositor.send(b"never read")
        await trio.testing.wait_all_tasks_blocked()
        both.client.close()  # with unread bytes: the kernel says ECONNRESET
        await both.ended.wait()
        assert both.reason != "client closed"


class Refusing:
    """A core that answers a side itself, then refuses."""

    def __init__(self):
        self.seen = []

    def receive(self, side, untrusted_data, fds):
        self.seen.append((side, untrusted_data))
        if untrusted_data == b"bad":
            fdpass.close_all(fds)
            raise PeerError("bad request")
        return [Packet(side, b"your turn", fds)]


async def test_another_core_may_answer_and_refuse():
    core = Refusing()
    async with joined(core) as both:
        both.client.send(b"good")
        assert (await receive(both.client)).data == b"your turn"
        with open("/dev/null") as null:
            fdpass.send(both.client, b"bad", [null.fileno()])
        await both.ended.wait()
        assert both.reason == "bad request"
        assert core.seen == [(Side.CLIENT, b"good"), (Side.CLIENT, b"bad")]


async def test_cancelled_in_the_middle_leaves_nothing_open():
    with open("/dev/null") as null:
        async with joined() as both:
            both.client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    fdpass.send(both.client, b"x" * 8192, [null.fileno()] * 2)
                    await trio.lowlevel.checkpoint()


class Counting(Forward):
    """Notes the size of each read."""

    def __init__(self):
        self.reads = []

    def receive(self, side, untrusted_data, fds):
        self.reads.append(len(untrusted_data))
        return super().receive(side, untrusted_data, fds)


@pytest.mark.parametrize("over", [0, 1])
async def test_one_read_takes_so_much_and_no_more(over):
    most = limits.WAYLAND_READ_BYTES
    core = Counting()
    async with joined(core) as both:
        assert both.client.send(b"x" * (most + over)) == most + over
        seen = 0
        while seen < most + over:
            seen += len((await receive(both.compositor)).data)
    assert core.reads == [most, 1][: 1 + over]
