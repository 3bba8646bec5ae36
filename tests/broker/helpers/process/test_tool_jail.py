"""What bubblewrap reports about the first process of a jail."""

from __future__ import annotations

import os

import trio

from broker.helpers.process import tool_jail


async def test_a_wake_without_bytes_does_not_end_the_wait_for_the_first_process(
    monkeypatch,
):
    """trio may wake a task for a descriptor whose number was another file before."""
    read, write = os.pipe()
    real, woken = trio.lowlevel.wait_readable, []

    async def wake(fd):
        woken.append(fd)
        if len(woken) == 1:
            await trio.lowlevel.checkpoint()
            return
        os.write(write, b'{"child-pid": 7}\n')
        await real(fd)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wake)
    try:
        assert await tool_jail.read_leader(read, "the service") == 7
        assert len(woken) == 2
    finally:
        os.close(read)
        os.close(write)
