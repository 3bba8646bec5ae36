"""The agent's connection: deadlines, order of messages, hostile frames."""

from __future__ import annotations

import socket
import time
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from broker.core import limits
from broker.core.framing import HEADER, FrameReader, encode_frame
from broker.ipc import agent
from broker.jail.worker.agent_connection import AgentShell

HELLO = agent.AgentHello(version=1, waypipe="0.8.4", kernel="6.1")


def frame(message):
    return encode_frame(agent.encode(message), limits.AGENT_FRAME_BYTES)


class Guest:
    """The other end, and what the shell delivered and returned."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.sock = trio.socket.from_stdlib_socket(theirs)
        self.got = []
        self.reason = None
        self.ended = trio.Event()
        self.shell = AgentShell(ours, self.take, serving="1f", displays=lambda: 3)

    async def take(self, message):
        self.got.append(message)

    async def run(self):
        self.reason = await self.shell.run()
        self.ended.set()

    async def send(self, data):
        left = memoryview(data)
        while left:
            left = left[await self.sock.send(left) :]


@asynccontextmanager
async def guest():
    async with trio.open_nursery() as nursery:
        made = Guest()
        nursery.start_soon(made.run)
        yield made
        made.sock.close()
        nursery.cancel_scope.cancel()


async def test_messages_arrive_in_order_whatever_the_chunks(autojump_clock):
    stream = frame(HELLO) + frame(agent.AgentStarted(program=1))
    for size in (1, 7, len(stream)):
        async with guest() as peer:
            for start in range(0, len(stream), size):
                await peer.send(stream[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
            peer.sock.close()
            await peer.ended.wait()
            assert peer.got == [HELLO, agent.AgentStarted(program=1)]
            assert peer.reason == "the guest agent closed the connection"


async def test_silence_ends_it(autojump_clock):
    async with guest() as peer:
        before = trio.current_time()
        await peer.ended.wait()
        assert trio.current_time() - before == pytest.approx(
            limits.AGENT_FIRST_FRAME_SECONDS
        )
        assert peer.reason == "the guest agent sent no message in time"


async def test_a_slow_first_message_has_the_same_deadline(autojump_clock):
    async with guest() as peer:
        before = trio.current_time()
        for byte in frame(HELLO):
            with trio.move_on_after(1):
                await peer.ended.wait()
            if peer.ended.is_set():
                break
            await peer.send(bytes([byte]))
        took = trio.current_time() - before
        assert took == pytest.approx(limits.AGENT_FIRST_FRAME_SECONDS)
        assert peer.got == []


async def test_one_byte_a_minute_ends_it_later_too(autojump_clock):
    async with guest() as peer:
        await peer.send(frame(HELLO))
        await trio.sleep(3600)  # an idle agent is a good agent
        assert not peer.ended.is_set()
        before = trio.current_time()
        await peer.send(frame(agent.AgentStarted(program=1))[:1])
        await trio.sleep(limits.AGENT_FRAME_SECONDS - 1)
        await peer.send(frame(agent.AgentStarted(program=1))[1:2])
        await peer.ended.wait()
        took = trio.current_time() - before
        assert took == pytest.approx(limits.AGENT_FRAME_SECONDS)
        assert peer.reason == "the guest agent did not finish a message in time"


HOSTILE = [
    pytest.param(
        frame(agent.AgentStarted(program=1)), "is not AgentHello", id="no-hello"
    ),
    pytest.param(frame(HELLO) * 2, "AgentHello twice", id="hello-twice"),
    pytest.param(HEADER.pack(0), "announces 0 bytes", id="empty-frame"),
    pytest.param(
        HEADER.pack(limits.AGENT_FRAME_BYTES + 1), "announces", id="frame-too-long"
    ),
    pytest.param(HEADER.pack(2) + b"{}", "invalid message", id="no-type"),
    pytest.param(HEADER.pack(4) + b"\xff" * 4, "invalid message", id="no-json"),
    pytest.param(
        encode_frame(b'{"type":"run","program":1,"argv":[]}', 100),
        "invalid message",
        id="an-order",
    ),
]


@pytest.mark.parametrize(("stream", "reason"), HOSTILE)
async def test_an_error_ends_the_connection(stream, reason):
    async with guest() as peer:
        await peer.send(stream)
        await peer.ended.wait()
        assert reason in peer.reason


async def test_an_end_inside_a_message_says_so():
    async with guest() as peer:
        await peer.send(frame(HELLO)[:-1])
        peer.sock.close()
        await peer.ended.wait()
        assert peer.reason == "the guest agent closed the connection inside a message"


async def test_the_longest_message_passes():
    async with guest() as peer:
        body = agent.encode(HELLO)
        body += b" " * (limits.AGENT_FRAME_BYTES - len(body))
        await peer.send(encode_frame(body, limits.AGENT_FRAME_BYTES))
        await peer.send(frame(agent.AgentStarted(program=1)))
        peer.sock.shutdown(socket.SHUT_WR)
        await peer.ended.wait()
        assert len(peer.got) == 2


async def test_orders_go_out_in_frames():
    async with guest() as peer:
        order = agent.Run(program=1, argv=["foot"])
        peer.shell.send_nowait(order)
        data = await peer.sock.recv(65536)
        assert msgspec.json.decode(data[HEADER.size :], type=agent.ToGuest) == order


async def test_a_guest_that_does_not_read_is_given_up(autojump_clock):
    async with guest() as peer:
        await peer.send(frame(HELLO))
        order = agent.Run(program=1, argv=["x" * 60000])
        before = trio.current_time()
        for _ in range(limits.WORKER_QUEUE):
            peer.shell.send_nowait(order)
        with pytest.raises(trio.WouldBlock):
            peer.shell.send_nowait(order)
        await peer.ended.wait()
        took = trio.current_time() - before
        assert took == pytest.approx(limits.AGENT_FRAME_SECONDS)
        assert peer.reason == "the guest agent did not read a message within 10 s"


async def test_a_fast_guest_waits(autojump_clock):
    more = 100
    async with guest() as peer:
        before = trio.current_time()
        count = limits.AGENT_MESSAGES_BURST + more
        await peer.send(
            frame(HELLO) + frame(agent.AgentStarted(program=1)) * (count - 1)
        )
        peer.sock.shutdown(socket.SHUT_WR)
        await peer.ended.wait()
        assert len(peer.got) == count
        took = trio.current_time() - before
        assert took == pytest.approx(more / limits.AGENT_MESSAGES_PER_SECOND, abs=0.1)


async def pings(version, seconds):
    """What the agent of that version is told in so many seconds."""
    told = []
    async with guest() as peer:
        await peer.send(frame(agent.AgentHello(version=version, waypipe="", kernel="")))
        reader = FrameReader(limits.AGENT_FRAME_BYTES)
        with trio.move_on_after(seconds):
            while True:
                for body in reader.feed(await peer.sock.recv(65536)):
                    told.append(msgspec.json.decode(body, type=agent.ToGuest))
    return told


async def test_the_agent_is_pinged_from_its_hello_on(autojump_clock):
    told = await pings(2, 3.5 * limits.AGENT_PING_SECONDS)
    assert told == [agent.AgentPing("1f", 3)] * 4


async def test_pings_carry_the_time_to_agents_that_know_it(autojump_clock):
    start_ns = time.time_ns()
    (ping, *_) = await pings(agent.TIMED_VERSION, 1)
    assert start_ns <= ping.time <= time.time_ns()
    (ping, *_) = await pings(agent.TIMED_VERSION - 1, 1)
    assert b"time" not in agent.encode(ping)


async def test_an_older_agent_is_not_pinged(autojump_clock):
    assert await pings(1, 60) == []
