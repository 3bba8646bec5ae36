"""Machines of one record, started as a broker starts them: copied or booted."""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.cli.images.building.build import build_image
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from broker.host.images.vmlinux import boot_kernel
from broker.host.vmm.parent.request import StartRequest
from broker.host.vmm.parent.starting import Starter
from broker.host.vmm.qemu_arguments import VmSpec
from broker.ipc import agent
from tests.kit.vm.agent_broker import AgentBroker, agent_broker
from tests.kit.vm.machines import vm_tools
from tests.kit.wayland.compositor import short_directory


class StartedCopies:
    """A starter, and the machines of one record that it starts."""

    def __init__(self, place: Path, image, tools, starter: Starter) -> None:
        self.place, self.image, self.tools = place, image, tools
        self.starter = starter
        self.problems: list[str] = []

    async def request(self, name: str, mode: str = "copy", **changes) -> StartRequest:
        directory = self.place / name
        directory.mkdir(exist_ok=True)
        spec = VmSpec(
            name=SandboxName(name),
            kernel=await boot_kernel(
                self.image.kernel, self.tools.accel, find_paths().cache
            ),
            initrd=self.image.write_initrd(directory),
            root=self.image.root,
            directory=directory,
            logs=self.place / "logs" / name,
            memory_mib=512,
            **changes,
        )
        return StartRequest(
            record="web",
            mode="no" if mode == "boot" else mode,
            image=self.image.manifest.digest,
            write_initrd=self.image.write_initrd,
            warm=("true",),
            spec=spec,
            tools=self.tools,
        )

    def shared_digest(self) -> str:
        """Return the digest of the memory that machines which share it map."""
        memory = self.starter._memories._held["web"].memory
        total, at = hashlib.sha256(), 0
        while data := os.pread(memory, 1 << 22, at):
            total.update(data)
            at += len(data)
        return total.hexdigest()

    @asynccontextmanager
    async def machine(self, name: str, *, seconds: float = 120, **changes):
        """A started machine, used for so long: (how it came up, broker's ends, machine)."""
        started = await self.starter.start(await self.request(name, **changes))
        vm = started.vm
        try:
            async with agent_broker(vm, seconds) as broker:
                await vm.cont()
                await broker.accept()
                yield started, broker, vm
        finally:
            await vm.close()


@asynccontextmanager
async def stage(image=None):
    image = image or await build_image(find_paths(), ImageSpec(), print)
    with short_directory() as place:
        problems: list[str] = []
        async with trio.open_nursery() as nursery:
            places = place / "parents", place / "standby"
            starter = Starter(places[0], nursery, problems.append, places[1])
            starter.pool.delay_seconds = 0
            starter.fork_seconds = 60
            starter.background = False
            # Parents are made when a test says so.
            starter.delay_seconds = 3600
            made = StartedCopies(place, image, await vm_tools(), starter)
            made.problems = problems
            yield made
            starter.close()
            nursery.cancel_scope.cancel()


async def output(broker: AgentBroker, script: str) -> list[str]:
    await broker.run("sh", "-c", script)
    await broker.receive(agent.AgentStarted)
    said, code = await broker.ended(1)
    assert code == 0, said
    return said.decode().split("\n")
