"""A worker's part of notifications: frames, answers, ends.

Icons in the panel, which have the same part, are in ``tests/attack/test_sandbox_icons.py``.
"""

from __future__ import annotations

import socket

import msgspec
import pytest
import trio

from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import notifications as limits
from broker.ipc import transfer as m
from broker.ipc.guest.daemons import (
    DaemonShow,
    NotificationAction,
    NotificationClosed,
    ToDaemon,
)
from broker.jail.worker.daemon_stream import DaemonStream


class Talk:
    def __init__(self, sock, orders, said):
        self.sock, self.orders, self.said = sock, orders, said
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.moved = [0, 0]
        self.ended = ""
        self.over = trio.Event()

    def count(self, received, sent):
        self.moved = [self.moved[0] + received, self.moved[1] + sent]

    async def send(self, *asks):
        frames = (
            encode_frame(msgspec.json.encode(a), limits.DAEMON_FRAME_BYTES)
            for a in asks
        )
        await self.stream.send_all(b"".join(frames))

    def answer(self, answer):
        self.orders.send_nowait(m.StreamTell(1, answer))


@pytest.fixture
async def talk(nursery):
    mine, theirs = socket.socketpair()
    theirs.settimeout(0)
    say, said = trio.open_memory_channel(1000)
    put, orders = trio.open_memory_channel(1000)
    made = Talk(mine, put, said)
    with theirs:
        sock = trio.socket.from_stdlib_socket(theirs)
        stream = DaemonStream(1, sock, say.send, orders.receive, made.count)

        async def run():
            made.ended = await stream.run()
            made.over.set()

        nursery.start_soon(run)
        yield made
        await made.stream.aclose()


async def test_messages_go_both_ways(talk):
    ask = DaemonShow(1, "s", "b", 2, [("k", "l")], 5)
    await talk.send(ask)
    assert await talk.said.receive() == m.StreamSaid(1, ask)
    answers = [NotificationAction(1, "k"), NotificationClosed(1, 2)]
    for answer in answers:
        talk.answer(answer)
    reader, got = FrameReader(limits.DAEMON_FRAME_BYTES), []
    while len(got) < 2:
        data = await talk.stream.receive_some(1000)
        got += [msgspec.json.decode(b, type=ToDaemon) for b in reader.feed(data)]
    assert got == answers
    talk.orders.send_nowait(m.DaemonMore(1))
    await talk.stream.send_eof()
    await talk.over.wait()
    assert talk.ended == "the program closed the connection"
    assert min(talk.moved) > 0


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\1\0\0\0{",
        encode_frame(b'{"type":"closed","number":1,"reason":1}', 1000),
    ],
)
async def test_what_is_no_message_ends_the_connection(talk, data):
    await talk.stream.send_all(data)
    await talk.over.wait()
    assert talk.ended
    assert talk.said.statistics().current_buffer_used == 0


async def test_a_message_that_never_ends_is_not_waited_for(talk, autojump_clock):
    await talk.stream.send_all(b"\x10\0\0\0{")
    await talk.over.wait()
    assert "did not finish a message" in talk.ended
    assert trio.current_time() >= limits.SILENT_SECONDS


async def test_silence_between_messages_is_no_fault(talk, autojump_clock):
    await trio.sleep(10 * limits.SILENT_SECONDS)
    await talk.send(DaemonShow(1, "s"))
    assert isinstance(await talk.said.receive(), m.StreamSaid)


async def test_a_daemon_that_reads_nothing_is_given_up(talk, autojump_clock):
    talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(1, 10_000):
        talk.answer(NotificationClosed(number, 1))
        await trio.lowlevel.checkpoint()
        if talk.over.is_set():
            break
    assert "does not read" in talk.ended
