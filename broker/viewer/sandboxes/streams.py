"""The streams of one sandbox that end in its worker: agent, display, Wayland.

A stream's descriptor is handed to the worker, with its events around it in the log,
and its end is what the worker says, its death, or a cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.helpers.descriptor_copies import duplicates
from broker.host_and_viewer.stream_events import StreamEvents, StreamOutcome, last_words
from broker.ipc import acceptor, worker
from broker.ipc.host_viewer import TaskStatus
from broker.net.display_header import read_header
from broker.net.hangup import given, hang_up
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.sandboxes.programs import LeasePrograms
from broker.viewer.wayland.screen import GuestScreen
from broker.viewer.workers.process import Worker
from broker.wire import fdpass
from policy.records.model import Record

"""The stream is shut by then; only its counts are still to come."""
_DIED = "the worker died"


class GuestStreams:
    """Hands streams to the sandbox's worker, and knows which are open."""

    def __init__(
        self,
        events: StreamEvents,
        record: Callable[[], Record],
        ensure_worker: Callable[[], Awaitable[Worker]],
        *,
        programs: LeasePrograms,
        screen: GuestScreen,
    ) -> None:
        self._events = events
        self._record = record
        self._ensure_worker = ensure_worker
        self._programs = programs
        self._screen = screen
        self._handed: dict[int, trio.Event] = {}
        """Of those that the worker has: set when it has ended."""
        self._ends: dict[int, StreamOutcome] = {}
        self._places = 0
        self._displays = 0
        self.displays_changed = trio.Event()
        self._arena: list[int] = []
        """A descriptor of the memory where the guest leaves its pixels, if it was lent."""

    def take_arena(self, fd: int) -> None:
        """Keep a duplicate of the guest's arena.  Raises UpstreamError."""
        # guard: one arena of a sandbox is kept
        self.drop_arena()
        self._arena = duplicates([fd])

    def drop_arena(self) -> None:
        """The sandbox has ended."""
        fdpass.close_all(self._arena)
        self._arena = []

    # -- counts ---------------------------------------------------------------------

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the streams that the record allows at one time.

        Raises RefusedError when there is none left.
        """
        limit = self._record().viewer.limits.streams
        if self._places >= limit:
            raise RefusedError(
                f"the sandbox already has {limit} open streams, the limit",
                hint="close a program of the sandbox, or raise limits.streams in the record",
            )
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    @contextlib.contextmanager
    def display_open(self) -> Iterator[None]:
        """Count a display stream as open while the block runs.

        The guest's agent ends its streams when the broker reports none, so a
        stream that waits for the user's answer must be among those reported.
        """
        self._count_displays(1)
        try:
            yield
        finally:
            self._count_displays(-1)

    def _count_displays(self, change: int) -> None:
        self._displays += change
        self.displays_changed.set()

    async def tell_displays(self, current: Callable[[], Worker | None]) -> None:
        """Send the current worker the number of displays each time it changes."""
        while True:
            await self.displays_changed.wait()
            self.displays_changed = trio.Event()
            to = current()
            if to is not None:
                with contextlib.suppress(UpstreamError):  # it has just ended
                    await to.send(worker.DisplaysOpen(self._displays))

    async def counts(
        self, current: Worker | None
    ) -> dict[int, worker.WorkerStreamCount]:
        """Return the worker's byte counts of the streams that it carries, by number."""
        if current is None:
            return {}
        said = (await current.statistics()).streams
        # Of those that it was given: others are other sandboxes'.
        return {one.stream: one for one in said if one.stream in self._handed}

    # -- ends -----------------------------------------------------------------------

    def take(self, message: worker.AgentClosed | worker.DisplayClosed) -> None:
        """Handle the worker's report that a stream has ended."""
        ended = self._handed.pop(message.stream, None)
        if ended is not None:  # else a worker that makes up numbers
            counts = message.from_guest, message.to_guest
            self._ends[message.stream] = StreamOutcome(
                printable(message.reason), counts
            )
            ended.set()

    def settle(self, reason: str) -> None:
        """The worker has ended, and every stream with it."""
        for stream, ended in self._handed.items():
            self._ends.setdefault(stream, StreamOutcome(reason))
            ended.set()
        self._handed.clear()

    @contextlib.contextmanager
    def _handing(self, opening: Opening) -> Iterator[trio.Event]:
        """Register a stream that is handed to the worker.

        Yield the event of its end.
        """
        ended = self._handed[opening.stream] = trio.Event()
        try:
            yield ended
        finally:
            self._handed.pop(opening.stream, None)
            self._ends.pop(opening.stream, None)

    def _end_of(self, opening: Opening) -> StreamOutcome:
        return self._ends.pop(opening.stream, StreamOutcome(_DIED))

    # -- streams --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def opened(self, opening: Opening) -> AsyncIterator[StreamOutcome]:
        """Record the end of a stream whose permit has recorded its beginning.

        Raises RefusedError when there is no place for it.
        """
        async with self._events.carry(opening, "") as outcome:
            with self.place():
                yield outcome

    async def agent(
        self,
        opening: Opening,
        conn: socket.socket,
        outcome: StreamOutcome,
        *,
        task_status: TaskStatus,
    ) -> None:
        """Hand an agent's connection to the worker; return when it has ended."""
        with given(conn):
            mine = await self._ensure_worker()
            with self._handing(opening) as ended:
                order = worker.AgentStream(opening.stream)
                await mine.send(order, [conn.fileno()])
                task_status.started()
                await self._until_end(opening, conn, ended, outcome)

    async def wayland(
        self,
        opening: Opening,
        conn: socket.socket,
        outcome: StreamOutcome,
        *,
        task_status: TaskStatus,
    ) -> None:
        """Hand an application's own connection to the filter; return at its end.

        ``conn`` is the broker's handle on it at the sandbox's acceptor, which
        delivers the connection itself to the worker.  Cancelled, it cuts the
        connection: the permission may have been revoked while the worker lives on.
        """
        with given(conn):
            mine = await self._ensure_worker()
            with self._screen.stream(opening.stream) as ended:
                await self._deliver(mine, opening.stream, conn)
                task_status.started()
                outcome.counts = 0, 0
                try:
                    await ended.wait()
                    outcome.reason = ""
                finally:
                    hang_up(conn)
                    with trio.CancelScope(shield=True):
                        end = await last_words(ended.wait)
                    if end is not None:
                        outcome.counts = end.to_compositor, end.to_client
                    said = printable(end.reason) if end is not None else _DIED
                    outcome.reason = outcome.reason or said

    async def _deliver(self, to: Worker, stream: int, conn: socket.socket) -> None:
        """Have the acceptor send the connection to the worker, past the viewer.

        The worker gets its end, and that end leaves this process, before the
        acceptor is told: sent data never wait in a queue that the
        broker could be the last to close.
        """
        try:
            [worker_end] = fdpass.receive(conn, 1, 1).fds
        except (OSError, ValueError) as error:
            raise acceptor.ended() from error
        try:
            await to.send(worker.WaylandStream(stream), [worker_end])
        finally:
            os.close(worker_end)
        try:
            fdpass.send(conn, acceptor.DELIVER)
        except OSError as error:
            raise acceptor.ended() from error

    async def display(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Have a display stream decoded in the worker; return at its end."""
        outcome: StreamOutcome | None = None
        with given(conn):
            # From here on it is the peer's time that passes, so it holds a place of
            # its streams and none of the places of the undecided: a vsock
            # backend that waits for its turn serves its guest nothing else.
            task_status.started()
            accepted = trio.current_time()
            try:
                order = worker.DisplayStream(opening.stream, await read_header(conn))
                mine = await self._worker_for_display()
                with self._handing(opening) as ended:
                    async with self._events.carry(
                        opening, "worker", accepted=accepted
                    ) as outcome:
                        await mine.send(order, [conn.fileno(), *self._arena])
                        self._programs.display(Step.WAYPIPE)
                        await self._until_end(opening, conn, ended, outcome)
            except VitrailError as error:
                hang_up(conn)
                if outcome is None:
                    await self._events.refused(opening, str(error))

    async def _until_end(
        self,
        opening: Opening,
        conn: socket.socket,
        ended: trio.Event,
        outcome: StreamOutcome,
    ) -> None:
        """Wait for the end of a stream of the worker; cancelled, cut it and ask for its counts."""
        cut = True
        try:
            await ended.wait()
            cut = False
        finally:
            with contextlib.suppress(OSError):  # the guest has closed it
                conn.shutdown(socket.SHUT_RDWR)
            with trio.CancelScope(shield=True):
                await last_words(ended.wait)
            end = self._end_of(opening)
            outcome.counts = end.counts
            if not cut:
                outcome.reason = end.reason

    async def _worker_for_display(self) -> Worker:
        """Return the worker for a display stream; reports a failure to waiting runs."""
        self._programs.display(Step.STREAM)
        try:
            return await self._ensure_worker()
        except VitrailError as error:
            self._programs.fail(str(error), Step.WAYPIPE)
            raise
