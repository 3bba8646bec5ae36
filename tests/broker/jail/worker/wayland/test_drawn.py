"""A wait for the GPU: it ends with the drawing or in time, and leaves nothing."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.jail.worker import readiness
from broker.jail.worker.wayland.connection import _drawn


class Held:
    """The worker's descriptor of a file that its client keeps open."""

    def __init__(self, of: socket.socket) -> None:
        self._fd = os.dup(of.fileno())

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def file():
    """It is not readable until something is sent to the second."""
    mine, other = socket.socketpair()
    with mine, other:
        yield mine, other


def entries() -> int:
    """Entries of all epoll sets of this process."""
    found = 0
    for about in Path("/proc/self/fdinfo").iterdir():
        try:
            found += about.read_text().count("tfd:")
        except FileNotFoundError:  # of the directory that is read here
            continue
    return found


async def test_files_that_their_client_keeps_have_no_entry_after_the_wait():
    """Attack: all of the user's entries, by buffers that are never drawn."""
    readiness.prepare()
    await trio.testing.wait_all_tasks_blocked()
    before = entries()
    with ExitStack() as kept:
        for _ in range(20):
            mine, _ = (kept.enter_context(one) for one in socket.socketpair())
            memory = Held(mine)
            await _drawn(memory, trio.current_time())
            memory.close()
        assert entries() == before


async def test_a_wait_ends_with_the_drawing(file):
    mine, other = file
    memory = Held(mine)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drawn, memory, trio.current_time() + 1000)
            await trio.testing.wait_all_tasks_blocked()
            other.send(b"x")
    memory.close()


async def test_without_an_entry_it_waits_in_vain(file, monkeypatch):
    """As when the user's entries are all taken: the picture is late."""

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(readiness._Steps, "arm", full)
    memory = Held(file[0])
    await _drawn(memory, trio.current_time())
    memory.close()
