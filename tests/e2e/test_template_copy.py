"""Machines that are copies of a booted one: whole, and each of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.core.services import AGENT, DISPLAY, PORTS
from broker.ipc import agent
from broker.launch.image.build import build_image
from broker.launch.image.store import ImageSpec
from broker.launch.microvm.launcher import Network, VmSpec
from broker.launch.template.starting import Starter, StartRequest
from tests.kit.vm.agent_broker import AgentBroker
from tests.kit.vm.machines import alive, leftovers, require_vm, vm_tools
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(autouse=True)
def _vm():
    require_vm()


class Stage:
    """A starter, and the machines of one record that it starts."""

    def __init__(self, place: Path, image, tools, starter: Starter) -> None:
        self.place, self.image, self.tools = place, image, tools
        self.starter = starter
        self.problems: list[str] = []

    def request(self, name: str, **changes) -> StartRequest:
        directory = self.place / name
        directory.mkdir(exist_ok=True)
        spec = VmSpec(
            name=SandboxName(name),
            kernel=self.image.kernel,
            initrd=self.image.write_initrd(directory),
            root=self.image.root,
            directory=directory,
            logs=self.place / "logs" / name,
            memory_mib=512,
            **changes,
        )
        return StartRequest(
            record="web",
            mode="copy",
            image=self.image.manifest.digest,
            write_initrd=self.image.write_initrd,
            warm=("true",),
            spec=spec,
            tools=self.tools,
        )

    @asynccontextmanager
    async def machine(self, name: str, **changes):
        """A started machine: (how it came up, broker's ends, machine)."""
        started = await self.starter.start(self.request(name, **changes))
        vm = started.vm
        try:
            paths = (Path(f"{vm.uds}_{PORTS[port]}") for port in (AGENT, DISPLAY))
            broker = AgentBroker(*paths)
            try:
                with trio.fail_after(120):
                    await vm.cont()
                    await broker.accept()
                    yield started, broker, vm
            finally:
                with trio.CancelScope(shield=True):
                    await broker.close_all()
        finally:
            await vm.close()


@asynccontextmanager
async def stage():
    image = await build_image(find_paths(), ImageSpec(), print)
    with short_directory() as place:
        problems: list[str] = []
        async with trio.open_nursery() as nursery:
            starter = Starter(place / "templates", nursery, problems.append)
            starter.fork_seconds = 60
            made = Stage(place, image, await vm_tools(), starter)
            made.problems = problems
            yield made
            nursery.cancel_scope.cancel()


IDENTITY = """
od -An -N16 -tx1 /dev/urandom; cat /proc/sys/kernel/random/boot_id /etc/machine-id
echo; hostname; date +%s; ls /sys/class/net; cat /sys/class/net/*/address
"""


async def output(broker: AgentBroker, script: str) -> list[str]:
    await broker.run("sh", "-c", script)
    await broker.receive(agent.AgentStarted)
    said, code = await broker.ended(1)
    assert code == 0, said
    return said.decode().split("\n")


@pytest.mark.slow
async def test_copies_are_machines_of_their_own():
    async with stage() as s:
        await s.starter.make(s.request("maker"))
        template = s.place / "templates" / "web"
        before = (template / "memory").read_bytes()
        said = []
        async with AsyncExitStack() as stack:
            for name in ("one", "two"):
                began = trio.current_time()
                enter = s.machine(name, network=Network.USER)
                started, broker, _vm = await stack.enter_async_context(enter)
                print(f"{name}: hello after {trio.current_time() - began:.2f} s")
                assert (started.how, started.why) == ("copy", "")
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
        assert (template / "memory").read_bytes() == before
        assert leftovers(s.place / "one") == ["initrd"]


@pytest.mark.slow
async def test_a_copy_that_fails_boots_in_the_same_start():
    async with stage() as s:
        await s.starter.make(s.request("maker"))
        state = s.place / "templates" / "web" / "state"
        state.chmod(0o600)
        size = state.stat().st_size
        state.write_bytes(bytes(size))
        async with s.machine("one") as (started, broker, vm):
            assert started.how == "boot"
            assert "the copy failed" in started.why
            assert "one" in await output(broker, "hostname")
            assert alive(vm) == ["QEMU", "vhost-device-vsock"]
        assert not (s.place / "templates" / "web").exists()
        assert s.problems == []
