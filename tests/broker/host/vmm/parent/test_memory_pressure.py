"""When a machine's memory is short: by pressure, and by the amount that is left."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from broker.core import limits
from broker.host.vmm.parent import memory_pressure
from broker.host.vmm.parent.memory_pressure import (
    available_bytes,
    memory_short,
    open_trigger,
    wait_priority,
)


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"

    def write(kib):
        path.write_text(f"MemTotal: 999 kB\nMemAvailable:   {kib} kB\n")
        return path

    return write


PLENTY = limits.STANDBY_FREE_BYTES >> 10


def test_the_available_amount_is_in_bytes(meminfo):
    assert available_bytes(meminfo(1024)) == 1 << 20


def test_a_kernel_that_does_not_say_has_none(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 12 kB\n")
    assert available_bytes(tmp_path / "meminfo") == 0


@pytest.mark.parametrize("text", [None, "MemAvailable:", "MemAvailable: x kB", "\xff"])
def test_one_that_cannot_be_read_has_none(tmp_path, text):
    """As in a container whose lxcfs has ended: the broker continues."""
    path = tmp_path / "meminfo"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    assert available_bytes(path) == 0


async def test_memory_is_short_below_the_reserve(tmp_path, meminfo):
    why = await memory_short(tmp_path / "none", meminfo(PLENTY - 1))
    assert why == "less than 1024 MiB of memory are available"


async def test_pressure_that_cannot_be_awaited_is_not_the_end(
    tmp_path, meminfo, autojump_clock
):
    """The kernel has no room for one more epoll entry: the host goes on."""
    pressure = tmp_path / "pressure"
    pressure.touch()  # epoll_ctl(2) refuses a plain file
    path = meminfo(PLENTY + 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory_short, pressure, path)
        await trio.sleep(10 * limits.STANDBY_LOOK_SECONDS)
        meminfo(PLENTY - 1)


async def test_a_machine_without_pressure_information_is_looked_at_again(
    tmp_path, meminfo, autojump_clock
):
    path = meminfo(PLENTY)
    async with trio.open_nursery() as nursery:
        found = []

        async def wait():
            found.append(await memory_short(tmp_path / "none", path))

        nursery.start_soon(wait)
        await trio.sleep(limits.STANDBY_LOOK_SECONDS * 3)
        assert not found
        meminfo(PLENTY - 1)
    assert len(found) == 1


async def test_pressure_ends_the_wait(tmp_path, meminfo, monkeypatch):
    """Urgent data on a socket is the same POLLPRI as a trigger's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    monkeypatch.setattr(
        memory_pressure, "open_trigger", lambda _path: os.dup(ours.fileno())
    )
    path = meminfo(PLENTY)
    found = []

    async def wait():
        found.append(await memory_short(tmp_path, path))

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            theirs.send(b"ordinary bytes")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not found, "bytes to read are no pressure"
            theirs.send(b"!", socket.MSG_OOB)
    assert found == ["processes are waiting for memory"]


async def test_the_kernel_takes_our_trigger():
    """Where it has pressure information that this user may have."""
    if not memory_pressure.PRESSURE.exists():
        pytest.skip("this kernel has no pressure information")
    fd = open_trigger(memory_pressure.PRESSURE)
    if fd is None:
        pytest.skip("this kernel gives no pressure information to this user")
    try:
        with trio.move_on_after(0.1):
            await wait_priority(fd)
    finally:
        os.close(fd)
