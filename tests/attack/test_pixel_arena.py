"""Memory that a guest and its QEMU can change at any time reaches no compositor.

Invariant: the compositor maps no file that is a guest's, so neither a guest nor a QEMU
that was taken over stalls it or changes a picture after its commit; a stream that names
places in an arena costs its sandbox alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.limits import waypipe as waypipe_limits
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.host.vmm.arena import make_arena
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.channel import WaypipeChannel
from broker.jail.worker.wayland.waypipe_memory import ArenaFile, StreamMachine
from shims.wayland.arena_places import CHUNK_BYTES, ArenaMemory
from shims.wayland.stream_blocks import ARENA_FILL, OPEN_ARENA, block
from tests.attack.test_guest_gpu_buffers import (
    REGISTRY,
    SHM,
    SURFACE,
    Program,
    message,
    string,
)
from tests.attack.test_shared_image import FLUSHES, attack, attacked
from tests.attack.test_waypipe_streams import Stream, _answered, _taken, _well
from tests.kit.eventually import eventually
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import pixels
from tests.kit.waypipe import wire_bytes as w
from tests.kit.waypipe.guest_end import guest_end
from tests.kit.waypipe.stand import wire

SIZE = 32 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
RED = (0xE0, 0x10, 0x10)
SIDE = 500


@pytest.fixture
def arena():
    fd = make_arena(SIZE)
    yield fd
    os.close(fd)


def fallocate(fd: int, mode: int, length: int) -> None:
    if _LIBC.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def maps_arena(pid: int) -> bool:
    return "vitrail-arena" in Path(f"/proc/{pid}/maps").read_text()


def test_an_arena_keeps_its_size(arena):
    """Whoever has a descriptor of it, a VMM that was taken over for one."""
    for change in (
        lambda: os.ftruncate(arena, SIZE - 1),
        lambda: os.ftruncate(arena, SIZE + 1),
        lambda: fcntl.fcntl(arena, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: fallocate(arena, 0, SIZE + 4096),
    ):
        with pytest.raises(PermissionError):
            change()


_PUNCH = f"""
import ctypes, fcntl, mmap, sys
fd, size = int(sys.argv[1]), {SIZE}
held = [mmap.mmap(fd, size) for _ in range(2000)]
fcntl.lockf(fd, fcntl.LOCK_EX)
fcntl.flock(fd, fcntl.LOCK_EX)
print(flush=True)
libc = ctypes.CDLL(None)
while True:
    for at in range(0, size, 1 << 20):
        held[0][at] = 1
    libc.fallocate(fd, {_KEEP_SIZE | _PUNCH_HOLE}, ctypes.c_long(0), ctypes.c_long(size))
"""
"""What a QEMU that was taken over can do to its arena, without an end."""


async def red(it) -> bool:
    colours = (await pixels(it.comp)).getcolors(1 << 24)
    return any(
        count > SIDE * SIDE // 2 and found[:3] == RED for count, found in colours
    )


@asynccontextmanager
async def red_window(arena: int):
    """A window whose pixels have come through an arena, in front of a compositor."""
    async with wire() as it, guest_end(Path(it.path), arena) as display:
        it.arena = arena
        child = spawn(
            ["foot", "-o", "colors.background=e01010", "sleep", "1000"],
            env={**it.comp.environment, "WAYLAND_DISPLAY": str(display)},
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        it.children.append(child)
        await eventually(lambda: red(it), deadline=60)
        # They came by the arena: there are more of them than bytes in all streams.
        assert sum(one.channel.bytes for one in it.connections) < SIDE * SIDE
        yield it


async def test_a_qemu_that_punches_and_locks_stalls_no_compositor(arena):
    async with red_window(arena) as it:
        assert not maps_arena(it.comp.child.pid)
        argv = [sys.executable, "-c", _PUNCH, str(arena)]
        with subprocess.Popen(
            argv, pass_fds=(arena,), stdout=subprocess.PIPE
        ) as attacker:
            try:
                await trio.to_thread.run_sync(attacker.stdout.readline)
                other = await _well(it)
                for _ in range(20):
                    await _answered(other, 3)
                    await it.comp.tree()
                assert await red(it)
                # The attacked application continues, too: nobody waits for its memory.
                await it.comp.type_text("echo\n")
                assert not it.ends
                assert not maps_arena(it.comp.child.pid)
                other.sock.close()
            finally:
                attacker.kill()


async def test_a_guest_changes_no_picture_after_its_commit(arena):
    async with red_window(arena) as it:
        with mmap.mmap(arena, SIZE) as memory:
            memory[:] = b"\x10\xe0\x10\xff" * (SIZE // 4)
        # A compositor that had it mapped would draw it now.
        for x in range(300, 900, 100):
            await it.comp.command(f"seat - cursor set {x} 400")
            assert await red(it)
        assert not it.ends


_WRITE = f"""
import mmap, sys
memory = mmap.mmap(int(sys.argv[1]), {SIZE})
print(flush=True)
while True:
    for shade in range(256):
        memory[:] = bytes([shade]) * {SIZE}
"""
"""A guest that never stops changing the named rows."""


async def test_a_picture_is_still_once_it_was_copied(arena):
    """The guest writes while rows are copied, too: the picture is torn, and stays so."""
    size = waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
    argv = [sys.executable, "-c", _WRITE, str(arena)]
    with subprocess.Popen(argv, pass_fds=(arena,), stdout=subprocess.PIPE) as guest:
        try:
            await trio.to_thread.run_sync(guest.stdout.readline)
            it = Reader(arena)
            it.feed(w.header(w.ARENA_HEADER), w.open_file(1, size))
            (pool,) = it.files
            seen = set()
            for number in range(50):
                it.feed(_fill(number * size % SIZE))
                shown = bytes(pool.view)
                # The guest's memory is another one by now; the copy is not.
                before = shown[:64]
                await eventually(partial(changed, arena, before))
                assert bytes(pool.view) == shown
                seen.add(before)
            assert len(seen) > 1
            it.close()
        finally:
            guest.kill()


def changed(arena: int, before: bytes) -> bool:
    return os.pread(arena, len(before), 0) != before


class Reader:
    """The worker's end of one stream, with an arena and no compositor."""

    def __init__(self, arena: int) -> None:
        self.machine, self.files = StreamMachine(), []
        make = self.machine.file
        self.machine.file = lambda size: (
            self.files.append(make(size)),
            self.files[-1],
        )[1]
        self.channel = WaypipeChannel(self.machine, ArenaFile(os.dup(arena)))

    def feed(self, *parts: bytes) -> None:
        for part in parts:
            with self.channel.room() as room:
                room[: len(part)] = part
            self.channel.filled(len(part))
            worked = self.channel.begin()
            while worked:
                worked, _ = self.channel.next()

    def close(self) -> None:
        self.channel.close()
        assert self.machine.touched == 0


def test_no_stream_reaches_the_arena_of_another_sandbox(arena):
    """It has no name for one: the same bases are each sandbox's own memory."""
    size = waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
    other = make_arena(SIZE)
    for fd, shade in ((arena, b"a"), (other, b"b")):
        for at in range(0, SIZE, size):
            os.pwrite(fd, shade * size, at)
    both = {b"a": Reader(arena), b"b": Reader(other)}
    os.close(other)
    for it in both.values():
        it.feed(w.header(w.ARENA_HEADER), w.open_file(1, size))
    for base in range(0, SIZE, size):
        for shade, it in both.items():
            it.feed(_fill(base))
            assert bytes(it.files[0].view) == shade * size
    for it in both.values():
        it.close()


async def test_ten_thousand_arenas_are_opened_by_no_guest(arena):
    """Only the worker announces one: the first such block is a stream's last."""
    async with wire() as it:
        it.arena = arena
        other = await _well(it)
        bad = Stream(it)
        flood = w.block(BlockKind.OPEN_ARENA, struct.pack("<Q", SIZE)) * 10_000
        await bad.say(w.header(w.ARENA_HEADER), flood)
        await bad.ended()
        assert "only our end has" in str(it.ends[0])
        assert it.machine.touched == 0
        await _answered(other, 3)
        other.sock.close()


def test_ten_thousand_announcements_take_no_place_of_a_guest():
    """A worker that was taken over says it again and again, a picture between each."""
    memory = ArenaMemory(memoryview(bytearray(4 * CHUNK_BYTES)))
    program = Program(memory=memory).begin()
    announced = block(OPEN_ARENA, struct.pack("<Q", len(memory.view)))
    fd = os.memfd_create("pool")
    os.ftruncate(fd, 256)
    program.host.sendall(announced)
    program.send(message(REGISTRY, 0, SHM, string("wl_shm"), 1, 7))
    program.send(message(7, 0, 8, 256), fds=[fd])
    program.send(message(8, 0, 9, 0, 8, 8, 32, 0))
    os.close(fd)
    program.blocks()
    for _ in range(10_000):
        program.host.sendall(announced)
        program.send(
            message(SURFACE, 1, 9, 0, 0),
            message(SURFACE, 9, 0, 0, 8, 8),
            message(SURFACE, 6),
        )
        assert ARENA_FILL in [kind for kind, _ in program.blocks()]
    program.close()
    assert sorted(memory.free) == [0, 1, 2, 3]


def _fill(base: int = 0) -> bytes:
    return w.arena_fill(1, 0, base, waypipe_limits.WAYPIPE_ARENA_FILL_BYTES)


async def test_ten_thousand_copies_wait_and_other_applications_do_not(
    arena, monkeypatch
):
    """28 bytes have a MiB copied, so they have a pace, and their turns end."""
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_PER_SECOND", 50_000)
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_SPANS_BURST", 10_000)
    async with wire() as it:
        it.arena = arena
        other = await _well(it)
        flood = Stream(it)
        size = waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
        await flood.say(w.header(w.ARENA_HEADER), w.open_file(1, size))
        hostile = await _taken(it, 2)
        async with trio.open_nursery() as nursery:

            async def copies() -> None:
                for number in range(10_000):
                    # They overlap, which nothing forbids.
                    await flood.say(_fill(number * 64))

            nursery.start_soon(copies)
            await eventually(
                lambda: hostile.core.sandbox.refused["spans"] > 0, deadline=60
            )
            before = hostile.channel.blocks
            for _ in range(20):
                await _answered(other, 3)
            # 50 in a second is the pace; unpaced it is thousands.
            assert hostile.channel.blocks - before < 1000
            nursery.cancel_scope.cancel()
        assert it.machine.touched == size
        flood.sock.close()
        other.sock.close()


async def test_no_copy_takes_much_memory_before_it_is_counted(arena, monkeypatch):
    """A row is one byte, in a separate page that is there for the first time."""
    page, block, most = mmap.PAGESIZE, 1024, 16 << 20
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TOUCHED_BYTES", most)
    taken = []
    charge = StreamMachine.charge_touched
    monkeypatch.setattr(
        StreamMachine,
        "charge_touched",
        lambda self, more: (taken.append(more), charge(self, more))[1],
    )
    size = 4 * most
    for rows in (size // page, block):
        async with wire() as it:
            it.arena = arena
            bad = Stream(it)
            await bad.say(w.header(w.ARENA_HEADER), w.open_file(1, size))
            for at in range(0, size, rows * page):
                await bad.say(w.arena_fill(1, at, 0, 1, rows, page))
            await bad.ended()
            assert str(it.ends[0])
        assert max(taken, default=0) <= block * page
    assert sum(one for one in taken if one > 0) >= most


async def test_places_outside_of_the_arena_end_a_stream_alone(arena):
    async with wire() as it:
        it.arena = arena
        other = await _well(it)
        bad = Stream(it)
        size = waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
        await bad.say(w.header(w.ARENA_HEADER), w.open_file(1, size))
        await bad.say(_fill(SIZE - size), _fill(SIZE - size + 1))
        await bad.ended()
        assert f"exceed the arena of {SIZE}" in str(it.ends[0])
        await _answered(other, 3)
        other.sock.close()


async def test_a_stream_of_a_sandbox_without_an_arena_names_no_place():
    async with wire() as it:
        bad = Stream(it)
        await bad.say(w.header(w.ARENA_HEADER), w.open_file(1, 1 << 20), _fill())
        await bad.ended()
        assert "that was not announced" in str(it.ends[0])


@pytest.fixture
def _vm():
    require_vm()


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_vm")
async def test_a_guest_that_writes_everywhere_and_floods_flush_keeps_to_its_arena():
    changed = {"root": None, "shared_image_bytes": 0, "arena_bytes": SIZE}
    async with attacked(changed) as (vm, logs, _root):
        inode = os.fstat(vm.arena).st_ino
        said = await attack(logs)
        assert "written" in said
        assert said["after"] != said["before"]
        assert said["flushed"] == str(FLUSHES)
        status = os.fstat(vm.arena)
        assert (status.st_ino, status.st_size) == (inode, SIZE)
        assert status.st_blocks * 512 <= SIZE
        mine = ArenaFile(os.dup(vm.arena))
        mine.close()
        # Another machine's is another file.
        other = make_arena(SIZE)
        assert os.fstat(other).st_ino != inode
        os.close(other)
