"""The sockets around a sound filter: order, back-pressure, ends."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core import limits
from broker.pulse import frames
from broker.pulse.commands import INVALID, Command
from broker.pulse.rules import SoundRules
from broker.pulse.sandbox import SoundSandbox
from broker.pulse.tagstruct import encode
from broker.session.pulse_shell import Connection
from tests.kit.sound_talk import Said, Server, create_playback

C = Command


class Peer:
    """One end of a connection, a frame at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.cutter = frames.Cutter(1 << 20)
        self.tag = 0

    async def frame(self):
        while (found := self.cutter.next()) is None:
            data = await self.stream.receive_some(65536)
            assert data, "it has ended"
            self.cutter.push(data)
        return found

    async def say(self, command, fields=b""):
        self.tag += 1
        await self.stream.send_all(frames.command(command, self.tag, fields))


@asynccontextmanager
async def playing(credit: int):
    """A client and a server with a stream (channel 0) through a connection."""
    pairs = [socket.socketpair() for _ in range(2)]
    with pairs[0][1], pairs[1][0], trio.fail_after(60):
        sandbox = SoundSandbox(SoundRules("work"), lambda _event: None)
        mine = Connection(pairs[0][1], pairs[1][0], sandbox, bytes(256))
        client, server = Peer(pairs[0][0]), Peer(pairs[1][1])
        model = Server()
        model.first_request = credit
        async with trio.open_nursery() as nursery, client.stream, server.stream:
            nursery.start_soon(mine.run)
            for command, fields in (
                (C.AUTH, encode("Lx", [35, bytes(256)])),
                (C.SET_CLIENT_NAME, encode("P", [{}])),
                (C.CREATE_PLAYBACK_STREAM, create_playback()),
            ):
                await client.say(command, fields)
                body = (await server.frame()).body
                number, tag = frames.head(body)
                said = Said(Command(number), tag, body[frames.HEAD_BYTES :])
                await server.stream.send_all(model.answer(said))
                assert frames.head((await client.frame()).body)[0] == C.REPLY
            yield client, server, mine
            nursery.cancel_scope.cancel()


async def test_samples_keep_their_order_behind_a_server_that_reads_late():
    count, size = 400, 4096
    async with playing(credit=count * size) as (client, server, mine):
        sent = [bytes([n % 256]) * size for n in range(count)]
        waits = trio.Event()

        async def send() -> None:
            for data in sent:
                await client.stream.send_all(frames.samples(0, data))

        async def look() -> None:
            # Nothing more is read of the client while so much waits.
            while len(mine.core.up) <= limits.PULSE_QUEUE_BYTES:
                await trio.sleep(0.01)
            waits.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(look)
            await waits.wait()
            got = b""
            while len(got) < count * size:
                part = await server.frame()
                assert isinstance(part, frames.Samples)
                got += part.data
        assert got == b"".join(sent)
        assert len(mine.core.up) <= limits.PULSE_QUEUE_BYTES + 65536 + 20
        assert mine.core.fault is None


async def test_requests_keep_their_order_before_a_client_that_reads_late():
    async with playing(credit=0) as (client, server, mine):
        asked = [4 * n for n in range(1, 20001)]
        waits = trio.Event()

        async def ask() -> None:
            for count in asked:
                fields = encode("LL", [0, count])
                await server.stream.send_all(frames.command(C.REQUEST, INVALID, fields))

        async def look() -> None:
            while not mine.core.down.data:
                await trio.sleep(0.01)
            waits.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(look)
            await waits.wait()
            for count in asked:
                body = (await client.frame()).body
                assert frames.head(body)[0] == C.REQUEST
                assert body[frames.HEAD_BYTES :] == encode("LL", [0, count])
        assert mine.core.playbacks[0].credit == sum(asked)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_the_end_of_one_side_ends_the_other(side):
    async with playing(credit=1 << 20) as (client, server, mine):
        gone, left = (client, server) if side == "client" else (server, client)
        await gone.stream.aclose()
        mine_over = trio.Event()

        async def over() -> None:
            while await left.stream.receive_some(65536):
                pass
            mine_over.set()

        async with trio.open_nursery() as nursery:
            while not mine._over.is_set():
                await trio.sleep(0.01)
            # Whoever serves the connection closes its sockets then.
            for sock in (mine._client, mine._server):
                sock.close()
            nursery.start_soon(over)
            await mine_over.wait()
