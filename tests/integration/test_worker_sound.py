"""Sound in a real worker, inside all of its walls."""

from __future__ import annotations

import socket

import trio

from broker.core.streams.sound_rules import Level, SoundRules
from broker.ipc import worker as messages
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, Command
from broker.jail.sound.tagstruct import encode
from tests.integration.test_worker import a_worker
from tests.kit.sound.talk import Peer, Server, open_playback
from tests.kit.wayland.compositor import short_directory

C = Command
RULES = messages.Sound(SoundRules("work", streams=8, idle_seconds=10), Level())


async def play(worker, number):
    """A stream from a client through the worker to a server; ends its client."""
    near, far = [socket.socketpair() for _ in range(2)]
    given = [near[1], far[0]]
    await worker.send(messages.SoundStream(number), [sock.fileno() for sock in given])
    for sock in given:
        sock.close()
    client, server, model = Peer(near[0]), Peer(far[1]), Server()
    model.first_request = 960
    async with client.stream, server.stream:
        await open_playback(client, server, model)
        for turn in range(200):
            data = bytes([turn]) * 960
            await client.stream.send_all(frames.samples(0, data))
            got = b""
            while len(got) < len(data):
                got += (await server.frame()).data
            assert got == data
            request = frames.command(C.REQUEST, INVALID, encode("LL", [0, 960]))
            await server.stream.send_all(request)
            assert frames.head((await client.frame()).body)[0] == C.REQUEST


async def test_streams_pass_a_jailed_worker_at_the_same_time():
    with short_directory() as directory, trio.fail_after(120):
        async with a_worker(directory) as worker:
            await worker.send(RULES)
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(play, worker, number)
            await play(worker, 4)
            await worker.send(messages.StopWorker())
            assert await worker.wait_closed() == "its process ended with code 0"
