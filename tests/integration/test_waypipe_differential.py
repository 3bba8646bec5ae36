"""Recorded streams of real servers, played into our end and into the real client.

Both must make the same of them: the same requests, byte for byte, and the
same bytes in every pool.  The real client's compositor is a socket that
listens and says hardly anything (``tests.kit.waypipe.player``).
"""

from __future__ import annotations

import hashlib
import os

import pytest
import trio

from broker.jail.wayland.waypipe.channel import Messages, WaypipeChannel
from broker.jail.worker.wayland.waypipe_memory import StreamFile, StreamMachine
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import short_directory
from tests.kit.waypipe.player import CLIENT, at_sixteen, played
from tests.kit.waypipe.record import CORPUS, load

STREAMS = sorted(path.stem for path in CORPUS.glob("*.stream"))


def ours(stream: bytes) -> tuple[bytes, list[str]]:
    """Requests and hashes of pools, as our end decodes them."""
    machine = StreamMachine()
    channel = WaypipeChannel(machine)
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


async def theirs(stream: bytes, want: int, suite: str) -> tuple[bytes, list[str]]:
    """The same from a suite's client; ``want`` bytes of requests are awaited."""
    client = CLIENT
    with short_directory() as base:
        if suite:
            root = await trio.to_thread.run_sync(suite_root, suite)
            client = (*inside(root, str(base)), *CLIENT)
        with trio.fail_after(60):
            requests, fds = await played(stream, want, client, base)
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


async def same(name: str, suite: str) -> None:
    stream = load(CORPUS / f"{name}.stream")
    requests, pools = ours(stream)
    assert pools, "the recording shows a window"
    # At the version at which it was recorded, whatever the server had offered.
    real = await theirs(at_sixteen(stream), len(requests), suite)
    assert real == (requests, pools)


@pytest.mark.parametrize("name", STREAMS)
async def test_both_ends_make_the_same_of_a_stream(name):
    await same(name, "")


@pytest.mark.long
@pytest.mark.machine
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("suite", ["trixie", "sid"])
async def test_the_ends_of_newer_releases_make_the_same_of_a_stream(name, suite):
    """0.9.2, and 0.11 in Rust."""
    await same(name, suite)
