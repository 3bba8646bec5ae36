"""The guest agent as PID 1 of a real machine made from a real image."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from broker.host.vmm.qemu_arguments import Network
from broker.host.vmm.running import EndKind
from broker.ipc import agent
from tests.kit.needs import NEEDS_VM
from tests.kit.vm.agent_broker import agent_broker
from tests.kit.vm.machines import boot_of, console_says, machine
from tests.kit.wayland.compositor import short_directory

pytestmark = NEEDS_VM


@asynccontextmanager
async def booted(**changes):
    """A machine that runs the default image: (machine, broker's ends)."""
    image = await build_image(find_paths(), ImageSpec(), print)
    with short_directory() as place:
        boot = {**boot_of(image, place), **changes}
        async with machine(place, **boot) as vm, agent_broker(vm) as broker:
            await vm.cont()
            yield vm, broker


LOOK = """
echo "uid $(id -u)"; echo "host $(uname -n)"; cd; pwd
touch /tmp/x /dev/shm/x "$XDG_RUNTIME_DIR/x" "$HOME/x" && echo writable
touch /etc/x 2>/dev/null || echo unprivileged
test -c /dev/ptmx && test -L /dev/fd && echo devices
wc -c </etc/machine-id
# Each font directory has a cache that the image was built with.
fc-cache -s -v | grep -c "existing cache is valid"
# An orphan that ends is reaped by PID 1.
python3 -c '
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
        os._exit(0)
    os._exit(0)
os.wait()
def zombies():
    states = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            states.append(open(f"/proc/{name}/stat").read().rpartition(") ")[2][0])
    return states.count("Z")
time.sleep(1)
late = time.monotonic() + 30
while zombies() and time.monotonic() < late:
    time.sleep(0.2)
print("zombies", zombies())
'
"""


@pytest.mark.slow
async def test_a_machine_is_complete_and_switches_off():
    """With a user network, which gives an address and a name server."""
    async with booted(network=Network.USER) as (vm, broker):
        await broker.accept()
        hop = await broker.wait_hop("network", ok=True)
        assert hop.detail == ""
        await broker.run("sh", "-c", LOOK)
        await broker.receive(agent.AgentStarted)
        said, code = await broker.ended(1)
        assert said.decode().splitlines() == [
            "uid 1000",
            "host tiny",
            "/home/user",
            "writable",
            "unprivileged",
            "devices",
            "33",
            "4",
            "zombies 0",
        ]
        assert code == 0
        script = "grep -c nameserver /etc/resolv.conf; cut -f2,3 /proc/net/route"
        await broker.run("sh", "-c", script, program=2)
        await broker.receive(agent.AgentStarted)
        said, _code = await broker.ended(2)
        lines = said.decode().splitlines()
        assert int(lines[0]) >= 1
        assert any(line.startswith("00000000") for line in lines[2:]), "default route"
        await broker.send(agent.AgentPowerOff())
        assert (await vm.wait()).kind is EndKind.GUEST


@pytest.mark.slow
async def test_a_disposable_machine_without_broker_and_program_switches_off():
    args = ("vitrail.disposable=1", "vitrail.orphan=2")
    async with booted(kernel_args=args) as (vm, broker):
        await broker.accept()
        await broker.run("sleep", "4")
        await broker.receive(agent.AgentStarted)
        began = trio.current_time()
        await broker.close_all()
        # The program is left to end first, though the broker is away for longer.
        assert (await vm.wait()).kind is EndKind.GUEST
        assert trio.current_time() - began > 3


@pytest.mark.slow
async def test_its_clock_follows_the_time_in_pings():
    """Set on by an hour at once, and back once the pings have agreed for ten seconds."""
    async with booted() as (vm, broker), trio.open_nursery() as nursery:
        hello = await broker.accept()
        assert hello.version >= agent.TIMED_VERSION
        ahead, sending = 0, trio.Lock()

        async def ping():
            while True:
                now = time.time_ns() + ahead * 10**9
                async with sending:
                    await broker.send(agent.AgentPing("a", 0, now))
                await trio.sleep(2)

        nursery.start_soon(ping)
        for number, shift in enumerate((3600, 0), 1):
            ahead = shift
            until = time.time() + ahead
            script = f"d=9999; until test $d -lt 60; do sleep 1; d=$(($(date +%s) - {int(until)})); d=${{d#-}}; done; date +%s"
            async with sending:
                await broker.run("sh", "-c", script, program=number)
            await broker.receive(agent.AgentStarted)
            output, code = await broker.ended(number)
            assert code == 0
            assert abs(int(output) - time.time() - ahead) < 60
        await console_says(vm.console, b"the clock was set by +3")
        nursery.cancel_scope.cancel()
