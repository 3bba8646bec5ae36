"""Machines that share their parent's memory, page by page, until they write.

Each maps the same file privately (copy-on-write).  Two things make that safe: no
process can write into the file, because it is a sealed memfd, and no machine has a
device by which QEMU would free a part of it (``arguments.refuse_freeing``).

A sealed memfd and not a file that QEMU opens for reading: that is possible from QEMU
8.2 only, and what the kernel refuses holds for a QEMU that was taken over, too.  Its
size cannot change either: a page after the end of a mapped file is a SIGBUS.

A process of a vhost-user device cannot serve such a machine, for it would map the
parent.  The streams go through a virtio-serial port instead, to
``broker.host.vmm.port_mux``.

Sources: memfd_create(2), F_ADD_SEALS in fcntl(2), QEMU's
``docs/system/vm-templating``.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.homes.sparse import copy_sparse
from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent.arguments import ForkWiring
from broker.host.vmm.parent.fork import CopyPlan, WaitingPlan
from broker.host.vmm.parent.parent_files import MEMORY, StoredParent
from broker.host.vmm.port_mux import (
    PortMux,
    mux_program,
    start_port_mux,
    why_missing,
)
from broker.host.vmm.qemu_arguments import VmSpec
from broker.host.vmm.running import Vm
from broker.ipc.in_thread import in_thread

# Machines share their parent's memory only where the record says so. Context: machines
# that map their parent's file copy-on-write need a fraction of the memory; what
# state.md says are the measurements. Until now that was refused, because a vhost-user
# device cannot be in such a machine: its process maps the guest's memory as the file
# that it is, so vhost-device-vsock would get the parent itself, writable, and read
# nothing that the guest has written since.
#
# Decision: `fork = "shared"` exists, by record, and `copy` stays the default.
# * The streams go through a virtio-serial port that our process splits into the sockets
#   of the sandbox: one for each machine, in C, in a jail, because the broker takes the
#   process at the other end of a connection as its holder.
# * The parent's memory is a memfd with `F_SEAL_WRITE`, `F_SEAL_SHRINK`, `F_SEAL_GROW`
#   and `F_SEAL_SEAL`, made of the file on disk with the first fork. QEMU from 8.2 can
#   map a file that it has opened for reading (`readonly=on,rom=off`), and the kernel
#   could then drop pages of the parent that are not in use. Not taken: a process that
#   owns a file can make it writable again, a seal cannot be broken, and Debian 12 has
#   QEMU 7.2.
# * The builder of the command line has a list of devices and objects that such a
#   machine may have, and refuses every other: a balloon punches holes into the file
#   where the guest says, which without the seal ended its siblings when it was tried.
#   With the seal QEMU's call fails and nothing changes:
#   `tests/e2e/test_shared_memory.py` does both.
# * Not the default: physical pages that machines share are a side channel by the
#   processor's caches, which a user has to want.
#
# With the kernel's vhost-vsock, which reads QEMU's own mapping, no such port would be
# needed; no machine with that device was at hand, and machines with it boot.
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def why_not_shared() -> str:
    """Return why no machine can share memory here, or nothing."""
    why = why_missing()
    return f"cannot share memory: {why}" if why else ""


def seal_memory(parent: StoredParent, size: int) -> int:
    """Return a sealed memory file with the contents of a parent's memory.

    ``size`` is that of the machine, in bytes.  Blocks.  Raises UpstreamError for a
    file of another size, OSError when memory is short.
    """
    source = parent.open(MEMORY)
    try:
        if os.fstat(source).st_size != size:
            raise UpstreamError("the memory of the parent machine has another size")
        memory = os.memfd_create(
            "vitrail-parent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        )
        try:
            copy_sparse(source, memory)
            # guard: no machine can write into the memory of its siblings
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(memory)
            raise
        return memory
    finally:
        os.close(source)


@dataclass(frozen=True)
class _Held:
    parent: StoredParent
    memory: int


class SharedMemories:
    """The sealed memory of parents, one for each record, while they are valid.

    Machines that run keep theirs; what we hold is for those to come.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._held: dict[str, _Held] = {}
        self._lock = trio.Lock()

    async def open(self, record: str, parent: StoredParent, size: int) -> int:
        """Return a descriptor of a parent's shared memory; the caller closes it.

        Raises as ``seal_memory``.
        """
        async with self._lock:
            held = self._held.get(record)
            # guard: a machine has the memory of the parent whose state it has
            if held is None or held.parent != parent:
                self.drop(record)
                held = _Held(parent, await in_thread(seal_memory, parent, size))
                self._held[record] = held
                self._nursery.start_soon(self._drop_when_old, record, held)
            return os.dup(held.memory)

    def drop(self, record: str) -> None:
        """Let go of a record's memory."""
        held = self._held.pop(record, None)
        if held is not None:
            os.close(held.memory)

    def close(self) -> None:
        """Let go of all."""
        for record in list(self._held):
            self.drop(record)

    async def _drop_when_old(self, record: str, held: _Held) -> None:
        left = held.parent.made + limits.PARENT_SECONDS - time.time()
        await trio.sleep(max(0.0, left))
        if self._held.get(record) is held:
            self.drop(record)


class SharedPlan(CopyPlan):
    """A machine on its way up whose memory is that of ``parent``."""

    def __init__(
        self,
        spec: VmSpec,
        tools: Tools,
        undo: AsyncExitStack,
        on_loss: Callable[[str], None] | None,
        *,
        parent: StoredParent,
        warm: Sequence[str],
        record: str,
        memories: SharedMemories,
    ) -> None:
        # In the place of the machine's vsock device, the kernel's too.
        tools = replace(tools, vhost_device_vsock=mux_program())
        super().__init__(spec, tools, undo, on_loss, parent=parent, warm=warm)
        self._record = record
        self._memories = memories

    @override
    async def take_memory(self) -> None:
        size = self._spec.memory_mib << 20
        opened = self._memories.open(self._record, self._parent, size)
        self._memory = await opened
        self._files.callback(os.close, self._memory)

    @override
    async def start_streams(self, tool: Path, cid: int) -> PortMux:
        """Start the multiplexer of the guest's connections, in its jail."""
        place, unjailed = self._spec.directory, self._unjailed
        known = self._write_down
        return await start_port_mux(
            place, cid, unjailed=unjailed, known=known, program=tool
        )

    @override
    def wire_streams(
        self, wiring: ForkWiring, passed: ExitStack, fds: list[int]
    ) -> ForkWiring:
        streams = self.streams_socket(passed)
        fds.append(streams)
        return replace(wiring, streams_fd=streams, private=True)

    @override
    async def plug_streams(self, vm: Vm) -> None:
        """Its port is there from the beginning."""


class WaitingSharedPlan(WaitingPlan, SharedPlan):
    """A machine that is loaded, and waits, paused, for its name."""
