"""Our own end of a display stream in a guest, with an arena, on this machine.

The program is the one that guests get; the arena is a memfd as a host makes it, which
the program maps as it maps a device of memory.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

from broker.jail.worker.wayland.waypipe_memory import ARENA_SEALS
from shims import bundle
from tests.kit.eventually import eventually
from tests.kit.listening import can_be_connected

ARENA_BYTES = 32 << 20


@contextmanager
def arena(size: int = ARENA_BYTES) -> Iterator[int]:
    """A descriptor of an arena."""
    fd = os.memfd_create("vitrail-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ARENA_SEALS)
        yield fd
    finally:
        os.close(fd)


@cache
def program() -> bytes:
    return bundle.bundle("wayland").encode()


@asynccontextmanager
async def guest_end(streams: Path, fd: int = -1, base: int = 0) -> AsyncIterator[Path]:
    """Run it; gives the display for programs.  ``streams`` takes its streams."""
    display = streams.with_name(f"{streams.name}.ours")
    path = streams.with_name("vitrail_wayland.py")
    path.write_bytes(program())
    words = ["--display", str(display), "--socket", str(streams)]
    if fd >= 0:
        words += ["--arena", str(fd), "--base", str(base)]
    argv = [sys.executable, "-I", "-S", "-B", str(path), *words]
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, pass_fds=() if fd < 0 else (fd,)
    )
    try:
        await eventually(lambda: can_be_connected(display) or child.poll() is not None)
        assert child.poll() is None
        yield display
    finally:
        child.stdin.close()
        assert child.wait(60) == 0
        display.unlink(missing_ok=True)
