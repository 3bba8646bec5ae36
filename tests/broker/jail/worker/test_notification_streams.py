"""A worker's part of notifications: frames, pace, answers, ends."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import notifications as limits
from broker.ipc.desktop import notification as m
from broker.ipc.desktop.notification_guest import (
    DaemonShow,
    NotificationAction,
    NotificationClosed,
    ToDaemon,
)
from broker.jail.worker.notification_streams import WorkerNotifications


class Talk:
    def __init__(self, worker, said, sock, nursery):
        self.worker = worker
        self.said = said
        self.sock = sock
        self.nursery = nursery
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def send(self, *asks):
        frames = (
            encode_frame(msgspec.json.encode(a), limits.NOTIFICATION_FRAME_BYTES)
            for a in asks
        )
        await self.stream.send_all(b"".join(frames))

    def answer(self, answer, stream=1):
        order = m.NotificationAnswer(stream, answer)
        self.worker.obey(order, (), self.nursery)


@asynccontextmanager
async def talk():
    say, said = trio.open_memory_channel(1000)
    worker = WorkerNotifications(say.send)
    mine, theirs = socket.socketpair()
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            order = m.NotificationStream(1)
            worker.obey(order, (theirs.detach(),), nursery)
            made = Talk(worker, said, mine, nursery)
            async with made.stream:
                yield made
            nursery.cancel_scope.cancel()


async def test_messages_go_both_ways():
    async with talk() as it:
        ask = DaemonShow(1, "s", "b", 2, [("k", "l")], 5)
        await it.send(ask)
        assert await it.said.receive() == m.NotificationAsked(1, ask)
        answers = [NotificationAction(1, "k"), NotificationClosed(1, 2)]
        for answer in answers:
            it.answer(answer)
        reader, got = FrameReader(limits.NOTIFICATION_FRAME_BYTES), []
        while len(got) < 2:
            data = await it.stream.receive_some(1000)
            got += [msgspec.json.decode(b, type=ToDaemon) for b in reader.feed(data)]
        assert got == answers
        it.answer(answers[0], stream=9)  # it has ended meanwhile
        await it.stream.send_eof()
        closed = await it.said.receive()
        assert closed.reason == "it has closed the connection"
        assert closed.from_guest > 0
        assert closed.to_guest > 0


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\1\0\0\0{",
        encode_frame(b'{"type":"closed","number":1,"reason":1}', 1000),
    ],
)
async def test_what_is_no_message_ends_the_connection(data):
    async with talk() as it:
        await it.stream.send_all(data)
        assert isinstance(await it.said.receive(), m.NotificationStreamClosed)
        assert await it.stream.receive_some(10) == b""


async def test_a_message_that_never_ends_is_not_waited_for(autojump_clock):
    async with talk() as it:
        await it.stream.send_all(b"\x10\0\0\0{")
        closed = await it.said.receive()
        assert "does not end" in closed.reason
        assert trio.current_time() >= limits.SILENT_SECONDS


async def test_silence_between_messages_is_no_fault(autojump_clock):
    async with talk() as it:
        await trio.sleep(10 * limits.SILENT_SECONDS)
        await it.send(DaemonShow(1, "s"))
        assert isinstance(await it.said.receive(), m.NotificationAsked)


async def test_a_flood_waits_in_its_sender(autojump_clock):
    async with talk() as it:
        count = limits.MESSAGES_BURST + 100
        it.nursery.start_soon(it.send, *(DaemonShow(n + 1, "s") for n in range(count)))
        for _ in range(count):
            await it.said.receive()
        assert trio.current_time() >= 100 / limits.MESSAGES_PER_SECOND - 1


async def test_a_daemon_that_reads_nothing_is_given_up(autojump_clock):
    async with talk() as it:
        it.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for number in range(10_000):
            it.answer(NotificationClosed(number, 1))
            await trio.lowlevel.checkpoint()
            if it.said.statistics().current_buffer_used:
                break
        assert "does not read" in (await it.said.receive()).reason
