"""Memory files of a sandbox: what the kernel lets it do to those who have them, too.

A fault in a part of a tmpfs file into which another process punches a hole sleeps,
without a signal, until the punch is over (``shmem_fault``), and setting a seal waits for
the inode's lock.  A punch takes as long as the sandbox has mapped the file often.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import trio

from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.stand import stand

SIDE = 1024
BYTES = SIDE * SIDE * 4
MAPPINGS = 12_000
LONG_SECONDS = 1.0
"""A hole that was made while other processes had the pages mapped again."""
_KEEP_SIZE_PUNCH_HOLE = 3
_libc = ctypes.CDLL(None, use_errno=True)


def inodes(pid: int) -> set[int]:
    """Inodes of the files that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {int(line.split(maxsplit=5)[4]) for line in lines}


def window_of(c: Window, fd: int) -> int:
    """Show a window whose pixels are in this file; its surface."""
    surface = c.surface()
    xdg, _ = c.toplevel(surface)
    c.send(surface, "commit")
    c.configured(xdg)
    pool = c.make(c.shm, "create_pool", "wl_shm_pool", None, BYTES, fds=[fd])
    made = c.make(pool, "create_buffer", "wl_buffer", None, 0, SIDE, SIDE, SIDE * 4, 1)
    c.send(surface, "attach", made, 0, 0)
    c.send(surface, "damage", 0, 0, SIDE, SIDE)
    c.shown(surface)
    return surface


@pytest.mark.parametrize("sealed", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SHRINK | 1])
async def test_the_compositor_maps_no_file_of_a_sandbox(sealed):
    """Also one that toolkits have sealed against shrinking, as most do."""

    def act(c: Window) -> tuple[int, int]:
        fd = memfd(BYTES)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sealed)
            window_of(c, fd)
            return os.fstat(fd).st_ino, fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        finally:
            os.close(fd)

    async with stand() as it:

        def look(c: Window) -> None:
            inode, seals = act(c)
            assert inode not in inodes(it.comp.child.pid)
            assert seals == sealed, "setting a seal waits for the inode's lock"

        await it.client(look)


def _touch(fd: int, touched: Event, stop: Event) -> None:
    """Keep the file's pages mapped, so that a punch has something to take away."""
    os.nice(19)
    with mmap.mmap(fd, BYTES) as pages:
        while not stop.is_set():
            sum(pages[:: mmap.PAGESIZE])
            touched.set()


def _punch(fd: int, begun: Event, ended: Event) -> None:
    """Punch through many mappings of the file, until it took long once."""
    os.nice(19)
    kept = [mmap.mmap(fd, BYTES) for _ in range(MAPPINGS)]
    begun.set()
    none, whole, seconds = ctypes.c_long(0), ctypes.c_long(BYTES), 0.0
    while seconds < LONG_SECONDS:
        for at in range(0, BYTES, mmap.PAGESIZE):
            os.pwrite(fd, b"x", at)
        began = time.monotonic()
        _libc.fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, none, whole)
        seconds = time.monotonic() - began
    ended.set()
    print(f"a punch of {seconds:.2f} s, {len(kept)} mappings")


@contextlib.contextmanager
def punching(fd: int) -> Iterator[Event]:
    """Processes that punch holes into the file; the event follows a long punch."""
    context = multiprocessing.get_context("fork")
    touched, stop, begun, ended = (context.Event() for _ in range(4))
    work = [
        context.Process(target=_touch, args=(fd, touched, stop)),
        context.Process(target=_touch, args=(fd, touched, stop)),
        context.Process(target=_punch, args=(fd, begun, ended)),
    ]
    try:
        for each in work:
            each.start()
        assert touched.wait(60)
        assert begun.wait(60)
        yield ended
    finally:
        work[-1].join(60)
        stop.set()
        for each in work:
            each.kill()
            each.join()


async def test_the_compositor_waits_for_no_punched_file():
    """It sleeps nowhere in the kernel's shared memory while the hole is being made."""
    async with stand() as it:

        def act(hostile: Window) -> tuple[int, int]:
            fd = memfd(BYTES)
            place = Path(f"/proc/{it.comp.child.pid}/wchan")
            looks = asleep = 0
            surface = window_of(hostile, fd)
            with punching(fd) as punched:
                while not punched.wait(0.002):
                    if looks % 10 == 0:
                        hostile.send(surface, "damage", 0, 0, SIDE, SIDE)
                        hostile.send(surface, "commit")
                    looks += 1
                    asleep += place.read_text().startswith("shmem")
            os.close(fd)
            return looks, asleep

        with trio.fail_after(240):
            looks, asleep = await it.client(act)
    print(f"of {looks} looks at the compositor {asleep} found it asleep there")
    assert looks > 100
    assert not asleep
