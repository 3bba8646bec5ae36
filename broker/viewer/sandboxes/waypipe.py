"""A sandbox's display streams by way of upstream's waypipe client.

Only where the record says so: ordinarily the worker decodes them itself.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from broker.authority.audit import event_log
from broker.authority.audit.event_log import EventLog
from broker.authority.pump_supervisor import PumpSupervisor
from broker.authority.stream_events import StreamEvents, StreamOutcome, relay_stream
from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.lease import Lease, Opening
from broker.ipc.audit import schema
from broker.net.display_header import read_header
from broker.net.endpoints import UnixEndpoint, connect
from broker.net.hangup import given, hang_up
from broker.net.peers import credentials
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.sandboxes.programs import Programs
from broker.viewer.waypipe.client import WaypipeClient
from broker.viewer.waypipe.podman import WaypipePodman, require_rust, start_waypipe


class GuestWaypipe:
    """``client`` is the jailed process, None until it is needed."""

    def __init__(
        self,
        lease: Lease,
        programs: Programs,
        log: EventLog,
        pump: PumpSupervisor,
        *,
        display: Path,
        program: Path | WaypipePodman | None,
        ensure_worker: Callable[[], Awaitable[object]],
        start: Callable[..., None],
    ) -> None:
        self._lease = lease
        self._programs = programs
        self._log = log
        self._events = StreamEvents(log)
        self._pump = pump
        self._display = display
        self._program = program
        self._ensure_worker = ensure_worker
        self._start = start
        self._making = trio.Lock()
        self.client: WaypipeClient | None = None

    async def stop(self) -> None:
        """End the client; the next stream gets a new one."""
        client, self.client = self.client, None
        if client is not None:
            await client.stop()

    async def relay(
        self,
        opening: Opening,
        conn: socket.socket,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Splice a display stream to the waypipe client; returns at its end."""
        began = trio.current_time()
        with given(conn):
            # From here on it is the peer's time that passes, so it holds one of
            # its streams and none of the places of the undecided: a vsock
            # backend that waits for its turn serves its guest nothing else.
            task_status.started()
            outcome: StreamOutcome | None = None
            try:
                untrusted_head = await read_header(conn)
                with await self._waypipe_for() as client:
                    async with self._events.carry(opening, "auto", began) as outcome:
                        # A new socket's buffer is empty, so this takes all of it.
                        # A client that died just now is found dead by the pump.
                        with contextlib.suppress(OSError):
                            client.sendall(untrusted_head)
                        fds = conn.detach(), client.detach()
                        self._programs.display(Step.WAYPIPE)
                        head = len(untrusted_head)
                        await relay_stream(self._pump, opening, fds, outcome, head=head)
            except VitrailError as error:
                hang_up(conn)
                if outcome is None:
                    await self._events.refused(opening, str(error))

    async def _waypipe_for(self) -> socket.socket:
        self._programs.display(Step.STREAM)
        try:
            return await self._connect_waypipe()
        except VitrailError as error:
            self._programs.fail(str(error), Step.WAYPIPE)
            raise

    async def _connect_waypipe(self) -> socket.socket:
        await self._ensure_worker()
        async with self._making:
            if self.client is None:
                await require_rust(self._program)
                made = await start_waypipe(self._display, self._program)
                try:
                    self._start(self._watch_waypipe, made)
                except RefusedError:
                    await made.stop()
                    raise
                self.client = made
            client = self.client
        return await connect_client(client)

    async def _watch_waypipe(self, mine: WaypipeClient) -> None:
        code = await mine.child.wait()
        if self.client is not mine:
            return  # it was asked to end
        self.client = None
        await mine.stop()
        await self._log.note(
            schema.ProcessDied(
                **event_log.of(self._lease),
                process=schema.Process.WAYPIPE_CLIENT,
                pid=mine.child.pid,
                code=code,
                reason="the sandbox's windows ended with it",
            )
        )


async def connect_client(client: WaypipeClient) -> socket.socket:
    """Connect to a client; the caller owns the socket.

    Raises UpstreamError, also when the process that listens there is in none
    of the pid namespaces below ours, as a jailed client is.
    """
    if client.place is None or client.place.fd < 0:
        raise UpstreamError("the waypipe client has ended")
    # Not trio's own connect: it takes a full backlog (EAGAIN) for a
    # connection that is on its way, and a client makes room for three.
    endpoint = UnixEndpoint(client.place.path)
    conn = await connect(endpoint, deadline=limits.ADMIT_SECONDS)
    try:
        # guard: a jailed client listens in a jail
        _require_jailed(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _require_jailed(conn: socket.socket) -> None:
    # guard: the waypipe client listens in its jail
    if credentials.in_our_pid_namespace(conn) is not False:
        pid = credentials.peer_numbers(conn)[0]
        raise UpstreamError(
            f"process {pid} listens there, which is not the waypipe client"
        )
