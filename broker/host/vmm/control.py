"""How a running machine is controlled: by QEMU's monitor.

The host controls a machine by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.host.processes.ready import open_stream
from broker.host.vmm.qmp import Qmp, QmpEvent, open_qmp

QMP_SOCKET = "qmp"
CONSOLE_SOCKET = "console"
"""QEMU listens there."""


@dataclass(frozen=True)
class GuestEvents:
    """What QEMU's monitor reports of its guest, told to the machine's owner."""

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
        """Ask the guest to end, by its power button."""
        await self.qmp.execute("system_powerdown", deadline=limits.VM_QUIT_SECONDS)

    async def quit(self) -> None:
        """End QEMU."""
        await self.qmp.execute("quit", deadline=limits.VM_QUIT_SECONDS)

    async def close(self) -> None:
        """Let go of a monitor whose ``run`` was never begun."""
        await self.qmp.close()


async def connect_qemu(
    directory: Path, events: GuestEvents
) -> tuple[QemuControl, trio.abc.ReceiveStream]:
    """Connect to QEMU's QMP monitor and console sockets.  Raises UpstreamError."""
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
