"""Machines of VMMs other than QEMU: a stand-in of each API, with a real guest."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError
from broker.host.launchers.monitors import connect_by, start_machine
from broker.host.vmm.control import Monitor
from broker.host.vmm.launcher import Tools, adopt_vm, clean_leftovers
from broker.host.vmm.qemu_arguments import Accel, HomeDisk
from broker.host.vmm.running import EndKind
from broker.host.vmm.vm_state import find_processes, read_state
from tests.kit.vm.machines import alive, leftovers, require_vm, tiny_spec
from tests.kit.vm.monitors.installed import install
from tests.kit.vm.tinyguest import shell_listener
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.slow
KINDS = [Monitor.FIRECRACKER, Monitor.CLOUD_HYPERVISOR, Monitor.CROSVM]
STEPS = {
    Monitor.FIRECRACKER: [
        *("PUT /machine-config", "PUT /boot-source", "PUT /drives/root"),
        *("PUT /drives/home", "PUT /vsock", "PUT /entropy"),
    ],
    Monitor.CLOUD_HYPERVISOR: ["PUT /api/v1/vm.create"],
    Monitor.CROSVM: [],  # its command line says everything
}
GO = {
    Monitor.FIRECRACKER: ["GET /", "PUT /actions"],
    Monitor.CLOUD_HYPERVISOR: ["GET /api/v1/vm.info", "PUT /api/v1/vm.boot"],
    Monitor.CROSVM: ["resume"],
}
ENDS = {
    Monitor.FIRECRACKER: b"reboot -f\n",
    Monitor.CLOUD_HYPERVISOR: b"poweroff -f\n",
    Monitor.CROSVM: b"poweroff -f\n",
}
"""How a guest ends its machine."""
FAULTS = {
    "refuse": "is refused",
    "silent": "did not answer",
    "garbage": "invalid reply: no HTTP status",
    "flood": "invalid reply: more than",
    "huge": "invalid reply: more than",
    "close": "closed the connection",
    "die": ".",
}


class Stage:
    """A place, a kind of VMM and its stand-in."""

    def __init__(self, place, kind, monkeypatch):
        self.place = place
        self.kind = kind
        self._monkeypatch = monkeypatch
        self.run = place / "run"
        self.backend = require_vm().vhost_device_vsock
        self.install()

    def install(self, **fault):
        program = self.place / "bin"
        self.program = install(program, self.kind.value, fault.get("fault"))
        path = f"{program}:{os.environ['PATH']}"
        if not os.environ["PATH"].startswith(str(program)):
            self._monkeypatch.setenv("PATH", path)

    def fault(self, where, what):

        text = json.dumps({where: what})
        (self.place / "bin" / "fault.json").write_text(text)

    @property
    def directory(self):
        return self.run / "tiny"

    async def start(self, nursery, **changes):
        root = self.place / "root"
        root.write_bytes(bytes(1 << 20))
        backend = None if self.kind.hybrid else self.backend
        tools = Tools(self.program, Accel.KVM, backend, monitor=self.kind)
        spec = tiny_spec(self.run, root=root, **changes)
        self.losses = []
        started = await start_machine(
            spec,
            tools,
            (self.place / "cache", nursery),
            frozenset(),
            self.losses.append,
        )
        assert started.how == "boot"
        return started.vm

    @asynccontextmanager
    async def machine(self, **changes):
        async with trio.open_nursery() as nursery:
            vm = await self.start(nursery, **changes)
            try:
                yield vm
            finally:
                await vm.close()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.value)
def stage(request, monkeypatch):
    with short_directory() as place:
        yield Stage(place, request.param, monkeypatch)
        for state in place.rglob("vm.json"):  # a test that failed half-way
            for process in find_processes(read_state(state.parent)).all:
                process.kill()
                process.close()


@pytest.fixture
def home(stage):
    disk = stage.place / "home"
    disk.write_bytes(bytes(1 << 20))
    lock = os.open(disk, os.O_RDWR)
    yield HomeDisk(disk, frozenset({"home"}), lock)
    os.close(lock)


def logs(stage):
    """What a machine that has ended leaves."""
    return ["logs", "logs/console.log"]


async def test_a_guest_boots_runs_and_ends_itself(stage, home):
    """Its connections come from the VMM, its sizes and disks are those asked for."""
    async with stage.machine(cpus=2, memory_mib=224, home=home) as vm:
        assert vm.vmm.role == stage.kind.program
        async with shell_listener(vm.uds) as accept:
            assert vm.console.path.read_bytes() == b"", "it has not run yet"
            await vm.cont()
            await vm.cont()  # one that runs is left alone
            shell = await accept()
            code, said = await shell.run(
                "ls /sys/class/net; nproc; cat /proc/cmdline; "
                "cat /sys/block/vda/ro /sys/block/vdb/ro; grep MemTotal /proc/meminfo"
            )
            assert code == 0
            net, cpus, cmdline, root, kept, memory = said.splitlines()
            assert (net, cpus, root, kept) == ("lo", "2", "1", "0")
            assert "vitrail.name=tiny vitrail.disposable=1" in cmdline
            assert 150_000 < int(memory.split()[1]) < 224 * 1024
            await shell.stream.send_all(ENDS[stage.kind])
            with trio.fail_after(60):
                end = await vm.wait()
        assert (end.kind, "the guest powered" in end.reason) == (EndKind.GUEST, True)
        assert alive(vm) == []
        assert b"vitrail-probe-ok" in vm.console.path.read_bytes()
    assert leftovers(stage.run) == logs(stage)


async def test_its_death_cuts_the_streams_and_leaves_nothing(stage):
    async with stage.machine() as vm:
        async with shell_listener(vm.uds) as accept:
            await vm.cont()
            shell = await accept()
            vm.vmm.kill()
            with trio.fail_after(30):
                assert await shell.stream.receive_some() == b""
                end = await vm.wait()
        assert (end.kind, end.reason.startswith(stage.kind.program)) == (
            EndKind.LOST,
            True,
        )
    assert leftovers(stage.run) == logs(stage)


async def test_a_full_console_does_not_hold_up_the_guest_and_it_is_switched_off(stage):
    """No broker reads the console; the guest continues, and its machine can be ended."""
    async with stage.machine() as vm:
        async with shell_listener(vm.uds) as accept:
            await vm.cont()
            shell = await accept()
            code, said = await shell.run(
                "head -c 300000 /dev/zero >/dev/console; echo done"
            )
            assert (code, said.strip()) == (0, "done")
            assert Path(vm.directory, "console").is_fifo()
            with trio.fail_after(60):
                end = await vm.power_down(0.1)
        assert end.kind is EndKind.ASKED
        assert alive(vm) == []


async def test_a_later_broker_takes_it_over(stage):
    """One that has not begun to run, and one that runs."""
    async with trio.open_nursery() as nursery:
        first = await stage.start(nursery)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        vm = await adopt_vm(stage.directory, nursery=nursery, connect=connect_by)
        async with shell_listener(vm.uds) as accept:
            await vm.cont()
            shell = await accept()
            async with trio.open_nursery() as second:
                again = await adopt_vm(
                    stage.directory, nursery=second, connect=connect_by
                )
                await again.cont()
                code, _said = await shell.run("echo yes >/dev/console")
                assert code == 0
                second.cancel_scope.cancel()
            again.console.close()
        await vm.close()
        assert alive(vm) == []
        for process in again.processes:
            process.close()
    await first.close()
    assert leftovers(stage.run) == logs(stage)


async def test_it_ends_while_no_broker_watches(stage):
    async with trio.open_nursery() as nursery:
        vm = await stage.start(nursery)
        nursery.cancel_scope.cancel()
    os.kill(vm.vmm.pid, signal.SIGKILL)
    with trio.fail_after(30):
        await vm.vmm.wait()
    async with trio.open_nursery() as nursery:
        found = await adopt_vm(stage.directory, nursery=nursery, connect=connect_by)
        assert found is None
    await clean_leftovers(stage.directory)
    await vm.close()
    assert leftovers(stage.run) == logs(stage)


def _answers_soon(fault, monkeypatch):
    """Wait briefly for a silent VMM only: before its fault each has to answer in time."""
    if fault == "silent":
        monkeypatch.setattr(limits, "VMM_ANSWER_SECONDS", 1.0)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_vmm_that_misbehaves_while_it_is_configured(
    stage, home, fault, monkeypatch
):
    """At each step: the start fails within its deadline, and nothing is left."""
    _answers_soon(fault, monkeypatch)
    for step in STEPS[stage.kind]:
        stage.fault(step, fault)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60), pytest.raises(UpstreamError) as caught:
                await stage.start(nursery, home=home)
        assert re.search(FAULTS[fault], str(caught.value))
        assert "\x1b" not in str(caught.value)
        assert leftovers(stage.run) == logs(stage), step


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_vmm_that_misbehaves_when_it_is_to_run(stage, fault, monkeypatch):
    _answers_soon(fault, monkeypatch)
    for step in GO[stage.kind]:
        stage.fault(step, fault)
        async with stage.machine() as vm:
            with trio.fail_after(60), pytest.raises(VitrailError) as caught:
                await vm.cont()
            if stage.kind is not Monitor.CROSVM:  # its own verb reads the answer
                assert re.search(FAULTS[fault], str(caught.value))
            assert "\x1b" not in str(caught.value)
        assert leftovers(stage.run) == logs(stage), step


@pytest.mark.parametrize("fault", ["die", "silent", "link"])
async def test_a_vmm_whose_api_does_not_come_up(stage, fault, monkeypatch):
    """Or is a link to another program's socket, which gets no byte from us."""
    monkeypatch.setattr(limits, "VM_READY_SECONDS", 2.0)
    stage.fault("start", fault)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60), pytest.raises(VitrailError) as caught:
            await stage.start(nursery)
    assert stage.kind.program in str(caught.value)
    assert leftovers(stage.run) == logs(stage)
