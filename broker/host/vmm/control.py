"""How a running machine is controlled: the interface, and QEMU's monitor as its implementation.

A machine's process (its VMM) is QEMU, or one of those in ``launch.monitors``, each
with another API.  What ``running`` needs of them is the same.

The host controls a machine by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, Self, TypeAlias

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.host.processes.ready import open_stream
from broker.host.processes.tracked import Tracked
from broker.host.vmm.qmp import Qmp, QmpEvent, open_qmp


class Monitor(StrEnum):
    """The programs that can run a machine; the values of ``launch.kind`` but QEMU's."""

    program: str
    """Its name in messages, and its process's role."""
    hybrid: bool
    """Whether it has a vsock of its own, whose connections arrive at UNIX sockets."""

    def __new__(cls, name: str, program: str = "", *hybrid: bool) -> Self:
        """Take the columns of a row."""
        made = str.__new__(cls, name)
        made._value_, made.program, made.hybrid = name, program, any(hybrid)
        return made

    QEMU = "qemu", "QEMU"
    FIRECRACKER = "firecracker", "Firecracker", True
    CLOUD_HYPERVISOR = "cloud-hypervisor", "Cloud Hypervisor", True
    CROSVM = "crosvm", "crosvm"


QMP_SOCKET = "qmp"
CONSOLE_SOCKET = "console"
"""QEMU listens there; another VMM writes into a FIFO of this name."""


class Control(Protocol):
    """A connection to the VMM of one machine, or the way to make one."""

    async def run(self) -> None:
        """Serve the connection until the VMM ends.

        Raises UpstreamError when it cannot be controlled any more.
        """
        ...

    async def cont(self) -> None:
        """Let the guest run; does nothing if it runs.  Raises UpstreamError."""
        ...

    async def press_power(self) -> None:
        """Ask the guest to end.  Raises UpstreamError when the VMM refuses."""
        ...

    async def quit(self) -> None:
        """Ask the VMM to end.  Raises UpstreamError when it refuses."""
        ...

    async def close(self) -> None:
        """Let go of a connection whose ``run`` was never begun."""
        ...

    def guest_end(self, code: int | None) -> str:
        """Return why the guest ended, by the VMM's exit code; "" if it did not."""
        ...


@dataclass(frozen=True)
class GuestEvents:
    """What a VMM's monitor reports of its guest, told to the machine's owner."""

    ended: Callable[[str], None]
    """The guest has ended itself, for this reason."""
    warned: Callable[[str], None]
    """The guest lives on without this."""

    def take(self, event: QmpEvent) -> None:
        """Handle an event of QEMU: record why the guest ended, warn of a full disk."""
        if event.name == "SHUTDOWN" and event.data.get("guest") is True:
            reason = printable(str(event.data.get("reason")), 60)
            self.ended(_GUEST_REASONS.get(reason, reason))
        # guard: the user is warned of a full disk under a machine
        if event.name == "BLOCK_IO_ERROR" and event.data.get("nospace") is True:
            self.warned(NO_SPACE)


NO_SPACE = f"the disk that holds its home is full: QEMU paused the guest and retries every {limits.VM_ROOM_SECONDS:g} s; if its programs do not answer once there is room, stop the sandbox and start it again"

Connect: TypeAlias = Callable[
    [Path, Tracked, GuestEvents],
    Awaitable[tuple[Control, trio.abc.ReceiveStream]],
]
"""Connects to the VMM of a machine's directory: its control, and its console.

Raises UpstreamError.
"""

_GUEST_REASONS = {
    "guest-shutdown": "the guest powered off",
    "guest-reset": "the guest rebooted, possibly after a kernel panic",
    "guest-panic": "the guest's kernel panicked",
}


class QemuControl:
    """QEMU's monitor."""

    def __init__(self, qmp: Qmp) -> None:
        self.qmp = qmp
        self._failed = trio.Event()
        """QEMU may have stopped the machine for an error of a disk."""

    async def run(self) -> None:
        """Serve QEMU's monitor until it ends.  Raises UpstreamError then."""
        ended: list[UpstreamError] = []  # from inside, it would come in a group
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._resume)
            try:
                await self.qmp.run()
            except UpstreamError as error:
                ended.append(error)
            nursery.cancel_scope.cancel()
        for failure in ended:
            raise failure

    async def _resume(self) -> None:
        """Resume a machine that QEMU stopped on a full disk, until cancelled."""
        self._failed.set()  # an earlier broker may have had the event
        while True:
            await self._failed.wait()
            self._failed = trio.Event()
            try:
                answer = await self.qmp.execute("query-status")
                # guard: a machine goes on when its disk has room
                if isinstance(answer, dict) and answer.get("status") == "io-error":
                    await trio.sleep(limits.VM_ROOM_SECONDS)
                    await self.qmp.execute("cont")
                    self._failed.set()
            except UpstreamError:
                # A stopped machine has no second error.
                await trio.sleep(limits.VM_ROOM_SECONDS)
                # guard: a machine that was not let go on is let go on later
                self._failed.set()

    def take(self, event: QmpEvent) -> None:
        """Take an event of QEMU."""
        if event.name == "BLOCK_IO_ERROR":
            self._failed.set()

    async def cont(self) -> None:
        """Let the guest run."""
        await self.qmp.execute("cont")

    async def press_power(self) -> None:
        """Press the power button."""
        await self.qmp.execute("system_powerdown", deadline=limits.VM_QUIT_SECONDS)

    async def quit(self) -> None:
        """End QEMU."""
        await self.qmp.execute("quit", deadline=limits.VM_QUIT_SECONDS)

    async def close(self) -> None:
        """Let go of the monitor."""
        await self.qmp.close()

    def guest_end(self, code: int | None) -> str:
        """Say nothing: an event came before."""
        del code
        return ""


async def connect_qemu(
    directory: Path, vmm: Tracked, events: GuestEvents
) -> tuple[Control, trio.abc.ReceiveStream]:
    """Connect to QEMU's QMP monitor and console sockets.  Raises UpstreamError."""
    del vmm  # its sockets were made by us, and passed to it
    path = directory / CONSOLE_SOCKET

    def take(event: QmpEvent) -> None:
        events.take(event)
        control.take(event)

    qmp = await open_qmp(directory / QMP_SOCKET, on_event=take)
    control = QemuControl(qmp)
    try:
        stream = await open_stream(path)
    except BaseException as error:
        await qmp.close()  # QEMU takes one such connection at a time
        if isinstance(error, OSError):
            raise UpstreamError(f"cannot connect to {path}: {error}") from error
        raise
    return control, stream
