"""The doors of one lease: its listening sockets and who is let in.

One door for each service.  Whatever a stranger does to a door (connect and
say nothing, connect ten thousand times, vanish) costs this sandbox only: the
undecided are few, the rest waits in the kernel's backlog.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import trio

from broker.authority.audit import event_log
from broker.core import limits
from broker.core.errors import InternalError, RefusedError, UpstreamError, VitrailError
from broker.core.lease import Lease, Opening
from broker.core.names import ServiceName
from broker.core.services import DEVICE, DISPLAY, WAYLAND_DOOR
from broker.core.stderr_log import log_exception
from broker.core.token_bucket import TokenBucket
from broker.host.acceptor import RemoteListener
from broker.host.machine_interface import ConnectionKind
from broker.ipc.audit import schema
from broker.ipc.host_viewer import StartedStatus, StreamRefusedError, TaskStatus, Viewer
from broker.net.hangup import hang_up
from broker.net.listeners import Listener
from broker.net.peers import credentials, identity

if TYPE_CHECKING:
    from broker.net.peers.launch_secret import LaunchSecret

# Out of descriptors or memory: the next accept works once something is closed.
FULL_PAUSE = 0.1


class Carry(Protocol):
    """Takes a connection and keeps it; as ``Viewer.stream_opened``."""

    async def __call__(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Carry an admitted connection to its service; owns ``conn``.

        Calls ``started`` once the service has accepted it.
        """
        ...


async def accept(listener: Listener) -> socket.socket:
    """Wait for a connection; without a free descriptor pause, and try again."""
    while True:
        try:
            return await listener.accept()
        except UpstreamError:
            await trio.sleep(FULL_PAUSE)


@dataclass(frozen=True)
class Vouched:
    """An acceptor's facts about a connection's far end; None: the process ended."""

    facts: identity.ProcessFacts | None


@dataclass(eq=False)
class Admission:
    """The state that the accept loops of one lease share."""

    lease: Lease
    claim: identity.Claim
    alive: Callable[[], frozenset[int]]
    """Pids of the claim's processes that have not begun to end (held by pidfd)."""
    viewer: Viewer
    log: event_log.EventLog
    next_stream: Callable[[], int]
    standby: Carry
    """Keeps connections that wait for a device."""
    secret: LaunchSecret | None = None
    """The secret that its guest proves on each connection; None: no proof is needed."""
    streams: dict[int, tuple[Opening, float]] = field(default_factory=dict)
    """Taken or about to be: number to opening and time of day."""
    _nursery: trio.Nursery | None = None
    undecided: trio.Semaphore = field(
        default_factory=lambda: trio.Semaphore(limits.UNDECIDED_PER_SANDBOX)
    )
    pace: TokenBucket = field(
        default_factory=lambda: TokenBucket(
            limits.STREAMS_PER_SECOND, limits.STREAMS_BURST
        )
    )

    async def serve(self, listeners: Mapping[ServiceName, ConnectionKind]) -> None:
        """Accept on all doors until cancelled; cancelling cuts every stream.

        A door is named as its service; WAYLAND_DOOR is one of the display's.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for door, listener in listeners.items():
                    nursery.start_soon(self._accept_loop, door, listener)
                # Doors may share a listener (AF_VSOCK), and a
                # lease lives on when no listener is left.
                await trio.sleep_forever()
            finally:
                # Inside, while the nursery cannot have closed yet: a stream that
                # waited for its turn must find it open, or not at all.
                self._nursery = None

    @property
    def waiting(self) -> int:
        """Connections that were offered and wait for their turn."""
        return self.undecided.statistics().tasks_waiting

    async def offer(
        self,
        service: ServiceName,
        conn: socket.socket,
        *,
        direct: bool = False,
        vouched: Vouched | None = None,
    ) -> None:
        """Take a connection that was accepted elsewhere for this lease.

        ``direct``: see ``core.lease.Opening``.  ``vouched``: who is at its far
        end, where ``conn`` is not the peer's own socket.  Owns ``conn`` from
        the call on; waits while too many are undecided.
        """
        with closing(conn) as mine:
            await self._turn()
            if self._nursery is None:
                self.undecided.release()
                return  # the lease is ending
            plain = socket.socket(fileno=mine.detach())
            stream = self.next_stream()
            peer = identity.describe(self.claim)
            opening = Opening(self.lease, service, stream, peer, direct)
            self._nursery.start_soon(
                self._admit, opening, plain, vouched, self._nursery
            )

    async def _turn(self) -> None:
        """Wait until one more connection may be decided about.

        A waiting connection delays at most itself: the others of this sandbox
        wait in the backlog, and those of other sandboxes at other doors.
        """
        await self.undecided.acquire()
        try:
            early = self.pace.take(trio.current_time())
            if early > 0:
                await trio.sleep(early)
        except BaseException:
            self.undecided.release()
            raise

    async def _accept_loop(self, door: ServiceName, listener: ConnectionKind) -> None:
        if isinstance(listener, RemoteListener):
            await self._acceptor_loop(door, listener)
            return
        while True:
            await self.offer(door, await accept(listener))

    async def _acceptor_loop(self, door: ServiceName, listener: RemoteListener) -> None:
        """Request connections from the acceptor, one at a time, and offer each.

        Returns when the acceptor has ended; its machine ends the lease then.
        """
        direct = door == WAYLAND_DOOR
        service = DISPLAY if direct else door
        while True:
            try:
                arrived = await listener.accept()
            except UpstreamError:
                return
            # guard: an arrival without descriptors ends no lease
            except (RefusedError, OSError):
                await trio.sleep(FULL_PAUSE)
                continue
            vouched = Vouched(arrived.facts)
            await self.offer(service, arrived.conn, direct=direct, vouched=vouched)

    async def _admit(
        self,
        opening: Opening,
        conn: socket.socket,
        vouched: Vouched | None,
        nursery: trio.Nursery,
    ) -> None:
        """Check a connection and its launch secret, and carry it, or refuse it.

        A refusal is recorded in the audit log.
        """
        taken = False
        try:
            with trio.fail_after(limits.ADMIT_SECONDS):
                self._check(conn, vouched)
                # guard: no byte before the launch is proved
                if self.secret is not None:
                    # Machines with separate sockets need none of it.
                    from broker.net.peers.launch_secret import prove

                    await prove(conn, self.secret, opening.service)
                self.streams[opening.stream] = (opening, time.time())
                await nursery.start(self._carry, opening, conn)
                taken = True
        except trio.TooSlowError:
            await self._refuse(opening, "the decision timed out")
        except StreamRefusedError as error:
            if not error.recorded:
                await self._refuse(replace(opening, link=error.link), str(error))
        except (VitrailError, OSError) as error:
            await self._refuse(opening, str(error))
        finally:
            self.undecided.release()
            if not taken:
                hang_up(conn)

    def _check(self, conn: socket.socket, vouched: Vouched | None) -> None:
        """Compare the kernel's facts of a connection with the lease's claim."""
        facts: identity.ProcessFacts | identity.VsockFacts
        if vouched is not None:
            if vouched.facts is None:
                raise RefusedError("the process that connected has ended")
            facts = vouched.facts
        elif conn.family == socket.AF_VSOCK:
            facts = credentials.vsock_facts(conn)
        else:
            facts = credentials.process_facts(conn)
        identity.check(self.claim, facts, alive=self.alive())
        # guard: a door asks the share
        self.log.check_share(self.lease)
        if len(self.streams) >= limits.STREAMS_PER_SANDBOX:
            raise RefusedError(
                f"the sandbox already has {limits.STREAMS_PER_SANDBOX} open streams"
            )

    async def _carry(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Carry an admitted connection.

        Record a refusal where the viewer refuses it.
        """
        status = StartedStatus(task_status)
        try:
            carry: Carry = self.viewer.stream_opened
            if opening.service == DEVICE:
                carry = self.standby
            await carry(opening, conn, task_status=status)
        except Exception as error:
            if not status.called and isinstance(error, (VitrailError, OSError)):
                raise  # refused before it was taken: _admit says so
            # An internal error ends this stream, and no other of the sandbox.
            log_exception(error)
            if not status.called:
                raise InternalError(
                    "an internal error occurred; see the broker's log"
                ) from None
        finally:
            self.streams.pop(opening.stream, None)

    async def _refuse(self, opening: Opening, reason: str) -> None:
        """Record a refused connection in the audit log."""
        event = schema.StreamRefused(
            **event_log.of_stream(opening), outcome="refused", reason=reason
        )
        # Shielded: a guest that is refused and ends at once is on record, too.
        with trio.CancelScope(shield=True):
            await self.log.refused(event)
