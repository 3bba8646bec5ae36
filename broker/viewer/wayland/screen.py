"""A worker's reports about a sandbox's connections to the compositor.

Events, reasons and steps come of it.  Everything is a claim of a process that
may have been taken over: counted, bounded, escaped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import trio

from broker.authority.audit import event_log
from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.limits import wayland as wayland_limits
from broker.core.notify import Notify
from broker.core.streams.wayland_rules import FULLSCREEN_WISH
from broker.ipc import agent, worker
from broker.ipc.audit import schema
from broker.ipc.wayland_rules import print_trace, traced
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.sandboxes.programs import LeasePrograms
from policy.records.model import Record

Said: TypeAlias = (
    worker.WaylandOpened
    | worker.WaylandAnswered
    | worker.WindowMapped
    | worker.WaylandClosed
    | worker.LimitHit
    | worker.Traced
)

_LOOK_SECONDS = 1.0
"""Between looks for the compositor, and most for the last one."""
_REASON = 400
"""Characters of a guest's mistake in an event."""
_FURTHER = "further protocol errors of its applications"
_GPU_LOST = "the guest reported that its GPU does not answer"
"""No word of the guest's own: it is shown on the desktop."""
_FULLSCREEN = (
    "its window asked for the whole screen and fills its place within its frame, as the "
    "record says: for the whole screen within its frame, run 'brokerctl set {} fullscreen framed'"
)


def silent(title: str, text: str, *, sandbox: str = "") -> None:
    """Show no notification."""
    del title, text, sandbox


class ScreenStreamEnd:
    """How a connection has closed, once its worker has reported it or died."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._said = worker.WaylandClosed(0, 0, 0, "the worker died")

    def tell(self, said: worker.WaylandClosed | None) -> None:
        """It has ended; None: in an unknown way."""
        self._said = said or self._said
        self._event.set()

    async def wait(self) -> worker.WaylandClosed:
        """Wait until it has ended."""
        await self._event.wait()
        return self._said


class GuestScreen:
    """The display side of one guest."""

    def __init__(
        self,
        lease: Lease,
        programs: LeasePrograms,
        warnings: deque[str],
        log: event_log.EventLog,
        compositor: Callable[[], Awaitable[Path]],
        *,
        notify: Notify = silent,
    ) -> None:
        self._notify = notify
        self._gpu_lost = self._fullscreen_told = False
        self._lease = lease
        self._programs = programs
        self._warnings = warnings
        self._log = log
        self._find_compositor = compositor
        self._clients: set[int] = set()
        self._streams: dict[int, ScreenStreamEnd] = {}
        self._compositor_lost = False
        self._connection_ended = trio.Event()
        self._had_windows = False
        self._second = -1.0
        self._reasons: set[str] = set()

    async def take(self, message: Said) -> None:
        """Handle a report of the worker on Wayland connections, windows and limits."""
        match message:
            case worker.WaylandOpened():
                if len(self._clients) < limits.WAYLAND_CLIENTS_PER_SANDBOX:
                    self._clients.add(message.client)
            case worker.WaylandAnswered():
                self._had_windows = True
                self._programs.display(Step.COMPOSITOR)
            case worker.WindowMapped():
                self._programs.display(Step.WINDOW)
            case worker.WaylandClosed():
                await self._closed(message)
            case worker.LimitHit():
                await self._limited(message)
            case worker.Traced():
                if traced():  # else its worker was taken over
                    print_trace(message, f"[{self._lease.sandbox}] ")

    @contextmanager
    def stream(self, number: int) -> Iterator[ScreenStreamEnd]:
        """Register a connection of the worker's; yield what tells when it has closed."""
        end = self._streams[number] = ScreenStreamEnd()
        try:
            yield end
        finally:
            del self._streams[number]

    def worker_died(self) -> None:
        """End all connections in an unknown way: their worker is gone."""
        for end in self._streams.values():
            end.tell(None)

    async def agent_step(
        self, untrusted: agent.AgentStep, record: Record | None
    ) -> None:
        """Report a failed step inside the guest, or the loss of its GPU."""
        if untrusted.ok:
            return
        if untrusted.name != "gpu":
            detail = printable(untrusted.detail, _REASON)
            self._programs.fail(f"in the guest, {printable(untrusted.name)}: {detail}")
            return
        # guard: a guest without a GPU loses none
        if record is None or getattr(record.host.launch, "gpu", "") != "render":
            return
        # guard: a guest tells of its lost GPU once
        if self._gpu_lost:
            return
        self._gpu_lost = True
        sandbox = self._lease.sandbox
        self._warnings.append(_GPU_LOST)
        self._notify(f"Vitrail: {sandbox}", _GPU_LOST, sandbox=sandbox)
        failed = schema.SandboxFailed(
            **event_log.of(self._lease), step="running", reason=_GPU_LOST
        )
        await self._log.note(failed)

    async def _closed(self, message: worker.WaylandClosed) -> None:
        """Handle the end of a Wayland connection: wake its stream, record a mistake.

        A window that never opened is a failed step of its program's start.
        """
        reason = printable(message.reason, _REASON)
        if message.client not in self._clients:
            # The keeper could not connect; waypipe hears only an end.
            self._programs.fail(reason, Step.COMPOSITOR)
        self._clients.discard(message.client)
        stream = self._streams.get(message.stream)
        if stream is not None:  # else a worker that makes up numbers
            stream.tell(message)
        if message.fault is worker.Fault.CLIENT:
            await self.broke(f"Wayland: {reason}")
        elif message.fault is worker.Fault.OURS:
            self._warnings.append(f"Wayland filter: {printable(message.reason, 2000)}")
        self._connection_ended.set()

    async def _limited(self, message: worker.LimitHit) -> None:
        """Record that a sandbox has reached a limit of its windows."""
        if message.what == FULLSCREEN_WISH:
            self._tell_fullscreen()
            return
        what = printable(message.what, 40)
        await self._log.refused(
            schema.StreamRefused(
                **event_log.of(self._lease),
                outcome="limited",
                reason=f"Wayland: the sandbox reached its limit of {what}",
                count=max(1, message.times),
            )
        )

    def _tell_fullscreen(self) -> None:
        """Tell the user, once, that a window that covers the whole screen does not."""
        # guard: a sandbox tells of its fullscreen once
        if self._fullscreen_told:
            return
        self._fullscreen_told = True
        sandbox = self._lease.sandbox
        text = _FULLSCREEN.format(self._lease.record or sandbox)
        self._notify(f"Vitrail: {sandbox}", text, sandbox=sandbox)

    async def broke(self, reason: str) -> None:
        """Record that the guest broke a protocol, and was cut off for it.

        A reason repeats what an application sent, so it may be ever new.
        """
        now = trio.current_time()
        if now - self._second >= 1:
            self._second, self._reasons = now, set()
        self._reasons.add(reason)
        if len(self._reasons) > wayland_limits.WAYLAND_MISTAKES_PER_SECOND:
            self._reasons.discard(reason)
            reason = _FURTHER
        await self._log.refused(
            schema.StreamRefused(
                **event_log.of(self._lease), outcome="ended", reason=reason
            )
        )

    async def require_kill_logged(self, window: int, pid: int) -> None:
        """Log, before a window is closed by force, which control client asked (``pid``).

        Raises UpstreamError if the log does not take the event; the window then stays.
        """
        await self._log.require(
            schema.WindowKilled(**event_log.of(self._lease), window=window, pid=pid)
        )

    async def close(self) -> None:
        """Check the compositor once more at the guest's end; log it if it is lost."""
        if self._had_windows:
            with trio.move_on_after(_LOOK_SECONDS):
                await self._look_for_compositor()

    async def watch_compositor(self) -> None:
        """Check the compositor whenever connections have ended, until cancelled.

        Each check starts a session child, and logs a loss.
        """
        while True:
            await self._connection_ended.wait()
            self._connection_ended = trio.Event()
            await self._look_for_compositor()
            # A look costs a process, and a worker may claim ends without end.
            # guard: a worker's claims cost few processes
            await trio.sleep(_LOOK_SECONDS)

    async def _look_for_compositor(self) -> None:
        """Have a session child connect to the compositor; log once if it does not answer.

        Called when connections have ended, whatever their reason, and once more
        at the end of the guest: a dying compositor closes its clients before
        its socket.
        """
        try:
            await self._find_compositor()
            self._compositor_lost = False
        except UpstreamError:
            return  # no session child could connect: the compositor may be well
        except SetupError as error:
            if not self._compositor_lost:
                self._compositor_lost = True
                await self._log.note(
                    schema.ProcessDied(
                        **event_log.of(self._lease),
                        process=schema.Process.COMPOSITOR,
                        reason=f"{error}; the sandbox's windows ended with it",
                    )
                )
