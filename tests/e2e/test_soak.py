"""Two hundred kills: of any process, at any moment, with windows coming and going.

The sandboxes are containers (bubblewrap, leased by their first process), so
that a round takes a second; machines are killed in test_deaths.
"""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.core.errors import VitrailError
from tests.kit.container import RECORD, box, lease
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import descriptors, world

pytestmark = [pytest.mark.long, pytest.mark.alone]

ROUNDS = 200
VICTIMS = ("keeper", "worker", "pump", "fork server", "leader", "broker")


def memory(pid):
    """Resident memory of a process in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])


async def kill(pid):
    """kill -9 at once; another may have been quicker."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)


async def victim(w, role, leader):
    if role == "leader":
        return leader
    if role == "broker":
        return await w.broker_pid()
    return await w.pid_of(role)


@pytest.mark.timeout(1200)
async def test_two_hundred_kills_leave_a_broker_that_works():
    draw = random.Random(20)
    async with world(image=False) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
        first = None
        for number in range(ROUNDS):
            child, leader = box(directory)
            await lease(w, directory, leader)
            role = draw.choice(VICTIMS)
            print(f"round {number}: {role}", sorted(directory.iterdir()))
            # Sometimes on the way up, sometimes with the window there.
            if draw.random() < 0.5:
                await wait_window(w.comp, title="boxed")
            else:
                await trio.sleep(draw.random() / 5)
            with suppress(AssertionError):  # not started yet
                await kill(await victim(w, role, leader))
            child.kill()
            await child.wait()
            if role == "broker":
                # The next box's program would connect to these, before its lease.
                for left in directory.iterdir():
                    left.unlink()
                await w.start()
            await no_lease(w)
            assert not windows(await w.comp.tree()), f"round {number}: {role}"
            pid = await w.broker_pid()
            if role == "broker" or first is None:
                first = (pid, descriptors(pid), memory(pid))
        pid, open_then, memory_then = first
        assert pid == await w.broker_pid()
        now = descriptors(pid)
        assert now["socket"] <= open_then["socket"] + 2
        assert now["anon_inode"] <= open_then["anon_inode"] + 2
        assert memory(pid) <= memory_then + 16 * 1024
        # It still works.
        child, leader = box(directory)
        await lease(w, directory, leader)
        await wait_window(w.comp, title="boxed")
        child.kill()
        await child.wait()


async def no_lease(w):
    """Wait until no lease is live and no window is shown."""

    async def over():
        with suppress(VitrailError):
            status = await w.status()
            return not status.leases and not windows(await w.comp.tree())
        return False

    assert await eventually(over, deadline=30)
