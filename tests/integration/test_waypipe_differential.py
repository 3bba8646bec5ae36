"""Recorded streams of real servers, played into our end and into the real client.

Both must make the same of them: the same requests, byte for byte, and the
same bytes in every pool.  The real client's compositor is a socket that
listens and says nothing, which is enough, as a recording needs no answers.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
import trio

from broker.core import fdpass
from broker.launch.spawn import DEVNULL, spawn
from broker.session.waypipe_memory import StreamFile, StreamMachine
from broker.waypipe.channel import Channel, Messages
from tests.kit.compositor import short_directory
from tests.kit.waypipe_record import CORPUS, load

STREAMS = sorted(path.stem for path in CORPUS.glob("*.stream"))


def ours(stream: bytes) -> tuple[bytes, list[str]]:
    """Requests and hashes of pools, as our end decodes them."""
    machine = StreamMachine()
    channel = Channel(machine)
    channel._sent = 1 << 20  # what the recording acknowledges was said to another
    requests, files = b"", []
    while stream:
        with channel.room() as room:
            piece = stream[: min(len(room), 10_000)]
            room[: len(piece)] = piece
        channel.filled(len(piece))
        stream = stream[len(piece) :]
        worked = channel.begin()
        while worked:
            worked, event = channel.next()
            if isinstance(event, Messages):
                requests += event.data
                files += [fd for fd in event.fds if isinstance(fd, StreamFile)]
    hashes = [hashlib.sha256(file.view).hexdigest() for file in files]
    for file in files:
        file.give_up()
    channel.close()
    assert machine.touched == 0
    return requests, hashes


async def theirs(stream: bytes, want: int) -> tuple[bytes, list[str]]:
    """The same from ``waypipe client``; ``want`` bytes of requests are awaited."""
    with short_directory() as base, socket.socket(socket.AF_UNIX) as display:
        display.bind(str(base / "wayland-0"))
        display.listen()
        display.settimeout(0)
        client = spawn(
            ["waypipe", "--compress", "none", "--no-gpu", "-s", base / "s", "client"],
            env={
                "PATH": os.environ["PATH"],
                "XDG_RUNTIME_DIR": str(base),
                "WAYLAND_DISPLAY": "wayland-0",
            },
            stderr=DEVNULL,
        )
        try:
            with trio.fail_after(30):
                return await _played(stream, want, base / "s", display)
        finally:
            await client.stop()


async def _played(
    stream: bytes, want: int, path: Path, display: socket.socket
) -> tuple[bytes, list[str]]:
    # The client's own trial connection to its compositor comes first.
    await trio.lowlevel.wait_readable(display)
    display.accept()[0].close()
    while not path.exists():
        await trio.sleep(0.01)
    server = await trio.open_unix_socket(str(path))
    requests, fds = b"", []
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, stream)
        await trio.lowlevel.wait_readable(display)
        compositor, _ = display.accept()
        with compositor:
            compositor.settimeout(0)
            while len(requests) < want:
                await trio.lowlevel.wait_readable(compositor)
                got = fdpass.receive(compositor, 65536, 28)
                if not got.data:
                    break
                requests += got.data
                fds += got.fds
        nursery.cancel_scope.cancel()
    hashes = [_hash(fd) for fd in fds]
    for fd in fds:
        os.close(fd)
    return requests, hashes


def _hash(fd: int) -> str:
    digest = hashlib.sha256()
    position = 0
    while piece := os.pread(fd, 1 << 24, position):
        digest.update(piece)
        position += len(piece)
    return digest.hexdigest()


def test_there_are_streams_of_every_server():
    assert {"foot", "foot-0.9", "foot-0.11"} <= set(STREAMS)


@pytest.mark.parametrize("name", STREAMS)
async def test_both_ends_make_the_same_of_a_stream(name):
    stream = load(CORPUS / f"{name}.stream")
    requests, pools = ours(stream)
    assert pools, "the recording shows a window"
    real_requests, real_pools = await theirs(stream, len(requests))
    assert real_requests == requests
    assert real_pools == pools
