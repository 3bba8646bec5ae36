"""Machines that are copies of a booted one: whole, and each separate."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from broker.host.vmm.qemu_arguments import Network
from tests.kit.needs import FORKING_VM
from tests.kit.vm.copies import output, stage
from tests.kit.vm.machines import alive, leftovers

MODES = [
    ("copy", "copy"),
    pytest.param("shared", "fork", marks=pytest.mark.long),
]


pytestmark = FORKING_VM


IDENTITY = """
od -An -N16 -tx1 /dev/urandom; cat /proc/sys/kernel/random/boot_id /etc/machine-id
hostname; date +%s; ls /sys/class/net; cat /sys/class/net/*/address
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "how"), MODES)
async def test_copies_are_machines_of_their_own(mode, how):
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode=mode))
        parent = s.place / "parents" / "web"
        before = (parent / "memory").read_bytes()
        said = []
        async with AsyncExitStack() as stack:
            for name in ("one", "two"):
                began = trio.current_time()
                enter = s.machine(name, mode=mode, network=Network.USER)
                started, broker, _vm = await stack.enter_async_context(enter)
                print(f"{name}: hello after {trio.current_time() - began:.2f} s")
                assert (started.how, started.why) == (how, "")
                said.append(await output(broker, IDENTITY))
                await broker.wait_hop("network", ok=True)
        one, two = said
        # What the kernel drew, boot id, machine id, name, the card's address.
        for number in (0, 1, 2, 3):
            assert one[number] != two[number], number
        assert (one[3], two[3]) == ("one", "two")
        assert abs(int(one[4]) - int(two[4])) < 120
        assert one[5:7] == ["eth0", "lo"] or "lo" in one[5:8]
        assert {line for line in one if line.startswith("52:54:00:")}.isdisjoint(
            {line for line in two if line.startswith("52:54:00:")}
        )
        assert (parent / "memory").read_bytes() == before
        # The stage writes that itself, where the image has an older agent.
        assert leftovers(s.place / "one") in ([], ["initrd"])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "how"), MODES)
async def test_a_copy_that_fails_boots_in_the_same_start(mode, how):
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode=mode))
        state = s.place / "parents" / "web" / "state"
        state.chmod(0o600)
        size = state.stat().st_size
        state.write_bytes(bytes(size))
        async with s.machine("one", mode=mode) as (started, broker, vm):
            assert started.how == "boot"
            assert f"the {how} failed" in started.why
            assert "one" in await output(broker, "hostname")
            assert alive(vm) == ["QEMU", "vhost-device-vsock"]
        assert not (s.place / "parents" / "web").exists()
        assert s.problems == []
