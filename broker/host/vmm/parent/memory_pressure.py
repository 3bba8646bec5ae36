"""Waiting for the moment at which this machine's memory is short.

By the kernel's pressure information (PSI) where it has that: a trigger on
``/proc/pressure/memory`` makes the file readable with POLLPRI when tasks have waited
for memory that long.  Beside it, and without it, ``MemAvailable`` is looked at: PSI
says nothing on a machine that swaps well until it is too late.

Source: the kernel's Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

import trio

from broker.core import limits

PRESSURE = Path("/proc/pressure/memory")
MEMINFO = Path("/proc/meminfo")
_TRIGGER = b"some 200000 2000000\0"
"""Tasks waited 0.2 s of any 2 s; without privileges the window is 2 s or a multiple."""


async def memory_short(pressure: Path = PRESSURE, meminfo: Path = MEMINFO) -> str:
    """Wait until memory is short; returns the reason, in words."""
    why = ""

    async def by_pressure() -> None:
        nonlocal why
        fd = open_trigger(pressure)
        if fd is None:
            return
        try:
            await wait_priority(fd)
        # guard: a kernel that cannot wait for pressure ends nothing
        except OSError:  # no room for one more epoll entry
            return
        finally:
            os.close(fd)
        why = "processes are waiting for memory"
        nursery.cancel_scope.cancel()

    async def by_amount() -> None:
        nonlocal why
        while True:
            if available_bytes(meminfo) < limits.STANDBY_FREE_BYTES:
                break
            await trio.sleep(limits.STANDBY_LOOK_SECONDS)
        why = f"less than {limits.STANDBY_FREE_BYTES >> 20} MiB of memory are available"
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_pressure)
        nursery.start_soon(by_amount)
    return why


def open_trigger(path: Path) -> int | None:
    """Return a descriptor that gets POLLPRI; None if the kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, _TRIGGER)
    except OSError:
        os.close(fd)
        return None
    return fd


async def wait_priority(fd: int) -> None:
    """Wait for POLLPRI on a descriptor; trio itself waits for reading and writing."""
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLPRI)
        await trio.lowlevel.wait_readable(poll.fileno())


def available_bytes(meminfo: Path = MEMINFO) -> int:
    """Return the memory that programs can have without swapping, in bytes.

    A kernel that does not say has none, as far as machines that wait go; nor has one
    whose file cannot be read (that of a container whose lxcfs has ended).
    """
    return _amount("MemAvailable", meminfo)


def total_bytes(meminfo: Path = MEMINFO) -> int:
    """Return this machine's memory; 0 if that cannot be read."""
    return _amount("MemTotal", meminfo)


def _amount(wanted: str, meminfo: Path) -> int:
    """Return one amount of /proc/meminfo in bytes; 0 if unknown."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, amount = line.partition(":")
            if name == wanted:
                return int(amount.removesuffix("kB")) << 10
    except (OSError, ValueError):
        return 0
    return 0
