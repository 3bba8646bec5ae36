"""A persistent sandbox's disk, with the guest agent as PID 1 of a real machine."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.homes.home_copies import HomeCopies
from broker.cli.images.building.build import build_image
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.host.homes.disk import ready_disk
from broker.host.images.store import ImageSpec
from broker.host.vmm.qemu_arguments import HomeDisk
from broker.host.vmm.running import EndKind
from broker.ipc import agent
from tests.kit.needs import NEEDS_VM
from tests.kit.vm.agent_broker import AgentBroker, agent_broker
from tests.kit.vm.machines import boot_of, machine
from tests.kit.wayland.compositor import short_directory

NAME = SandboxName("tiny")
SIZE = 128 << 20


pytestmark = NEEDS_VM


@asynccontextmanager
async def started(store: HomeCopies, size: int = SIZE, keep: str = "home"):
    """A machine with the home of NAME: (machine, broker's ends)."""
    image = await build_image(find_paths(), ImageSpec(), print)
    with short_directory() as place:
        with store.lock(NAME) as lock:
            home = await ready_disk(store, NAME, size)
            entered = machine(
                place,
                **boot_of(image, place),
                disposable=False,
                home=HomeDisk(home.disk, frozenset(keep.split(",")), lock.fd),
            )
            vm = await entered.__aenter__()
        try:
            async with agent_broker(vm) as broker:
                await vm.cont()
                yield vm, broker
        finally:
            await entered.__aexit__(None, None, None)


async def shell(broker: AgentBroker, script: str, number: int = 1) -> list[str]:
    await broker.run("sh", "-c", script, program=number)
    await broker.receive(agent.AgentStarted)
    said, code = await broker.ended(number)
    assert code == 0, said
    return said.decode().splitlines()


def check(store: HomeCopies) -> None:
    """The file system is clean after its journal was replayed."""
    disk = str(store.require(NAME).disk)
    subprocess.run(["/sbin/e2fsck", "-p", disk], check=False, capture_output=True)
    subprocess.run(["/sbin/e2fsck", "-f", "-n", disk], check=True)


FILL = """
dd if=/dev/zero of=big bs=1M 2>said; echo "dd $?"
grep -c 'No space left on device' said
touch /tmp/still && echo works
rm big; sync; echo filled >kept; sync kept; cat kept
"""


@pytest.mark.slow
async def test_a_home_survives_filling_stop_kill_and_growth(tmp_path: Path):
    """A full one is an error of the program that fills it.

    Not of its machine, of another home, or of the host's disk beyond its size.
    """
    store = HomeCopies(tmp_path / "homes")
    other = SandboxName("other")
    with store.lock(other):
        await ready_disk(store, other, SIZE)
    before = store.require(other).disk.read_bytes()
    async with started(store) as (vm, broker):
        await broker.accept()
        assert await shell(broker, FILL) == ["dd 1", "1", "works", "filled"]
        assert store.require(NAME).disk.stat().st_blocks * 512 <= SIZE
        script = "umask 077; echo first >kept; touch /tmp/x; df -m . | tail -1"
        first = await shell(broker, script, 2)
        await broker.send(agent.AgentPowerOff())
        assert (await vm.wait()).kind is EndKind.GUEST
    assert not store.in_use(NAME)
    assert store.require(other).disk.read_bytes() == before
    subprocess.run(
        ["/sbin/e2fsck", "-f", "-n", str(store.require(NAME).disk)], check=True
    )

    async with started(store, 2 * SIZE) as (vm, broker):
        await broker.accept()
        script = "cat kept; ls /tmp; echo second >kept; sync kept; df -m . | tail -1"
        said = await shell(broker, script)
        assert said[0] == "first"
        assert len(said) == 2, "only the home is kept"
        assert int(said[-1].split()[1]) > 1.5 * int(first[-1].split()[1])
        assert store.in_use(NAME)
        os.kill(vm.vmm.pid, signal.SIGKILL)
        await vm.wait()
    check(store)

    async with started(store, 2 * SIZE) as (_vm, broker):
        await broker.accept()
        assert await shell(broker, "cat kept") == ["second"]


@pytest.mark.slow
async def test_a_disk_that_is_no_home_stops_the_machine(tmp_path: Path):
    """Programs must not write into a home that is lost without a word."""
    store = HomeCopies(tmp_path / "homes")
    with store.lock(NAME):
        home = await ready_disk(store, NAME, SIZE)
    with home.disk.open("r+b") as disk:
        disk.write(bytes(1 << 20))
    async with started(store) as (vm, _broker):
        assert (await vm.wait()).kind is EndKind.GUEST
        assert b"cannot use the sandbox's disk" in vm.console.path.read_bytes()
