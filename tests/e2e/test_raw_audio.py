"""``audio = "raw"`` over the link: every byte arrives, and status warns."""

from __future__ import annotations

import hashlib
import shutil
import socket
import struct
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from broker.helpers.process.spawn import spawn
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.shared import Shared
from tests.kit.world import record

MEGABYTES = 16
# Sends so much that nothing on the way can hold it, then reads as much back.
BULK = f"""
import hashlib, os, socket, threading
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["XDG_RUNTIME_DIR"] + "/pulse/native")
sent, got, size = hashlib.sha256(), hashlib.sha256(), {MEGABYTES} << 20
def send():
    for number in range(size >> 16):
        block = number.to_bytes(8, "big") * (1 << 13)
        sent.update(block)
        sock.sendall(block)
sender = threading.Thread(target=send)
sender.start()
left = size
while left:
    data = sock.recv(1 << 16)
    assert data, left
    got.update(data)
    left -= len(data)
sender.join()
assert sent.digest() == got.digest()
print(sent.hexdigest())
"""
# AUTH of libpulse 16: protocol 35, no shared memory, an empty cookie.
AUTH = b"L" + struct.pack(">I", 8) + b"L" + struct.pack(">I", 1)
AUTH += b"L" + struct.pack(">I", 35) + b"x" + struct.pack(">I", 256) + bytes(256)
PACKET = struct.pack(">5I", len(AUTH), 0xFFFFFFFF, 0, 0, 0) + AUTH
ASK = f"""
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["XDG_RUNTIME_DIR"] + "/pulse/native")
sock.sendall(bytes.fromhex("{PACKET.hex()}"))
print(sock.recv(1000).hex())
"""
RAW = record("persistent", top='audio = "raw"\n')
linked = Shared(partial(two, {"app": RAW}))
"""Two brokers and their machine; each test has a sound server of its own, or none."""


@asynccontextmanager
async def echo(path):
    """A sound server that repeats all bytes; the digest of those that it received."""
    heard = hashlib.sha256()

    async def serve(stream):
        async with stream:
            async for data in stream:
                heard.update(data)
                await stream.send_all(data)

    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(8)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield heard
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@linked.test
async def test_all_bytes_arrive_and_status_warns(t):
    place = t.viewer.paths.runtime.parent / "pulse/native"
    async with echo(place) as heard:
        code, said = await t.viewer.output("app", "python3", "-c", BULK)
        assert code == 0, said.decode()
        assert said.decode().strip() == heard.hexdigest()
    for side in (t.host, t.viewer):
        closed = await side.wait_event("stream.closed", service="vitrail.Audio")
        assert closed["bytes_from_sandbox"] == MEGABYTES << 20
        assert closed["bytes_to_sandbox"] == MEGABYTES << 20
    status = await t.viewer.status()
    assert [w for w in status.warnings if w.startswith('app: audio = "raw"')]

    # Without a server there is a reason, and an end for the program.
    place.unlink()
    code, said = await t.viewer.output("app", "python3", "-c", BULK)
    assert code == 1
    refused = await t.viewer.wait_event("stream.refused", service="vitrail.Audio")
    assert str(place) in refused["reason"]

    # And the record is read for each stream.
    t.viewer.write_record("app", record("persistent"))
    place.parent.rmdir()
    async with echo(place) as heard:
        code, _ = await t.viewer.output("app", "python3", "-c", BULK)
        assert code == 1
        assert heard.digest() == hashlib.sha256().digest()
    denied = t.viewer.events("decision", service="vitrail.Audio", verdict="deny")
    assert 'audio = "none"' in denied[-1]["reason"]
    t.viewer.write_record("app", RAW)
    place.unlink()
    place.parent.rmdir()


@pytest.mark.slow
@pytest.mark.machine
@linked.test
async def test_a_real_sound_server_answers_a_program_in_the_machine(t):
    tools = [shutil.which(name) for name in ("pipewire", "pipewire-pulse")]
    if None in tools:
        pytest.skip("pipewire-pulse is not installed")
    children = [spawn([tool], env=t.viewer.environ) for tool in tools]
    try:
        place = t.viewer.paths.runtime.parent / "pulse/native"

        async def listens():
            return place.exists()

        await eventually(listens)
        code, said = await t.viewer.output("app", "python3", "-c", ASK)
    finally:
        with trio.CancelScope(shield=True):
            for child in reversed(children):
                await child.stop()
    assert code == 0, said.decode()
    reply = bytes.fromhex(said.decode())[20:]
    # A reply (2) to request 1, and the server's version.
    assert reply[:10] == b"L" + struct.pack(">I", 2) + b"L" + struct.pack(">I", 1)
    assert struct.unpack(">I", reply[11:15])[0] & 0xFFFF == 35
