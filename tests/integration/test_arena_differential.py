"""The same programs through waypipe's server and through our own end with an arena.

Programs draw at random and report their drawing, with scales, all turns and mirrors,
viewports, several buffers in a pool that grows.  At each commit the buffer that it shows
has the program's own bytes, whichever end sent them.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.jail.wayland.waypipe.channel import Messages, WaypipeChannel
from broker.jail.worker.wayland.waypipe_memory import (
    ArenaFile,
    StreamFile,
    StreamMachine,
)
from tests.kit.wayland.compositor import short_directory
from tests.kit.waypipe.guest_end import arena, guest_end
from tests.kit.waypipe.stand import server_of

SEQUENCES, MANY, COMMITS = 120, 1000, 8
TRANSFORMS = range(8)
"""Of wl_output.transform: turns by 90 degrees, and the same mirrored."""
REGISTRY, COMPOSITOR, SHM, VIEWPORTER, SURFACE, VIEWPORT, POOL = range(2, 9)
_COMMIT = (SURFACE, 6)


def message(oid: int, opcode: int, body: bytes = b"") -> bytes:
    return struct.pack("<IHH", oid, opcode, 8 + len(body)) + body


SYNC = message(1, 0, struct.pack("<I", 20))
DONE = message(20, 0, struct.pack("<I", 0))
"""The callback by which a program knows that the host has answered."""


def bind(name: int, interface: bytes, new: int) -> bytes:
    text = interface + b"\0"
    text += b"\0" * (-len(text) % 4)
    body = struct.pack("<II", name, len(interface) + 1) + text
    return message(REGISTRY, 0, body + struct.pack("<II", 4, new))


class Host:
    """The worker's end: what the compositor would map, at each commit."""

    def __init__(self, listener: socket.socket, fd: int) -> None:
        self.machine = StreamMachine()
        self.listener, self.arena = listener, fd
        self.pool: StreamFile | None = None
        self.commits, self.answered = 0, False
        self._begin()

    def _begin(self) -> None:
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(60)
        mine = ArenaFile(os.dup(self.arena)) if self.arena >= 0 else None
        self.channel = WaypipeChannel(self.machine, mine)

    def until_commit(self) -> None:
        wanted = self.commits + 1
        self._until(lambda: self.commits == wanted)

    def until_answered(self) -> None:
        """The guest's end has heard of the arena before a program that waits for this."""
        self._until(lambda: self.answered)

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            count = 0
            with self.channel.room() as room, contextlib.suppress(ConnectionResetError):
                count = self.sock.recv_into(room)
            if not count:  # a trial whether anybody listens
                assert self.pool is None
                self.close()
                self._begin()
                continue
            self.channel.filled(count)
            self._work()

    def _work(self) -> None:
        worked = self.channel.begin()
        while worked:
            worked, event = self.channel.next()
            if isinstance(event, Messages):
                self._take(event)
        self.channel.acknowledge()
        if self.channel.out:
            with contextlib.suppress(BrokenPipeError):  # a trial, that has gone
                self.sock.sendall(self.channel.out)
            self.channel.out.clear()

    def _take(self, event: Messages) -> None:
        for fd in event.fds:
            assert isinstance(fd, StreamFile)
            self.pool = fd
        at = 0
        while at < len(event.data):
            oid, word = struct.unpack_from("<II", event.data, at)
            self.commits += (oid, word & 0xFFFF) == _COMMIT
            if (oid, word & 0xFFFF) == (1, 0):
                self.channel.send_messages(DONE, [])
                self.answered = True
            at += word >> 16

    def close(self) -> None:
        if self.pool is not None:
            self.pool.give_up()
        self.channel.close()
        self.sock.close()


class Program:
    """Draws at random, and says honestly where."""

    def __init__(self, display: Path, seed: int, largest: int, tall: int) -> None:
        self.chance = random.Random(seed)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(display))
        self.fd = os.memfd_create("pool", os.MFD_CLOEXEC)
        side = self.chance.randrange
        self.width, self.height = side(8, largest), tall * side(8, largest)
        self.stride = 4 * (self.width + self.chance.choice([0, 0, 3]))
        self.size = self.stride * self.height
        self.picture = bytearray(self.size)
        self.buffers: dict[int, int] = {}
        self.scale, self.transform, self.viewport = 1, 0, False
        self.out = b""
        self._start()

    def close(self) -> None:
        self.sock.close()
        os.close(self.fd)

    def _start(self) -> None:
        self.out = message(1, 1, struct.pack("<I", REGISTRY))
        self.out += bind(1, b"wl_compositor", COMPOSITOR)
        self.out += bind(2, b"wl_shm", SHM)
        self.out += bind(3, b"wp_viewporter", VIEWPORTER)
        self.out += message(COMPOSITOR, 0, struct.pack("<I", SURFACE)) + SYNC
        self.total = self.size
        os.ftruncate(self.fd, self.total)
        create = message(SHM, 0, struct.pack("<Ii", POOL, self.total))
        self.sock.sendall(self.out)
        socket.send_fds(self.sock, [create], [self.fd])
        self.out = b""
        self._buffer(0)

    def answered(self) -> None:
        """Wait for the host's answer, as programs wait for its globals."""
        self.sock.settimeout(60)
        event = self.sock.recv(len(DONE), socket.MSG_WAITALL)
        assert event == DONE

    def _buffer(self, offset: int) -> None:
        new = POOL + 1 + len(self.buffers)
        shape = (new, offset, self.width, self.height, self.stride, 0)
        self.out += message(POOL, 0, struct.pack("<IiiiiI", *shape))
        self.buffers[new] = offset

    def _more(self) -> None:
        """Let the pool grow by a buffer."""
        offset, self.total = self.total, self.total + self.size
        os.ftruncate(self.fd, self.total)
        self.out += message(POOL, 2, struct.pack("<i", self.total))
        self._buffer(offset)

    def _shape(self) -> None:
        chance = self.chance.random()
        if chance < 0.15:
            self.scale = self.chance.choice([1, 2, 3])
            self.out += message(SURFACE, 8, struct.pack("<i", self.scale))
        elif chance < 0.3:
            self.transform = self.chance.choice(TRANSFORMS)
            self.out += message(SURFACE, 7, struct.pack("<i", self.transform))
        elif chance < 0.4 and not self.viewport:
            # As wp_fractional_scale_v1 has it at a scale of 1.5.
            self.viewport = True
            self.out += message(VIEWPORTER, 1, struct.pack("<II", VIEWPORT, SURFACE))
            size = (max(1, self.width * 2 // 3), max(1, self.height * 2 // 3))
            self.out += message(VIEWPORT, 2, struct.pack("<ii", *size))

    def _draw(self) -> tuple[int, int, int, int]:
        chance = self.chance.randrange
        x, y = chance(self.width), chance(self.height)
        w, h = chance(1, self.width - x + 1), chance(1, self.height - y + 1)
        pixels = self.chance.randbytes(4) * w
        for row in range(y, y + h):
            at = row * self.stride + 4 * x
            self.picture[at : at + 4 * w] = pixels
        return x, y, w, h

    def _damage(self, x: int, y: int, w: int, h: int) -> None:
        if self.chance.random() < 0.5:
            self.out += message(SURFACE, 9, struct.pack("<iiii", x, y, w, h))
        elif self.viewport:
            most = (0, 0, 0x7FFFFFFF, 0x7FFFFFFF)
            self.out += message(SURFACE, 2, struct.pack("<iiii", *most))
        else:
            x, y, w, h = self._on_surface(x, y, w, h)
            left, top = x // self.scale, y // self.scale
            right, bottom = -(-(x + w) // self.scale), -(-(y + h) // self.scale)
            box = (left, top, right - left, bottom - top)
            self.out += message(SURFACE, 2, struct.pack("<iiii", *box))

    def _on_surface(self, x: int, y: int, w: int, h: int) -> tuple[int, int, int, int]:
        """A box of the buffer in the surface's coordinates at scale 1.

        The buffer is the surface's picture, mirrored if the transform says so, and then
        turned counter-clockwise (wl_surface.set_buffer_transform).
        """
        width, height = self.width, self.height
        for _ in range(self.transform % 4):  # turned back, clockwise
            x, y, w, h, width, height = height - (y + h), x, h, w, height, width
        if self.transform >= 4:
            x = width - (x + w)
        return x, y, w, h

    def commit(self) -> tuple[int, bytes]:
        """Show a picture; returns where it is in the pool, and its bytes."""
        if len(self.buffers) < 4 and self.chance.random() < 0.4:
            self._more()
        self._shape()
        buffer, offset = self.chance.choice([*self.buffers.items()])
        boxes = [self._draw() for _ in range(self.chance.randrange(1, 12))]
        if not self.chance.randrange(8):
            boxes = []
        os.pwrite(self.fd, self.picture if boxes else self._as_shown(), offset)
        self.out += message(SURFACE, 1, struct.pack("<Iii", buffer, 0, 0))
        for box in boxes:
            self._damage(*box)
        self.out += message(*_COMMIT)
        self.shown = bytes(self.picture)
        self.sock.sendall(self.out)
        self.out = b""
        return offset, self.shown

    shown = b""

    def _as_shown(self) -> bytes:
        """Nothing is damaged, so nothing has changed."""
        self.picture[:] = self.shown or self.picture
        return bytes(self.picture)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        listener.settimeout(60)
        yield listener


def play(
    listener: socket.socket,
    display: Path,
    fd: int,
    seed: int,
    side: int,
    *,
    tall: int = 1,
) -> int:
    """One program; returns how many bytes its stream had."""
    program = Program(display, seed, side, tall)
    host = Host(listener, fd)
    try:
        host.until_answered()
        program.answered()
        for number in range(COMMITS):
            offset, wanted = program.commit()
            host.until_commit()
            view = host.pool.view
            assert view[offset : offset + len(wanted)] == wanted, (seed, number)
        return host.channel.bytes
    finally:
        host.close()
        program.close()


@contextmanager
def no_arena() -> Iterator[int]:
    yield -1


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "seeds",
    [
        range(SEQUENCES),
        pytest.param(range(SEQUENCES, MANY), marks=pytest.mark.long),
    ],
    ids=["some", "many"],
)
@pytest.mark.parametrize("kind", ["arena", "no arena", "waypipe"])
async def test_pixels_are_those_of_the_program(kind, seeds):
    with (
        short_directory() as base,
        listening(base / "s") as listener,
        arena() if kind == "arena" else no_arena() as fd,
    ):
        end = (
            server_of("", base / "s")
            if kind == "waypipe"
            else guest_end(base / "s", fd)
        )
        async with end as display:
            sent = [play(listener, display, fd, seed, 240) for seed in seeds]
    if kind == "arena":
        assert sum(sent) < len(seeds) * COMMITS * 4000


async def test_pictures_are_larger_than_the_arena():
    """It waits for the host to read, and sends more than the room."""
    with (
        short_directory() as base,
        listening(base / "s") as listener,
        arena(6 << 20) as fd,
    ):
        async with guest_end(base / "s", fd) as display:
            for seed in range(6):
                play(listener, display, fd, seed, 1800)


async def test_pictures_have_more_rows_than_one_block_may():
    with (
        short_directory() as base,
        listening(base / "s") as listener,
        arena() as fd,
    ):
        async with guest_end(base / "s", fd) as display:
            for seed in range(6):
                play(listener, display, fd, seed, 200, tall=20)
