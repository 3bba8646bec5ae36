"""The viewer as the host has it: at the other end of the link.

The host dials: its control connection first, again and again until it is
there, then a connection for each stream.  It knows all live leases and
announces them in each new epoch, so a viewer that was restarted gets its
sandboxes back; their streams have ended with the epoch.

What the viewer may ask for is bounded here: the name of a record to start,
and a lease to end.  Everything else about it is in this host's files.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import trio

from broker.authority.audit import event_log
from broker.core.errors import (
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.lease import Lease, Opening
from broker.core.limits import link as limits
from broker.core.names import (
    LeaseId,
    SandboxName,
    ServiceName,
    take_lease_id,
    take_sandbox_name,
)
from broker.core.services import DISPLAY, LINK_PORTS
from broker.host.devices.link import DeviceCalls, DeviceRequests
from broker.host.lease_requests import start_for_viewer, withdraw
from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.host_and_viewer.link_end import LinkEnd
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.stream_events import StreamEvents, relay_stream
from broker.ipc.audit import schema
from broker.ipc.host_rows import (
    LEASE_BEGUN,
    START,
    STOP,
    LeaseBegun,
    SandboxStarted,
    StartSandbox,
    StopSandbox,
)
from broker.ipc.host_viewer import Machines, StreamRefusedError, TaskStatus
from broker.net.display_header import read_header
from broker.net.hangup import given
from broker.net.link.cures import BROKER_ENDS
from broker.net.link.preamble import PreambleVerdict, StreamOffer
from broker.net.link.wire_types import LinkRefusedError, Role
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.epoch import Epoch
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.sockets import dial, receive, send_all, shake_hands
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves

_VERDICTS = {
    PreambleVerdict.DENIED: "the viewer's policy denies the stream",
    PreambleVerdict.NO_LEASE: "the viewer does not know the lease",
    PreambleVerdict.BUSY: "the viewer has too many open streams",
    PreambleVerdict.FAILED: "a process on the viewer failed; see the viewer's log",
}


@dataclass(eq=False)
class _Ended:
    reason: str = BROKER_ENDS


async def _run_epoch(
    epoch: Epoch,
    ended: _Ended,
    scope: trio.CancelScope,
    *,
    task_status: TaskStatus,
) -> None:
    """Run an epoch; note the reason of its end and cancel ``scope``."""
    ended.reason = await epoch.run(task_status=task_status)
    scope.cancel()


@dataclass(frozen=True)
class _Starts:
    """Serves a viewer's calls about sandboxes, in one epoch."""

    epoch: Epoch
    host: Callable[[], Machines]
    reload: Callable[[], Awaitable[None]]
    broken: Callable[[SandboxName], str]
    """Returns the mistake in a record; empty: it has none."""
    log: event_log.EventLog

    @serves(START)
    async def start(
        self, exchange: ServedCall[SandboxStarted], request: StartSandbox
    ) -> SandboxStarted:
        """Read the records again; start a sandbox.  Raises VitrailError."""
        record = take_sandbox_name(request.record)
        await self.reload()
        try:
            mistake = self.broken(record)
            return await start_for_viewer(exchange, self.host(), request, mistake)
        except RefusedError as error:
            await self.log.refused(
                schema.LeaseRefused(
                    sandbox=record,
                    peer=f"viewer {self.epoch.name}",
                    outcome="refused",
                    reason=str(error),
                )
            )
            raise

    @serves(STOP)
    async def stop(self, _: ServedCall[Empty], request: StopSandbox) -> None:
        """End a sandbox; return when it is gone.  Raises VitrailError."""
        # guard: another machine holds up no end for long
        grace = min(request.grace, limits.LINK_GRACE_SECONDS)
        lease, reason = take_lease_id(request.lease), request.reason
        by = f"requested by viewer {self.epoch.name}"
        await self.host().stop(lease, grace=grace, reason=f"{by}: {reason}")


class RemoteViewer(LinkEnd):
    """Implements ``host_viewer.Viewer`` for a viewer on another machine."""

    def __init__(
        self,
        config: LinkConfig,
        store: LinkStore,
        *,
        host: Callable[[], Machines],
        pump: PumpSupervisor,
        log: event_log.EventLog,
        peer_of: Callable[[LeaseId], str],
        reload: Callable[[], Awaitable[None]],
        warnings: Callable[[], Awaitable[list[str]]],
        witness: CheckpointWitness,
        broken: Callable[[SandboxName], str],
    ) -> None:
        """``broken`` returns the mistake in a record; empty: it has none."""
        super().__init__(
            config,
            store,
            Role.HOST,
            log=log,
            reload=reload,
            warnings=warnings,
            witness=witness,
        )
        self._pump = pump
        self._events = StreamEvents(log)
        self._peer_of = peer_of
        self._leases: dict[LeaseId, Lease] = {}
        self._host = host
        self._opening = trio.Semaphore(limits.LINK_OPENING)
        self.unwanted: dict[LeaseId, str] = {}
        """Live leases that the current viewer does not want, and why."""
        self._unseen: dict[tuple[LeaseId, ServiceName], tuple[Opening, int]] = {}
        """Streams since the link was lost, but the first: the last one and how many."""
        self._broken = broken
        self._devices = DeviceRequests(lambda: host().devices, lambda: self.state.epoch)

    # -- the control connection -------------------------------------------------

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the link to the viewer connected until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._devices.run)
            task_status.started()
            await self._stay_up()

    async def _stay_up(self) -> None:
        """Connect to the viewer, again with growing pauses; runs for ever."""
        pause = limits.LINK_RETRY_FIRST_SECONDS
        told = ""
        while True:
            before = self.state.epochs
            self.state.enter("dialling", self.state.problem, self.state.hint)
            hint = ""
            try:
                problem = await self._one_epoch()
            except VitrailError as error:
                problem, hint = str(error), error.hint
                if isinstance(error, LinkRefusedError) and str(error) != told:
                    told = str(error)  # each reason once, not at each attempt
                    await self._refused(str(self._config.endpoint), str(error))
            self.state.epoch = None
            self.state.enter("down", printable(problem), hint)
            if self.state.epochs > before:
                pause, told = limits.LINK_RETRY_FIRST_SECONDS, ""
            await trio.sleep(pause)
            pause = min(2 * pause, limits.LINK_RETRY_SECONDS)

    async def _one_epoch(self) -> str:
        """Connect to the viewer, serve one epoch of the link; return why it ended.

        Its beginning and end are recorded in the audit log; this broker's key is
        created if absent.
        """
        identity, peers = self._store.identity(), self._store.peers()
        if not any(peer.role is Role.VIEWER for peer in peers.all):
            raise SetupError(
                "this host is not paired with a viewer",
            )
        sock = await dial(self._config)
        try:
            with trio.fail_after(limits.LINK_HANDSHAKE_SECONDS):
                session, rest = await shake_hands(
                    sock, role=Role.HOST, dials=True, identity=identity, peers=peers
                )
        except trio.TooSlowError as error:
            sock.close()
            raise UpstreamError(
                f"the viewer did not finish the handshake in {limits.LINK_HANDSHAKE_SECONDS:g} s"
            ) from error
        except BaseException:
            sock.close()
            raise
        # guard: the viewer owes its host answers
        epoch = Epoch(
            session,
            sock,
            self._parts,
            rest=rest,
            patience=limits.LINK_ANSWER_SECONDS,
            silence_limit=self._config.silence_limit,
            pinned=self._store.knows,
            alongside=self._witness.attend,
        )
        return await self._live(epoch)

    def _parts(self, epoch: Epoch) -> Sequence[object]:
        """Return what serves the viewer's calls in an epoch."""
        return [
            self._common_calls(epoch),
            DeviceCalls(self._devices, epoch),
            _Starts(epoch, self._host, self._reload, self._broken, self._log),
        ]

    async def _live(self, epoch: Epoch) -> str:
        """Announce leases and serve an epoch to its end.

        Its beginning and its end are recorded in the audit log.
        """
        began = trio.current_time()
        self.unwanted.clear()
        reason = BROKER_ENDS
        try:
            await self._note_up(epoch, str(self._config.endpoint))
            async with trio.open_nursery() as nursery:
                ended = _Ended()
                await nursery.start(_run_epoch, epoch, ended, nursery.cancel_scope)
                # Leases from now on announce themselves; nothing is awaited
                # between these two lines, so none is left out.
                self.state.up(epoch)
                self._devices.announce()
                for lease in self._leases.values():
                    nursery.start_soon(self._announce_again, epoch, lease)
                # Not before: a stream that came in between counted as a first one.
                with trio.CancelScope(shield=True):
                    await self._record_unseen()
            reason = ended.reason
        finally:
            self.state.epoch = None
            with trio.CancelScope(shield=True):
                await self._note_down(epoch, reason, began)
        return reason

    async def _announce_again(self, epoch: Epoch, lease: Lease) -> None:
        """Announce a lease in a new epoch; note that the viewer refuses it."""
        try:
            await self._announce(epoch, lease)
        except VitrailError as error:
            # The machine lives on: it is this viewer that has no use for it.
            # If the epoch is over, the next one announces it.
            if epoch.live:
                self.unwanted[lease.id] = error.message

    async def _announce(self, epoch: Epoch, lease: Lease) -> None:
        """Announce a lease to the viewer; withdraw it where that fails."""
        if lease.id not in self._leases:
            return  # it has ended meanwhile
        peer = self._peer_of(lease.id)
        try:
            await epoch.call_unless_silent(LEASE_BEGUN, LeaseBegun.of(lease, peer))
        except VitrailError:
            await self._withdraw(epoch, lease.id, "not taken")
            raise
        if lease.id not in self._leases:
            await self._withdraw(epoch, lease.id, "it ended meanwhile")

    async def _withdraw(self, epoch: Epoch, lease: LeaseId, reason: str) -> None:
        """Tell the viewer that a lease has ended, if it knows it."""
        if epoch.live:
            with contextlib.suppress(UpstreamError):  # then the epoch took it along
                await withdraw(epoch, lease, reason)

    # -- host_viewer.Viewer --------------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Announce a lease now, or as soon as there is a viewer."""
        self._leases[lease.id] = lease
        epoch = self.state.epoch
        if epoch is None:
            return
        try:
            # Not to be left half done: the viewer would have a lease that
            # is never withdrawn.  It ends with the epoch at the latest.
            with trio.CancelScope(shield=True):
                await self._announce(epoch, lease)
        except VitrailError:
            if epoch.live:  # else the next epoch announces it
                self._leases.pop(lease.id, None)
                raise

    async def arena_lent(self, lease: LeaseId, fd: int) -> None:
        """See ``Viewer``: memory cannot be shared with another machine."""

    async def machine_stopped(self, lease: LeaseId, reason: str) -> None:
        """See ``Viewer``."""

    async def lease_ended(self, lease: LeaseId, reason: str) -> None:
        """Announce the end of a lease; return when the viewer has cut its streams."""
        self._leases.pop(lease, None)
        self.unwanted.pop(lease, None)
        await self._record_unseen(lease)
        epoch = self.state.epoch
        if epoch is not None:
            await self._withdraw(epoch, lease, reason)

    async def stream_opened(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Open a stream to the viewer and splice; started when it has taken it.

        Raises UpstreamError.
        """
        taken = False
        with given(conn):
            if opening.service not in LINK_PORTS:
                raise UpstreamError(f"the link does not carry {opening.service}")
            epoch = self._epoch_for(opening)
            untrusted_head = b""
            if opening.service == DISPLAY:
                # Undecided until it has sent the header of a waypipe server, so
                # that idle connections cost this sandbox's places, and no others.
                untrusted_head = await read_header(conn)
            offer = epoch.opener.open(opening.service, opening.lease.id)
            number = epoch.opener.last
            opening = replace(opening, link=f"{number}@{epoch.digits}")
            with (
                epoch.stream(number, opening) as stream,
                await self._open(offer, opening) as link,
            ):
                async with self._events.carry(opening, "link") as outcome:
                    taken = True
                    task_status.started()
                    with contextlib.suppress(OSError):  # the pump finds it dead
                        link.sendall(untrusted_head)
                    fds = conn.detach(), link.detach()
                    head = len(untrusted_head)
                    try:
                        await relay_stream(self._pump, opening, fds, outcome, head=head)
                    finally:
                        outcome.reason = stream.reason or outcome.reason
        if not taken:
            raise UpstreamError(stream.reason)

    def _epoch_for(self, opening: Opening) -> Epoch:
        """Return the epoch that may carry a stream.

        Raises RefusedError if none may.
        """
        if opening.direct:
            raise RefusedError(
                "cannot carry a direct Wayland connection to a viewer on another machine",
                hint="start the sandbox's programs under waypipe, which connects to vitrail.Display",
            )
        epoch = self.state.epoch
        if epoch is None or not epoch.live:
            raise self._without_viewer(opening)
        # guard: a silent viewer is not dialled for each stream
        if epoch.is_silent:
            raise self._without_viewer(opening, epoch.silent)
        if epoch.leases.usable(opening.lease.id) is None:
            reason = self.unwanted.get(opening.lease.id, "it has not answered yet")
            raise RefusedError(f"the viewer has not accepted the lease: {reason}")
        return epoch

    def _without_viewer(
        self, opening: Opening, reason: str = "no viewer is connected"
    ) -> StreamRefusedError:
        """Count a stream that no viewer is there for; the first one is an event.

        An agent tries again each second, for as long as the viewer is away.
        """
        key = opening.lease.id, opening.service
        recorded = key in self._unseen
        count = self._unseen[key][1] + 1 if recorded else 0
        self._unseen[key] = opening, count
        return StreamRefusedError(reason, recorded=recorded)

    async def _record_unseen(self, lease: LeaseId | None = None) -> None:
        """Record the counts of ``_without_viewer``, of one lease or of all."""
        for key in [key for key in self._unseen if lease in {None, key[0]}]:
            # Another task may record and remove it while this one waits for the log.
            # guard: a count of refused streams is recorded once
            if key not in self._unseen:
                continue
            opening, count = self._unseen.pop(key)
            if count:
                event = schema.StreamRefused(
                    **event_log.of_stream(opening),
                    outcome="refused",
                    reason="no viewer was connected, or it was silent",
                    count=count,
                )
                await self._log.refused(event)

    async def _open(self, offer: StreamOffer, opening: Opening) -> socket.socket:
        """Return a connection on which the viewer has taken the stream."""
        async with self._opening:
            sock = await dial(self._config)
            try:
                await send_all(sock, offer.preamble)
            except BaseException:
                sock.close()
                raise
        try:
            verdict = None
            with trio.fail_after(limits.LINK_HANDSHAKE_SECONDS):
                while verdict is None:
                    untrusted = await receive(sock, offer.needed)
                    if not untrusted:
                        offer.eof()
                    verdict = offer.feed(untrusted)
        except trio.TooSlowError as error:
            sock.close()
            raise UpstreamError(
                f"the viewer did not answer the offer of a stream within {limits.LINK_HANDSHAKE_SECONDS:g} s"
            ) from error
        except BaseException:
            sock.close()
            raise
        if verdict is not PreambleVerdict.TAKEN:
            sock.close()
            raise StreamRefusedError(_VERDICTS[verdict], link=opening.link)
        return sock
