"""A machine that runs: watching it, and ending it whole.

The end of its VMM (QEMU), or of vhost-device-vsock, is the machine's: everything
else of it is then ended too.  When the nursery that watches is cancelled the
machine lives on; only ``power_down`` and ``close`` end it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.stderr_log import log_exception
from broker.helpers.console_log import ConsoleLog
from broker.helpers.process.removal import remove_aside
from broker.host.processes.tracked import Tracked
from broker.host.vmm.console_pump import pump_console
from broker.host.vmm.control import (
    GuestEvents,
    QemuControl,
    connect_qemu,
)
from broker.host.vmm.qmp import Qmp
from broker.host.vmm.vm_state import (
    FOLDERS,
    RENDERER,
    VmState,
    move_files,
    remove_files,
    write_state,
)
from broker.host.vmm.vsock_backend import (
    HELPER,
    PORT_MUX,
    UDS_NAME,
    VSOCK_DIRECTORY,
    KernelVsock,
)


class EndKind(StrEnum):
    """By whom a machine was ended."""

    GUEST = "guest"
    """The guest powered off, reset or panicked."""
    ASKED = "asked"
    """``power_down`` or ``close``."""
    LOST = "lost"
    """QEMU or a helper it cannot do without died."""


@dataclass(frozen=True)
class VmEnd:
    """How a machine ended; ``reason`` is for a user."""

    kind: EndKind
    reason: str


class Vm:
    """A machine that runs or is paused.

    ``vmm`` is QEMU: a lease watches ``vmm.pidfd``.  ``uds`` is the base of the
    hybrid sockets (None with the kernel's vsock).  ``console`` is the log.
    """

    def __init__(
        self,
        directory: Path,
        state: VmState,
        *,
        vmm: Tracked,
        helpers: Sequence[Tracked],
        console: ConsoleLog,
        kernel_vsock: KernelVsock | None = None,
        on_loss: Callable[[str], None] | None = None,
        flows: socket.socket | None = None,
        arena: int = -1,
    ) -> None:
        self.arena = arena
        """A descriptor of its arena, closed with it; -1: it has none."""
        self.flows = flows
        """Its frame filter's questions, for the viewer, which closes it."""
        self.directory = directory
        self.state = state
        self.vmm = vmm
        self.console = console
        self._helpers = tuple(helpers)
        self._kernel_vsock = kernel_vsock
        self._on_loss = on_loss
        self._control: QemuControl | None = None
        self._scope = trio.CancelScope()
        self._watched = False
        self._cause: VmEnd | None = None
        self._end: VmEnd | None = None
        self._ended = trio.Event()
        self._port: socket.socket | None = None
        self._first_words = b""
        self._warned = set[str]()

    @property
    def cid(self) -> int:
        """The guest's CID."""
        return self.state.cid

    @property
    def uds(self) -> Path | None:
        """Connections of the guest to port P arrive at ``<uds>_P``."""
        if self.state.vsock == "kernel":
            return None
        return self.directory / VSOCK_DIRECTORY / UDS_NAME

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor.  Raises UpstreamError before it is connected to."""
        return self.control.qmp

    @property
    def control(self) -> QemuControl:
        """The VMM's control.  Raises UpstreamError before it is connected to."""
        if self._control is None:
            raise UpstreamError(f"{self.vmm.role} is not connected to this broker yet")
        return self._control

    @property
    def processes(self) -> tuple[Tracked, ...]:
        """The VMM and its helpers."""
        return (self.vmm, *self._helpers)

    def settle(
        self,
        state: VmState,
        directory: Path,
        on_loss: Callable[[str], None] | None,
    ) -> None:
        """Rename and move a standby machine: state file, sockets, console log.

        While its files move, both places name its processes, so that a broker
        that is killed meanwhile leaves none of them unknown.  Raises OSError.
        """
        write_state(directory, state)
        move_files(self.directory, directory)
        self.console.move(Path(state.logs))
        self.directory, self.state, self._on_loss = directory, state, on_loss

    async def cont(self) -> None:
        """Resume the guest.  Raises UpstreamError when the VMM refuses."""
        await self.control.cont()
        if self._port is not None:
            # A VMM that has just ended is seen by its pidfd.
            with suppress(OSError):
                self._port.send(self._first_words)
            self._first_words = b""

    def suspend(self) -> None:
        """Stop the VMM, and the guest with it, until ``resume``; its helpers run on."""
        # Not by QMP's stop: it stops the vsock's queues, too, and vhost-device-vsock
        # (0.3) carries nothing after that; and nothing sets the guest's clock again.
        self.vmm.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the VMM run; does nothing if it runs."""
        self.vmm.kill(signal.SIGCONT)

    def say_when_running(self, port: socket.socket, words: bytes) -> None:
        """Store bytes that are sent to the guest's port when it next runs.

        The port is closed with the machine: QEMU loses bytes that it has not read when
        the other end of a character device is closed, and reads nothing while it is
        paused.
        """
        self._port, self._first_words = port, words

    async def wait(self) -> VmEnd:
        """Wait until the VMM and its helpers are gone; returns the reason."""
        await self._ended.wait()
        assert self._end is not None
        return self._end

    async def power_down(self, grace: float) -> VmEnd:
        """Press the guest's power button, kill QEMU after ``grace`` seconds, and wait.

        An agent in the guest is the nicer way; this is for a guest without
        one.  With a grace of 0 the machine is switched off at once.
        """
        self._blame(EndKind.ASKED, "switched off")
        if grace > 0:
            with trio.move_on_after(grace):
                await self._try(lambda control: control.press_power())
                await self._ended.wait()
        if not self._ended.is_set():
            with trio.move_on_after(limits.VM_QUIT_SECONDS):
                await self._try(lambda control: control.quit())
                await self._ended.wait()
        self.vmm.kill()
        if not self._watched:
            await self._end_processes()
            self._finish()
        return await self.wait()

    async def _try(self, request: Callable[[QemuControl], Awaitable[None]]) -> None:
        try:
            await request(self.control)
        except UpstreamError:
            return  # it is on its way out, or about to be killed

    async def close(self) -> None:
        """End all processes of the machine and remove its files; not cancellable.

        The CID of a kernel vsock is free after this: close when every stream
        of the lease is cut.
        """
        self._blame(EndKind.ASKED, "switched off")
        with trio.CancelScope(shield=True):
            self.vmm.kill()
            await self._end_processes()
            self._finish()
            self._scope.cancel()
        for process in self.processes:
            process.close()
        if self._kernel_vsock is not None:
            self._kernel_vsock.close()
        for sock in filter(None, (self._port, self.flows)):
            sock.close()
        if self.arena >= 0:
            os.close(self.arena)
            self.arena = -1
        self.console.close()
        await remove_aside(remove_files, self.directory)

    # -- watching ------------------------------------------------------------

    async def connect(self, nursery: trio.Nursery) -> None:
        """Connect to the VMM and watch the machine in ``nursery``.

        Called once, by ``start_vm`` and ``adopt_vm``.  Raises UpstreamError.
        """
        events = GuestEvents(partial(self._blame, EndKind.GUEST), self._warn_once)
        self._control, console = await connect_qemu(self.directory, events)
        nursery.start_soon(self._watch, console)

    def _warn_once(self, what: str) -> None:
        # The guest chooses how often it writes.
        if what not in self._warned and self._on_loss is not None:
            self._warned.add(what)
            self._on_loss(what)

    async def _watch(self, console: trio.abc.ReceiveStream) -> None:
        """Watch a machine to its end, also where watching fails."""
        self._watched = True
        try:
            await self._watch_all(console)
        except Exception as error:  # noqa: BLE001
            # An internal error about one machine must not end the others; and
            # a machine that is not watched must not live on.
            log_exception(error)
            self._blame(
                EndKind.LOST, "an internal error occurred; see the broker's log"
            )
            self.vmm.kill()
            await self._end_processes()
            self._finish()
        finally:
            self._watched = False

    async def _watch_all(self, console: trio.abc.ReceiveStream) -> None:
        """Watch VMM, helpers and console to their ends."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                drained = trio.Event()
                nursery.start_soon(self._drain, console, drained)
                for helper in self._helpers:
                    nursery.start_soon(self._watch_helper, helper)
                code = await self.vmm.wait()
                # The VMM's last event and the kernel's last words are still in
                # their sockets.
                with trio.move_on_after(limits.VM_DRAIN_SECONDS):
                    await drained.wait()
                nursery.cancel_scope.cancel()
            self._blame(EndKind.LOST, self._last_words(code))
            await self._end_processes()
            self._finish()

    async def _drain(
        self, console: trio.abc.ReceiveStream, drained: trio.Event
    ) -> None:
        """Read console and control connection to their ends; then set ``drained``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump_console, console, self.console)
            nursery.start_soon(self._run_control)
        drained.set()

    async def _run_control(self) -> None:
        """Serve the control connection; end a VMM that closed it."""
        try:
            await self.control.run()
        except UpstreamError as error:
            # The usual way for it to end is the VMM's end; a machine that lives on
            # without a monitor cannot be controlled any more.
            with trio.move_on_after(limits.VM_DRAIN_SECONDS):
                await self.vmm.wait()
            if not self.vmm.ended:
                self._blame(EndKind.LOST, f"{self.vmm.role}'s monitor failed: {error}")
                self.vmm.kill()

    async def _watch_helper(self, helper: Tracked) -> None:
        """Wait for a helper's end; end the machine that needs it."""
        code = await helper.wait()
        how = "ended" if code is None else f"ended with code {code}"
        if helper.role in _STREAMS:
            why = f": {helper.words}" if helper.words else ""
            self._blame(EndKind.LOST, f"{helper.role} {how}{why}")
            self.vmm.kill()
            return
        if helper.role.startswith(FOLDERS):
            return  # its folder has ended with it, which is not the machine's end
        with trio.move_on_after(limits.VM_DRAIN_SECONDS):
            await self.vmm.wait()  # the other helpers end with it
        # A VMM that is on its way out takes longer, and has closed its network.
        leaves = self.vmm.ended or self._cause is not None
        if not leaves and self._on_loss is not None:
            lost = "the guest no longer has a network"
            if helper.role == RENDERER:
                lost = "its programs now render with the processor"
            self._on_loss(f"{helper.role} {how}: {lost}")

    def _last_words(self, code: int | None) -> str:
        role = self.vmm.role
        how = f"{role} ended" if code is None else f"{role} ended with code {code}"
        return f"{how}: {self.vmm.words}" if self.vmm.words else how

    def _blame(self, kind: EndKind, reason: str) -> None:
        """Note why the machine ends; the first cause stays."""
        if self._cause is None:
            self._cause = VmEnd(kind, reason)

    async def _end_processes(self) -> None:
        for process in self.processes:
            await process.end(limits.VM_QUIT_SECONDS)

    def _finish(self) -> None:
        self._end = self._cause
        self._ended.set()


_STREAMS = (HELPER, PORT_MUX)
"""Roles of what carries the guest's connections."""
