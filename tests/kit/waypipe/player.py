"""Plays a recorded stream into a real waypipe client, in front of a mute compositor.

A client in Rust keeps account of Wayland's objects and ends a stream that makes
one again before the compositor has deleted the old one.  A recording gets no
answers, so here the stream stops before each block that uses an id again, and the
compositor sends only that event (``wl_display.delete_id``).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.jail.wayland.protocol import wire
from broker.jail.wayland.protocol.signatures import requests_of
from broker.jail.wayland.protocol.tables import INTERFACES
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.header import HEADER_BYTES
from broker.wire import fdpass

CLIENT = ("waypipe", "--compress", "none", "--no-gpu")
_VERSION_BITS = 0x00FF0078
_SIXTEEN = 1 << 16
_DISPLAY, _DELETE_ID = 1, 1


@dataclass
class Step:
    """Blocks that may be sent when ``again`` are gone and ``asked`` bytes have come."""

    again: list[int]
    asked: int
    data: bytearray = field(default_factory=bytearray)


def at_sixteen(stream: bytes) -> bytes:
    """The stream with the version in its header at which it was recorded.

    Our end is silent, so a server that offers 17 speaks 16 with it.  A client
    that takes the offer would refuse the acknowledgements that come then.
    """
    (word,) = struct.unpack_from("<I", stream)
    return struct.pack("<I", word & ~_VERSION_BITS | _SIXTEEN) + stream[4:]


def _blocks(stream: bytes | bytearray, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Kind and bytes of every whole block."""
    while at + 4 <= len(stream):
        (word,) = struct.unpack_from("<I", stream, at)
        whole = (word >> 5) + 3 & ~3
        if at + whole > len(stream):
            return
        yield word & 31, bytes(stream[at : at + whole])
        at += whole


def _body(block: bytes) -> bytes:
    return block[4 : int.from_bytes(block[:4], "little") >> 5]


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        oid, word = struct.unpack_from("<II", data, at)
        size = word >> 16
        yield oid, word & 0x7FF, data[at : at + size]
        at += size


class _Objects:
    """Ids in use, by what a client has asked for."""

    def __init__(self) -> None:
        self._interfaces = {_DISPLAY: "wl_display"}

    def made_by(self, oid: int, opcode: int, message: bytes) -> Iterator[int]:
        """The ids that a request uses for new objects."""
        interface = self._interfaces.get(oid, "")
        if interface not in INTERFACES:
            return
        request = requests_of(interface)[opcode]
        args = wire.decode(request, message, 8, len(message))
        for argument, value in zip(request.args, args, strict=True):
            if argument.kind == "n":
                made = argument.interface
                if request.name == "bind":
                    made = args[1].decode()
                self._interfaces[value] = made
                yield value


def steps(stream: bytes) -> list[Step]:
    """The stream, cut before each block that uses ids again."""
    objects, used, asked = _Objects(), set[int](), 0
    found = [Step([], 0, bytearray(stream[:HEADER_BYTES]))]
    for kind, block in _blocks(stream, HEADER_BYTES):
        if kind == BlockKind.PROTOCOL:
            body = _body(block)
            made = [rid for said in _messages(body) for rid in objects.made_by(*said)]
            assert len(set(made)) == len(made), "used again within a block"
            if again := [rid for rid in made if rid in used]:
                found.append(Step(again, asked))
            used |= set(made)
            asked += len(body)
        found[-1].data += block
    return found


class Player:
    """``requests`` and ``fds`` are what the client has asked the compositor so far."""

    def __init__(self, server: trio.SocketStream, display: socket.socket) -> None:
        self._server, self._display = server, display
        self._compositor: socket.socket
        self.requests = bytearray()
        self.fds: list[int] = []
        self._gone: set[int] = set()
        self._changed = trio.Event()

    async def play(self, stream: bytes, want: int) -> None:
        """Send the stream; returns when ``want`` bytes of requests have come."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._hear)
            for step in steps(stream):
                await self._until_asked(step.asked)
                await self._forget(step.again)
                await self._server.send_all(step.data)
            await self._until_asked(want)
            nursery.cancel_scope.cancel()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until_asked(self, count: int) -> None:
        while len(self.requests) < count:
            await self._changed.wait()

    async def _forget(self, ids: Sequence[int]) -> None:
        """Let the client hear that objects are gone, and wait until it has passed that on."""
        self._gone.clear()
        for rid in ids:
            said = struct.pack("<IHHI", _DISPLAY, _DELETE_ID, 12, rid)
            self._compositor.sendall(said)
        while not self._gone >= set(ids):
            await self._changed.wait()

    async def _listen(self) -> None:
        """Collect the client's requests and descriptors for its compositor."""
        with await self._connection() as self._compositor:
            while True:
                await trio.lowlevel.wait_readable(self._compositor)
                got = fdpass.receive(self._compositor, 65536, 28)
                assert got.data, f"the client left after {len(self.requests)} bytes"
                self.requests += got.data
                self.fds += got.fds
                self._tell()

    async def _connection(self) -> socket.socket:
        """Return the first connection with data: a client in C makes one on trial."""
        while True:
            await trio.lowlevel.wait_readable(self._display)
            compositor, _ = self._display.accept()
            compositor.settimeout(0)
            await trio.lowlevel.wait_readable(compositor)
            if compositor.recv(1, socket.MSG_PEEK):
                return compositor
            compositor.close()

    async def _hear(self) -> None:
        """Read the messages that the client sends back; only ``delete_id`` is used."""
        heard = bytearray()
        async for data in self._server:
            heard += data
            for kind, block in list(_blocks(heard)):
                del heard[: len(block)]
                if kind == BlockKind.PROTOCOL:
                    for oid, opcode, message in _messages(_body(block)):
                        if (oid, opcode) == (_DISPLAY, _DELETE_ID):
                            self._gone.add(*struct.unpack_from("<I", message, 8))
            self._tell()


async def played(
    stream: bytes, want: int, client: Sequence[str], base: Path
) -> tuple[bytes, list[int]]:
    """Play a stream into a client, whose command ``client`` begins.

    ``base`` is a directory that it sees, too.  Returns the requests, of which
    ``want`` bytes are awaited, and the descriptors that came with them, which
    are the caller's to close.
    """
    with socket.socket(socket.AF_UNIX) as display:
        display.bind(str(base / "wayland-0"))
        display.listen()
        display.settimeout(0)
        child = spawn(
            [*client, "-s", base / "s", "client"],
            env={
                "PATH": os.environ["PATH"],
                "XDG_RUNTIME_DIR": str(base),
                "WAYLAND_DISPLAY": "wayland-0",
            },
            stderr=DEVNULL,
        )
        try:
            async with await _open(base / "s") as server:
                player = Player(server, display)
                await player.play(stream, want)
                return bytes(player.requests), player.fds
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()


async def _open(path: Path) -> trio.SocketStream:
    while True:
        try:
            return await trio.open_unix_socket(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            await trio.sleep(0.01)  # it is not there yet, or not listening
