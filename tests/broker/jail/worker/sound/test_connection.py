"""The sockets around a sound filter: order, back-pressure, ends."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import SoundRules
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, Command
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.sound.tagstruct import encode
from broker.jail.worker.sound.connection import PulseConnection
from tests.kit.eventually import eventually
from tests.kit.sound.talk import Peer, Server, open_playback

C = Command


@asynccontextmanager
async def playing(credit: int):
    """A client and a server with a stream (channel 0) through a connection."""
    pairs = [socket.socketpair() for _ in range(2)]
    with pairs[0][1], pairs[1][0], trio.fail_after(60):
        sandbox = SoundSandbox(SoundRules("work"), lambda _event: None)
        mine = PulseConnection(pairs[0][1], pairs[1][0], sandbox, bytes(256))

        async def serve() -> None:
            await mine.run()
            for sock in (pairs[0][1], pairs[1][0]):
                sock.close()  # as the task that serves a connection does

        client, server = Peer(pairs[0][0]), Peer(pairs[1][1])
        model = Server()
        model.first_request = credit
        async with trio.open_nursery() as nursery, client.stream, server.stream:
            nursery.start_soon(serve)
            await open_playback(client, server, model)
            yield client, server, mine
            nursery.cancel_scope.cancel()


async def test_samples_keep_their_order_behind_a_server_that_reads_late():
    count, size = 400, 4096
    async with playing(credit=count * size) as (client, server, mine):
        sent = [bytes([n % 256]) * size for n in range(count)]

        async def send() -> None:
            for data in sent:
                await client.stream.send_all(frames.samples(0, data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            # Nothing more is read of the client while so much waits.
            await eventually(lambda: len(mine.core.up) > limits.PULSE_QUEUE_BYTES)
            for _ in range(50):  # as often as something could still be read
                await trio.sleep(0.002)
            got = b""
            while len(got) < count * size:
                assert len(mine.core.up) <= limits.PULSE_QUEUE_BYTES + 65536 + 20
                part = await server.frame()
                assert isinstance(part, frames.Samples)
                got += part.data
        assert got == b"".join(sent)
        assert mine.core.fault is None


async def test_requests_keep_their_order_before_a_client_that_reads_late():
    async with playing(credit=0) as (client, server, mine):
        asked = [4 * n for n in range(1, 20001)]

        async def ask() -> None:
            for count in asked:
                fields = encode("LL", [0, count])
                await server.stream.send_all(frames.command(C.REQUEST, INVALID, fields))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(
                lambda: len(mine.core.down.data) > limits.PULSE_QUEUE_BYTES
            )
            for _ in range(50):  # as often as something could still be read
                await trio.sleep(0.002)
            most = limits.PULSE_QUEUE_BYTES + 65536 + 40
            for count in asked:
                assert len(mine.core.down.data) <= most
                body = (await client.frame()).body
                assert frames.head(body)[0] == C.REQUEST
                assert body[frames.HEAD_BYTES :] == encode("LL", [0, count])
        assert mine.core.playbacks[0].credit == sum(asked)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_the_end_of_one_side_ends_the_other(side):
    async with playing(credit=1 << 20) as (client, server, mine):
        gone, left = (client, server) if side == "client" else (server, client)
        await gone.stream.aclose()
        while await left.stream.receive_some(65536):
            pass
        assert mine.core.fault is None or side == "server"


async def test_the_server_learns_who_we_are_even_when_it_asks_late():
    pairs = [socket.socketpair() for _ in range(2)]
    with pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1], trio.fail_after(60):
        sandbox = SoundSandbox(SoundRules("work"), lambda _event: None)
        mine = PulseConnection(pairs[0][1], pairs[1][0], sandbox, bytes(256))
        client, server = Peer(pairs[0][0]), pairs[1][1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.run)
            await client.say(C.AUTH, encode("Lx", [35, bytes(256)]))
            await trio.lowlevel.wait_readable(server)
            # Only now, as a pulseaudio that accepts slowly.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            data, words, _, _ = server.recvmsg(4096, 1024)
            nursery.cancel_scope.cancel()
    assert data
    ((level, kind, who),) = words
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    who_pid, uid, gid = struct.unpack("iII", who)
    assert (who_pid, uid, gid) == (os.getpid(), os.getuid(), os.getgid())
