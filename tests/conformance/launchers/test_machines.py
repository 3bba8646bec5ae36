"""The launchers of machines pass the steps of ``broker.host.launchers.interface``, too.

As test_launchers.py does for containers and boxes: with real machines, a real broker
and, for libvirt, its session's daemon with our hook.  Each test starts one machine.
systemd-vmspawn needs a newer systemd than this machine's: root's half boots one.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.core.errors import VitrailError
from broker.helpers.process.spawn import wait_ended
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import LEASE_LIST
from tests.kit import brokerctl
from tests.kit.booted import PLACE
from tests.kit.eventually import eventually
from tests.kit.records import shown_record
from tests.kit.vm.libvirt import RECORD, libvirt, require_libvirt
from tests.kit.vm.machines import require_vm
from tests.kit.vm.vmspawn import OWN, booted_sid, own_vmspawn
from tests.kit.world import record, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
NAME = "work"
RECORD_OF_MONITOR = shown_record(
    'kind = "{}"', 'memory = "512M"', "boot_deadline = 300"
)


class MicroVm:
    """Started by the broker itself."""

    record = record("persistent")
    directory = "sandboxes"
    extra = None
    program = "broker.programs.local"
    says_runs = None
    """A second start is the same sandbox: it gets a second program."""
    with_its_command = False
    """Whether it ends with the command that made it, and so with the broker."""

    def __init__(self, w, stack):
        self.w = w
        self._stack = stack

    async def start(self):
        await self.w.run(NAME, "sleep", "1000", window=False)

    async def end(self):
        """End it as a person does."""
        await self.w.stop(NAME, grace=0.1)


class Libvirt(MicroVm):
    """Bound by libvirt's hook."""

    record = RECORD.format(NAME)
    directory = "libvirt"
    says_runs = "already"

    async def start(self):
        if not hasattr(self, "_virt"):
            self._virt = await self._stack.enter_async_context(libvirt(self.w))
        await self._virt.start(NAME)

    async def end(self):
        await self._virt.virsh("destroy", NAME)


class OneRun(MicroVm):
    """Made by ``brokerctl run``, and gone with it."""

    directory = "libvirt"
    with_its_command = True
    env = None

    async def start(self):
        words = ("run", "-q", "--no-window", NAME, "--", "sleep", "1000")
        environ = await self._environment()
        began = len(self.w.events("program.started"))
        await self._stack.enter_async_context(brokerctl.running(*words, env=environ))

        def runs():
            return len(self.w.events("program.started")) > began

        await eventually(runs, deadline=300)

    async def _environment(self):
        if self.env is None:
            self.env = await self.prepared()
        return self.env


class LibvirtQemu(OneRun):
    """In the session's libvirt."""

    record = OWN.replace("vmspawn", "libvirt-qemu")

    async def prepared(self):
        virt = await self._stack.enter_async_context(libvirt(self.w))
        await virt.virsh("list")  # its libvirtd has the hook
        return self.w.environ


class Vmspawn(OneRun):
    """With systemd-vmspawn."""

    record = OWN

    async def prepared(self):
        return own_vmspawn(self.w)


LAUNCHERS = {
    "microvm": MicroVm,
    "libvirt": Libvirt,
    "libvirt-qemu": LibvirtQemu,
    "vmspawn": Vmspawn,
}


@pytest.fixture(params=LAUNCHERS)
def kind(request):
    require_vm()
    if request.param == "vmspawn" and not PLACE:
        pytest.skip("root's half of this file runs it")
    if request.param.startswith("libvirt"):
        require_libvirt()
        if shutil.which("bwrap") is None:
            pytest.skip("bubblewrap is not installed")
    return LAUNCHERS[request.param]


@pytest.mark.root
@pytest.mark.parametrize(
    "case",
    ["its_sockets_are", "a_later_broker", "what_ended"],
)
def test_as_root(case):
    with booted_sid() as system:
        (name,) = [n for n in globals() if n.startswith(f"test_{case}")]
        system.pytest_of_host(Path(__file__), f"{name[5:]}[vmspawn]")


@asynccontextmanager
async def running(kind):
    """A world in which a machine of the record runs, and its lease."""
    async with AsyncExitStack() as stack:
        w = await stack.enter_async_context(
            world({NAME: kind.record}, extra=kind.extra, program=kind.program)
        )
        launcher = kind(w, stack)
        await launcher.start()
        yield w, launcher, await leased(w)


async def leases(w):
    async with w.client() as client:
        return (await client.call(LEASE_LIST, Nothing())).leases


async def leased(w):
    (found,) = await eventually(lambda: leases(w), deadline=120)
    assert found.sandbox == NAME
    return found


def sockets(w, kind):
    """Its sockets for the services, in a directory that is ours alone."""
    folder = w.paths.runtime / kind.directory / NAME
    return sorted(path for path in folder.rglob("*_65[0-9][0-9]") if path.is_socket())


async def ended(pidfd):
    with trio.fail_after(120):
        await wait_ended(pidfd)


async def nothing_left(w, kind):
    async def gone():
        return not await leases(w)

    await eventually(gone, deadline=60)
    folder = w.paths.runtime / kind.directory / NAME
    await eventually(lambda: not folder.exists(), deadline=60)


async def test_its_sockets_are_its_own_and_its_end_leaves_nothing(kind):
    """A connection from outside is refused; a second start is no second sandbox."""
    async with running(kind) as (w, launcher, lease):
        found = sockets(w, kind)
        assert found
        assert all(p.parent.stat().st_mode & 0o077 == 0 for p in found)
        begin = await w.only_event("lease.begin")
        assert (begin["sandbox"], begin["pid"]) == (NAME, lease.pid)
        # By a process that has found the path: the kernel says who connects.
        stream = await trio.open_unix_socket(str(found[0]))
        with trio.fail_after(60):
            assert await stream.receive_some() == b""
        await stream.aclose()
        await w.wait_event("stream.refused", sandbox=NAME)
        if kind.says_runs is None:
            await launcher.start()
        else:
            with pytest.raises(VitrailError, match=kind.says_runs):
                await launcher.start()
        assert [(one.id, one.pid) for one in await leases(w)] == [(lease.id, lease.pid)]
        pidfd = os.pidfd_open(lease.pid)
        try:
            await launcher.end()
            await ended(pidfd)
        finally:
            os.close(pidfd)
        await w.wait_event("lease.end", sandbox=NAME)
        await nothing_left(w, kind)


async def test_a_later_broker_leases_it_again_and_its_death_ends_the_lease(kind):
    """One that ends with its command ends with the broker, which runs its program."""
    async with running(kind) as (w, _launcher, lease):
        machine = os.pidfd_open(lease.pid)
        os.kill(await w.broker_pid(), signal.SIGKILL)
        if kind.with_its_command:
            await ended(machine)
            os.close(machine)
            await w.start()
            await nothing_left(w, kind)
            return
        os.close(machine)
        await w.start()
        again = await leased(w)
        assert (again.pid, again.id != lease.id) == (lease.pid, True)
        assert sockets(w, kind)
        os.kill(lease.pid, signal.SIGKILL)
        end = await w.wait_event("lease.end", sandbox=NAME)
        assert end["reason"]
        await nothing_left(w, kind)


async def test_what_ended_while_no_broker_ran_is_cleared_away(kind):
    async with running(kind) as (w, _launcher, lease):
        broker = os.pidfd_open(await w.broker_pid())
        machine = os.pidfd_open(lease.pid)
        try:
            signal.pidfd_send_signal(broker, signal.SIGKILL)
            await ended(broker)
            # One that ends with its command has.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(machine, signal.SIGKILL)
            await ended(machine)
        finally:
            os.close(broker)
            os.close(machine)
        await w.start()
        await nothing_left(w, kind)
        assert w.events("lease.begin", sandbox=NAME)[1:] == []
