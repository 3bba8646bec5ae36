"""The host as the viewer sees it: the other end of the link.

The viewer listens; ``host_door`` keeps each connection until its first message
proves it: a handshake makes an epoch, a preamble a stream of that epoch.
Anything else is closed, most of it without an answer.

One epoch lives at a time.  The same host with a new handshake has restarted,
or lost the old connection before we did: its old epoch ends first.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

import trio

from broker.authority.audit import event_log
from broker.core.errors import (
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import fit, printable
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.limits import link as limits
from broker.core.names import LeaseId, SandboxName, take_lease_id
from broker.core.stderr_log import run_isolated
from broker.core.token_bucket import TokenBucket
from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.host_and_viewer.link_end import LinkEnd
from broker.ipc.audit import schema
from broker.ipc.host_rows import (
    LEASE_BEGUN,
    LEASE_ENDED,
    STOP,
    SUSPEND,
    LeaseBegun,
    LeaseEnded,
    StopSandbox,
)
from broker.net.link.cures import BROKER_ENDS
from broker.net.link.pending_connections import Ticket
from broker.net.link.preamble import PreambleVerdict
from broker.net.link.preamble_gate import Preamble, PreambleGate, PreambleReader
from broker.net.link.wire_types import (
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
)
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.epoch import Epoch, request_pace
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.sockets import receive, shake_hands
from broker.net.listeners import Listener
from broker.viewer.devices.remote import DeviceReports, RemoteDevices
from broker.viewer.folders.streamed import StreamedFolders
from broker.viewer.host_ends.host_door import Door
from broker.viewer.host_ends.host_intake import Intake
from broker.viewer.host_ends.host_starts import HostStart, RemoteStarts
from broker.viewer.role import ViewerRole
from broker.viewer.stream_answer import StreamAnswer
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves

_SOON = 0.001
"""Seconds that rounding may leave of a wait."""
_NOTICES = 1 / 60, 5
"""Notifications of a lost link: in the long run per second, and at once."""
_HOST_SECONDS = limits.LINK_RETRY_SECONDS + 1.0
"""How long a start waits for a host: as long as one takes to dial again."""


async def _report_silence(
    epoch: Epoch, progress: Callable[[str], None], waiting: trio.CancelScope
) -> None:
    """Tell who waits for a start that the host does not even answer a ping."""
    # An error is the end of the epoch, which ends the start with its reason.
    with waiting, suppress(VitrailError):
        while epoch.live:
            await epoch.wait_silent(limits.LINK_SILENT_SECONDS)
            progress(epoch.silent)
            await trio.sleep(limits.LINK_SILENT_SECONDS)


@dataclass(frozen=True)
class _Leases:
    """Serves a host's calls about leases, in one epoch."""

    epoch: Epoch
    viewer: Callable[[], ViewerRole]
    reload: Callable[[], Awaitable[None]]

    @serves(LEASE_BEGUN)
    async def begin(self, _: ServedCall[Empty], request: LeaseBegun) -> None:
        """Have the records read again, and the viewer show the sandbox.

        Raises VitrailError.
        """
        lease = request.to_lease()
        await self.reload()
        await self.viewer().lease_begun(lease)
        held = {announced.lease.id for announced in self.epoch.leases.all()}
        if lease.id not in held or not self.epoch.live:
            # Withdrawn while it was being made.
            await self.viewer().lease_ended(lease.id, "withdrawn at once")

    @serves(LEASE_ENDED)
    async def end(self, _: ServedCall[Empty], request: LeaseEnded) -> None:
        """Cut the streams of a lease, and have the viewer end it."""
        lease, streams = take_lease_id(request.lease), self.epoch.streams.values()
        mine = [stream for stream in streams if stream.opening.lease.id == lease]
        for stream in mine:
            stream.end(f"the lease ended: {request.reason}")
        for stream in mine:
            await stream.over.wait()
        await self.viewer().lease_ended(lease, printable(request.reason))


class RemoteHost(LinkEnd):
    """Implements ``host_folders.Host`` for a host on another machine."""

    def __init__(
        self,
        config: LinkConfig,
        store: LinkStore,
        *,
        viewer: Callable[[], ViewerRole],
        log: event_log.EventLog,
        reload: Callable[[], Awaitable[None]],
        warnings: Callable[[], Awaitable[list[str]]],
        witness: CheckpointWitness,
        notify: Callable[[str, str], None],
    ) -> None:
        """``notify`` shows a notification of a title and a text."""
        super().__init__(
            config,
            store,
            Role.VIEWER,
            log=log,
            reload=reload,
            warnings=warnings,
            witness=witness,
        )
        self._viewer = viewer
        self._door = Door(config, self.state, prove=self._prove, refused=self._refused)
        self._streams = itertools.count(1)
        self._starts = RemoteStarts(self._stop_unwanted)
        # Not reset when the host connects again.
        self._intake = Intake()
        self._requests = request_pace()
        self._epochs = TokenBucket(
            limits.LINK_EPOCHS_PER_SECOND, limits.LINK_EPOCHS_AT_ONCE
        )
        self._notify = notify
        self._notices = TokenBucket(*_NOTICES)
        self._closing = False
        self._next = trio.Lock()
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._gate: PreambleGate | None = None
        """Of the current epoch."""
        self.devices = RemoteDevices(self._up)
        self.folders = StreamedFolders(log)

    # -- host_folders.Host ----------------------------------------------------------

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
        for_sandbox: bool = False,
    ) -> Lease:
        """Ask the host to start the sandbox of its record; return its lease."""
        epoch = await self._wait_up(progress)
        progress(f"sent the request to {epoch.name}")
        assert self._nursery is not None
        start = HostStart(epoch, record, changes, for_sandbox, progress)
        waiting = trio.CancelScope()
        self._nursery.start_soon(_report_silence, epoch, progress, waiting)
        try:
            return await self._starts.start(start, self._nursery)
        finally:
            waiting.cancel()

    async def _stop_unwanted(self, lease: LeaseId) -> None:
        await self.stop(lease, grace=0, reason="its command was interrupted")

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """Ask the host to end a sandbox; returns when it is gone."""
        epoch = self._up()
        short = min(grace, limits.LINK_GRACE_SECONDS)
        text = fit(reason, limits.LINK_TEXT_CHARACTERS)
        await epoch.call(STOP, StopSandbox(lease, short, text))

    async def suspend(self, lease: LeaseId, *, suspended: bool) -> None:
        """Refuse: the link has no such row.  Raises RefusedError."""
        del lease, suspended
        absence = SUSPEND.absence("link")
        assert absence is not None
        raise RefusedError(absence.message, hint=absence.hint)

    async def _wait_up(self, progress: Callable[[str], None]) -> Epoch:
        """Wait a moment for the host to connect; return the link's epoch."""
        if not self._is_up():
            progress("waiting for the host")
            with trio.move_on_after(_HOST_SECONDS):
                while not self._is_up():
                    epoch = self.state.epoch
                    if epoch is not None and not epoch.begun.is_set():
                        await epoch.begun.wait()
                    else:
                        await self.state.changed.wait()
        return self._up()

    def _is_up(self) -> bool:
        return self.state.epoch is not None and self.state.epoch.live

    def _up(self) -> Epoch:
        """Return the current epoch of the link.  Raises UpstreamError without one."""
        epoch, gate = self.state.epoch, self._gate
        if epoch is None or gate is None or not epoch.live:
            problem = f": {self.state.problem}" if self.state.problem else ""
            raise UpstreamError(
                f"no host is connected{problem}",
                hint=self.state.cure(self.state.problem),
            )
        return epoch

    # -- connections of the host ------------------------------------------------------

    async def run(
        self,
        listener: Listener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled, then close the listener.

        Raises SetupError when there is no key.
        """
        try:
            self._store.identity()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.state.enter("waiting")
                task_status.started()
                while True:
                    await self._door.accept(listener, nursery)
        finally:
            self._nursery = None
            listener.close()

    async def _prove(
        self, kind: ConnectionKind, conn: socket.socket, first: bytes, ticket: Ticket
    ) -> Callable[[], Awaitable[None]]:
        """Return what to do with a connection, when it has proved whose it is.

        A handshake sends this broker's part of it.
        """
        match kind:
            case ConnectionKind.CONTROL:
                epoch = await self._handshake(conn, first, ticket)
                return partial(self._live, epoch, ticket.peer)
            case ConnectionKind.STREAM:
                stream = await self._preamble(conn, first)
                return partial(self._stream, conn, *stream)
            case ConnectionKind.PAIRING:
                raise LinkRefusedError(
                    "received a pairing request, but no pairing is in progress",
                    reason=RefusalReason.PERSON,
                    hint="run 'brokerctl pair', which listens on a separate port",
                )

    async def _handshake(
        self, conn: socket.socket, first: bytes, ticket: Ticket
    ) -> Epoch:
        """Shake hands with a host; return the new epoch."""

        def known() -> None:
            ticket.known = True

        session, rest = await shake_hands(
            conn,
            role=Role.VIEWER,
            dials=False,
            identity=self._store.identity(),
            peers=self._store.peers(),
            first=first,
            known=known,
        )
        ticket.proved = True
        # guard: turns are of the host that is
        self._only(session.peer.name)  # or it would use up the turns of the other
        await self._turn()
        # guard: requests have one pace for all epochs
        return Epoch(
            session,
            conn,
            self._parts,
            rest=rest,
            pace=self._requests,
            silence_limit=self._config.silence_limit,
            pinned=self._store.knows,
            alongside=self._attend,
        )

    async def _attend(self, epoch: Epoch) -> None:
        """Run the tasks of an epoch that end with it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._witness.attend, epoch)
            while True:
                await epoch.silence_changed.wait()
                for guest in self._viewer().guests():
                    guest.frames.mark(frozen=epoch.is_silent)
                    nursery.start_soon(run_isolated, guest.follow_frames)

    def _only(self, name: str) -> None:
        """Refuse a host while another one is connected.  Raises RefusedError."""
        now = self.state.epoch
        if now is not None and now.name != name:
            raise RefusedError(
                f"cannot connect the host {name}: {now.name} is already connected",
                hint="stop one of the hosts; a viewer has one host at a time",
            )

    async def _turn(self) -> None:
        """Wait until one more epoch may begin.

        Still in the waiting room: few can wait here, for a limited time.  A connection
        that gives up has taken nothing, and the excess rate of the last epoch is
        waited for before the next one, so no flood keeps its host out for long.
        """
        async with self._next:
            while True:
                now = trio.current_time()
                # guard: a debt of requests is waited for
                # guard: a pace for epochs
                early = max(self._epochs.early(now), self._requests.early(now, 0))
                if early < _SOON:
                    break
                await trio.sleep(early)
            self._epochs.take(now)

    async def _preamble(
        self, conn: socket.socket, first: bytes
    ) -> tuple[Epoch, PreambleGate, Preamble, bytes]:
        """Read and verify the preamble of a stream's connection."""
        reader = PreambleReader()
        preamble = reader.feed(first)
        while preamble is None:
            untrusted = await receive(conn, reader.needed)
            if not untrusted:
                reader.eof()
            preamble = reader.feed(untrusted)
        epoch, gate = self.state.epoch, self._gate
        if epoch is None or gate is None or not epoch.live:
            raise LinkRefusedError(
                "a stream came, but no host is connected", reason=RefusalReason.PROOF
            )
        return epoch, gate, gate.check(preamble), preamble

    # -- an epoch ----------------------------------------------------------------------

    async def _live(self, epoch: Epoch, peer: str) -> None:
        """Make an epoch the current one, and run it to its end."""
        async with self._changing:
            # guard: one viewer has one host
            self._only(epoch.name)
            old = self.state.epoch
            if old is not None:
                old.end("the same host reconnected")
                await old.gone.wait()
            self.state.up(epoch)
            self._gate = PreambleGate(epoch.session)
        began = trio.current_time()
        reason = BROKER_ENDS
        try:
            await self._note_up(epoch, peer)
            reason = await epoch.run()
        finally:
            with trio.CancelScope(shield=True):
                self.devices.epoch_ended(epoch)
                await self._withdraw_all(epoch, reason)
                if self.state.epoch is epoch:
                    self.state.epoch = None
                    self.state.enter("waiting", printable(reason))
                epoch.gone.set()
                await self._note_down(epoch, reason, began)
                self._notify_loss(epoch)

    def _notify_loss(self, epoch: Epoch) -> None:
        """Notify the user once of the programs that ended with the link."""
        if not epoch.ended_programs or self._closing:
            return
        # guard: a host that comes and goes does not fill the screen
        if self._notices.early(trio.current_time()) > 0:
            return
        self._notices.take(trio.current_time())
        self._notify(f"The link to {epoch.name} was lost", self.state.loss)

    async def _withdraw_all(self, epoch: Epoch, reason: str) -> None:
        """End all leases of a lost epoch: it is unknown which still hold.

        The machines live on, and the host announces them in the next epoch.
        """
        for announced in epoch.leases.all():
            await self._viewer().lease_ended(
                announced.lease.id,
                f"the link was lost: {reason}",
                machine_lives=True,
            )

    async def close(self, reason: str) -> None:
        """Say goodbye to the host; returns when that epoch is gone."""
        epoch = self.state.epoch
        self._closing = True
        if epoch is not None:
            epoch.end(reason)
            await epoch.gone.wait()

    def _parts(self, epoch: Epoch) -> Sequence[object]:
        """Return what serves the host's calls in an epoch."""
        return [
            self._common_calls(epoch),
            DeviceReports(self.devices, epoch),
            _Leases(epoch, self._viewer, self._reload),
        ]

    # -- streams -------------------------------------------------------------------------

    async def _stream(
        self,
        conn: socket.socket,
        epoch: Epoch,
        gate: PreambleGate,
        preamble: Preamble,
        raw: bytes,
    ) -> None:
        """Carry a stream whose preamble has proved its lease, or refuse it."""
        with closing(StreamAnswer(conn, gate, raw)) as answering:
            announced = epoch.leases.usable(preamble.lease)
            if announced is None:
                await answering.say(PreambleVerdict.NO_LEASE)
                raise RefusedError("the host has not announced the lease")
            opening = Opening(
                announced.lease,
                preamble.service,
                next(self._streams),
                announced.peer,
                link=f"{preamble.number}@{epoch.digits}",
            )
            # guard: no new pace for a new epoch
            answering.place = place = self._intake.enter(preamble.lease)
            # guard: too many are refused
            if place is None:
                await answering.say(PreambleVerdict.BUSY)
                raise RefusedError(
                    "too many streams wait for a decision, including those of "
                    f"{opening.lease.sandbox}"
                )
            # A stream that waits for its turn is also cut with its lease.
            # guard: waiting streams are cut with their lease
            with epoch.stream(preamble.number, opening):
                await place.turn()
                await self._decide(opening, conn, answering)

    async def _decide(
        self, opening: Opening, conn: socket.socket, answering: StreamAnswer
    ) -> None:
        """Have the viewer decide about a stream and carry it."""
        try:
            await self._viewer().stream_opened(
                opening,
                socket.socket(fileno=conn.detach()),
                answer=answering,
                task_status=trio.TASK_STATUS_IGNORED,
            )
        except VitrailError as error:
            await self._log.refused(
                schema.StreamRefused(
                    **event_log.of_stream(opening), outcome="refused", reason=str(error)
                )
            )
