"""Starting a copy of a parent: paused, with an identity, as if it had booted.

The copy has its memory: a memfd with the content of the parent's file, holes
kept.  Its guest runs for a moment before the lease: it takes its identity and sees
its vsock device, and nothing else, for no program has been started and no listener
exists.  Then it is paused again, so that to the caller it is like any other.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
import uuid
from collections.abc import Callable, Container, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

import trio
from typing_extensions import override

from broker.core.errors import UpstreamError, sole
from broker.core.names import SandboxName
from broker.host.homes.sparse import copy_sparse
from broker.host.processes.tracked import Tracked
from broker.host.vmm.launcher import LaunchPlan, Tools
from broker.host.vmm.parent.arguments import (
    ARENA_SLOT,
    NIC_SLOT,
    VSOCK_SLOT,
    ForkWiring,
    forkable_args,
)
from broker.host.vmm.parent.make import hear, ignore_shared
from broker.host.vmm.parent.parent_files import MEMORY, STATE, StoredParent
from broker.host.vmm.parent.parent_messages import (
    BEGIN,
    REHEARSE,
    SEED_BYTES,
    GuestWords,
    Identity,
)
from broker.host.vmm.qemu_arguments import VmSpec, arena_object, listener_args
from broker.host.vmm.qmp import Qmp
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import QEMU
from broker.host.vmm.vmm_jail import qemu_view, spawn_jailed
from broker.ipc.in_thread import in_thread

_POLL_SECONDS = 0.005


class CopyPlan(LaunchPlan):
    """A machine on its way up as a copy of ``parent``."""

    def __init__(
        self,
        spec: VmSpec,
        tools: Tools,
        undo: AsyncExitStack,
        on_loss: Callable[[str], None] | None,
        *,
        parent: StoredParent,
        warm: Sequence[str],
    ) -> None:
        super().__init__(spec, tools, undo, on_loss)
        self._parent = parent
        self._warm = warm
        self._memory = -1
        self._files = ExitStack()
        undo.callback(self._files.close)
        self._state_file = parent.open(STATE)
        self._files.callback(os.close, self._state_file)
        self._port, self._far_port = socket.socketpair()
        self._port.settimeout(0)
        for end in (self._port, self._far_port):
            self._files.callback(end.close)

    @override
    async def start_helpers(self, cid: int | None, quarantine: Container[int]) -> None:
        """Copy the parent's memory while other helpers start."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.take_memory)
                await super().start_helpers(cid, quarantine)
        except ExceptionGroup as errors:
            raise sole(errors) from None

    async def take_memory(self) -> None:
        """Create the machine's memory: a memfd with a copy of the parent's."""
        self._memory = os.memfd_create(
            "vitrail-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        self._files.callback(os.close, self._memory)
        await in_thread(_fill, self._parent, self._memory)

    @override
    async def spawn_vmm(self, passed: ExitStack) -> Tracked:
        """Start the copy's VMM with memory, state and port."""
        sockets = self.listen_sockets(passed)
        passed.enter_context(self._far_port)
        fds = [self._memory, self._state_file, self._far_port.fileno()]
        extra: list[str] = []
        if self._network is not None and self._network.conn is not None:
            nic = passed.enter_context(self._network.conn).fileno()
            fds.append(nic)
            net = f"stream,id=net,server=off,addr.type=fd,addr.str={nic}"
            extra += ["-netdev", net]
        if self._spec.arena_bytes:
            # A new one: in its parent's a copy would find its siblings' pixels.
            arena = self.make_arena(passed, fds)
            extra += arena_object(arena, self._spec.arena_bytes)
        serial = [word for n, fd in sockets.items() for word in listener_args(n, fd)]
        wiring = ForkWiring(
            self._memory,
            str(uuid.uuid4()),
            self._far_port.fileno(),
            serial,
            extra,
            incoming=True,
        )
        wiring = self.wire_streams(wiring, passed, fds)
        tools = self._tools
        words = forkable_args(self._spec, tools.vmm, tools.accel, wiring, self._warm)
        view = qemu_view(self._spec, tools.vmm, tools.accel, boots=False)
        view = replace(view, proc=True)
        fds += sockets.values()
        return await spawn_jailed(
            QEMU,
            words,
            view,
            pass_fds=fds,
            unjailed=self._unjailed,
            known=self._write_down,
        )

    def wire_streams(
        self, wiring: ForkWiring, passed: ExitStack, fds: list[int]
    ) -> ForkWiring:
        """Add QEMU's chardev for the guest's streams, and its descriptor to ``fds``."""
        vsock = self.streams_socket(passed)
        fds.append(vsock)
        extra = (*wiring.extra, "-chardev", f"socket,id=vsock,fd={vsock}")
        return replace(wiring, extra=extra)

    def streams_socket(self, passed: ExitStack) -> int:
        """Return the descriptor of the streams' process, for QEMU.

        Raises UpstreamError.
        """
        if self._hybrid is None:
            raise UpstreamError("a copy requires a process for its streams")
        return passed.enter_context(self._hybrid.conn).fileno()

    @override
    async def prepare(self, vm: Vm) -> None:
        """Load the state, plug the devices, give the identity, and pause."""
        with self._files:
            await self.load(vm)
            await self.identify(vm, self._spec.name)

    async def load(self, vm: Vm) -> None:
        """Load the state and plug the devices; the guest does not run."""
        await _load(vm.qmp, self._state_file)
        await self.plug_streams(vm)
        if self._network is not None:
            nic = {"driver": "virtio-net-pci", "netdev": "net", "bus": NIC_SLOT}
            mac = "52:54:00:" + secrets.token_bytes(3).hex(":")
            await vm.qmp.execute("device_add", {**nic, "mac": mac, "romfile": ""})
        if vm.arena >= 0:
            arena = {"driver": "virtio-pmem-pci", "memdev": "arena", "bus": ARENA_SLOT}
            await vm.qmp.execute("device_add", arena)

    async def plug_streams(self, vm: Vm) -> None:
        """Plug the device that carries the machine's streams."""
        device = {"driver": "vhost-user-vsock-pci", "chardev": "vsock"}
        await vm.qmp.execute("device_add", {**device, "bus": VSOCK_SLOT})

    async def identify(self, vm: Vm, name: SandboxName) -> None:
        """Send the guest its identity, let it apply that, and pause it again."""
        self._port.send(self._identity(vm.cid, name).encode())
        await vm.cont()
        await hear(self._port, GuestWords("taken", "linked"))
        await vm.qmp.execute("stop")
        vm.say_when_running(self._port.dup(), BEGIN)

    def _identity(self, cid: int, name: SandboxName) -> Identity:
        """Return the identity that the copied machine takes on."""
        network = () if self._network is None else self._network.kernel_args
        words = dict(word.partition("=")[::2] for word in network)
        return Identity(
            name=name,
            time=time.time_ns(),
            seed=secrets.token_bytes(SEED_BYTES),
            cid=cid,
            disposable=self._spec.disposable,
            net=words.get("vitrail.net", ""),
            dns=words.get("vitrail.dns", ""),
            dns6=words.get("vitrail.dns6", ""),
            search=words.get("vitrail.search", ""),
        )


class WaitingPlan(CopyPlan):
    """A copy that is loaded, and waits, paused, for its name.

    Its guest has rehearsed: run the record's program once, without a name and without a
    connection, and removed the files that it left.  The code that the next start runs is
    translated then, which is a fourth of that start's work where it is emulated.  The
    identity, the time and the seed are those of the moment at which it is used.
    """

    @override
    async def prepare(self, vm: Vm) -> None:
        """Load the state, plug the devices and rehearse."""
        try:
            await self.load(vm)
            self._port.send(REHEARSE)
            await vm.cont()
            await hear(self._port, GuestWords("rehearsed"))
            await vm.qmp.execute("stop")
        except BaseException:
            self.release()
            raise

    async def wake(self, vm: Vm, name: SandboxName) -> None:
        """Give it the identity of a sandbox; it is paused again after that."""
        with self._files:
            await self.identify(vm, name)

    def release(self) -> None:
        """Close what ``wake`` would have needed."""
        self._files.close()


def _fill(parent: StoredParent, memory: int) -> None:
    """Copy the parent's memory to a memory file."""
    source = parent.open(MEMORY)
    try:
        copy_sparse(source, memory)
    finally:
        os.close(source)
    # A guest's memory that became shorter would be a SIGBUS of vhost-device-vsock.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


async def _load(qmp: Qmp, state: int) -> None:
    """Have QEMU load the devices' state; return when it has."""
    await ignore_shared(qmp)
    await qmp.execute("migrate-incoming", {"uri": f"fd:{state}"})
    while True:
        answer = await qmp.execute("query-status")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status != "inmigrate":
            return
        await trio.sleep(_POLL_SECONDS)
