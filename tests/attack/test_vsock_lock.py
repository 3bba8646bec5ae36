"""A jailed process that carries a machine's streams, and locks their directory.

It is the directory of a running machine, which the next broker listens in again: it would
wait for the lock, one machine after the other, and then not lease this one.
"""

from __future__ import annotations

import fcntl
import os
from types import SimpleNamespace

import pytest

from broker.core.services import PORTS
from broker.host.launchers.libvirt.guests import LibvirtMachine
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.net.peers.identity import HybridClaim
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(name="base")
def _base():
    with short_directory() as directory:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory / "vm.vsock"
        os.close(fd)


async def _must_listen(machine):
    doors = await machine.open_doors(None)
    try:
        assert doors.keys() == PORTS.keys()
    finally:
        for door in doors.values():
            door.close()


async def test_lock_of_a_micro_vm_is_not_waited_for(base, autojump_clock):
    machine = object.__new__(MicroVmMachine)
    machine._vm = SimpleNamespace(uds=base)
    await _must_listen(machine)


async def test_lock_of_a_libvirt_domain_is_not_waited_for(base, autojump_clock):
    machine = object.__new__(LibvirtMachine)
    machine._claim = HybridClaim(str(base), frozenset())
    await _must_listen(machine)
