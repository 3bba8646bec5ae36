"""trio may wake a task for a descriptor whose number was another file before.

A machine's start, its network and a guest that waits for a device must not fail by it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName
from broker.core.services import DEVICE
from broker.host.devices.host_devices import DeviceHost
from broker.host.network import namespace
from broker.host.vmm import vmm_jail
from broker.net import endpoints
from broker.net.addresses import HybridEndpoint

NAME = SandboxName("work")
LEASE = Lease(LeaseId("0123456789abcdef"), NAME, NAME, 1)
WAKES = 2


@pytest.fixture
def woken(monkeypatch):
    """Wake tasks too early; then call what is appended here."""
    then, calls = [], []
    real = trio.lowlevel.wait_readable

    async def wake(fd):
        calls.append(fd)
        if len(calls) <= WAKES:
            await trio.lowlevel.checkpoint()
            return
        while then:
            then.pop()()
        await real(fd)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wake)
    return then


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


async def test_of_the_first_process_of_a_machines_jail(woken, pipe):
    read, write = pipe
    whole = b'{"child-pid": 7}'.ljust(vmm_jail._INFO_BYTES)
    woken.append(lambda: os.write(write, whole))
    assert await vmm_jail._read_pid(read) == 7


async def test_of_a_network_that_is_up(woken, pipe):
    read, write = pipe
    woken.append(lambda: os.write(write, b"."))
    await namespace._wait_ready(read, SimpleNamespace(words=""))


async def test_of_a_vmm_that_connects_to_a_guests_port(woken):
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0)
        woken.append(lambda: far.send(b"OK 1\n"))
        await endpoints._await_ok(HybridEndpoint(Path("/run/vm"), 1), near)


async def test_of_a_guest_that_waits_for_a_device(woken):
    near, far = socket.socketpair()
    near.settimeout(0)
    host = DeviceHost(lambda _: None)
    over = trio.Event()

    async def wait(task_status=trio.TASK_STATUS_IGNORED):
        opening = Opening(LEASE, DEVICE, 1, "")
        await host.standby(opening, near, task_status=task_status)
        over.set()

    with far:
        async with trio.open_nursery() as nursery:
            await nursery.start(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not over.is_set(), "it was only woken"
            far.close()
            with trio.fail_after(10):
                await over.wait()
