"""The host as the viewer sees it: the other end of the link.

The viewer listens.  A connecting process is first checked by the kernel's facts
(one CID, one uid), then waits, with a deadline and among few, until its first
message proves it: a handshake makes an epoch, a preamble a stream of that
epoch.  Anything else is closed, most of it without an answer.

One epoch lives at a time.  The same host with a new handshake has restarted,
or lost the old connection before we did: its old epoch ends first.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import astuple

import trio

from broker.audit import schema
from broker.core import limits
from broker.core.errors import (
    InternalError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName, take_lease_id
from broker.core.stderr_log import log_exception
from broker.core.token_bucket import TokenBucket
from broker.link import messages as m
from broker.link.endpoints import Listener, open_listener
from broker.link.pending_connections import PendingConnections, Ticket
from broker.link.preamble import Preamble, PreambleReader, PreambleVerdict
from broker.link.wire_types import (
    MAGIC_BYTES,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
    Role,
    take_door,
)
from broker.services import event_log
from broker.services.checkpoints import CheckpointWitness
from broker.services.link.config import LinkConfig
from broker.services.link.epoch import Epoch, request_pace
from broker.services.link.key_store import LinkStore
from broker.services.link.sockets import (
    describe_far_end,
    receive,
    send_all,
    shake_hands,
)
from broker.services.link.status import LinkState, own_status
from broker.viewer.devices.remote import RemoteDevices
from broker.viewer.host_intake import Intake, IntakePlace
from broker.viewer.role import ViewerRole

_FULL_PAUSE = 0.1
_SOON = 0.001
"""What rounding may leave of a wait."""
_HOST_SECONDS = limits.LINK_RETRY_SECONDS + 1.0
"""How long a start waits for a host: as long as one takes to dial again."""


class RemoteHost:
    """Implements ``link.contract.Host`` for a host on another machine."""

    def __init__(
        self,
        config: LinkConfig,
        store: LinkStore,
        *,
        viewer: ViewerRole,
        log: event_log.Journal,
        reload: Callable[[], Awaitable[None]],
        warnings: Callable[[], list[str]],
        witness: CheckpointWitness,
    ) -> None:
        self._config = config
        self._store = store
        self._viewer = viewer
        self._log = log
        self._reload = reload
        self._warnings = warnings
        self._witness = witness
        self._waiting = PendingConnections()
        self._knocking: dict[int, trio.CancelScope] = {}
        """Of those who wait, by their tickets' numbers."""
        self._streams = itertools.count(1)
        self._starts: set[_Started] = set()
        # Not reset when the host connects again.
        self._intake = Intake()
        self._requests = request_pace()
        self._epochs = TokenBucket(
            limits.LINK_EPOCHS_PER_SECOND, limits.LINK_EPOCHS_AT_ONCE
        )
        self._next = trio.Lock()
        self._changing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._since = time.time()
        self.state = LinkState(Role.VIEWER, str(config.endpoint))
        self.devices = RemoteDevices(self._up)

    # -- link.contract.Host ----------------------------------------------------------

    async def start(
        self,
        record: SandboxName,
        *,
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
    ) -> Lease:
        """Ask the host for the sandbox of one of its records."""
        epoch = await self._wait_up(progress)
        progress(f"asked {epoch.name}")
        started = _Started(epoch, changes)
        assert self._nursery is not None
        started.progress = progress
        self._nursery.start_soon(self._start, epoch, record, started)
        try:
            await started.over.wait()
        except trio.Cancelled:
            started.wanted = False  # it is stopped when it is there
            started.progress = _unheard
            raise
        if started.error is not None:
            raise started.error
        assert started.lease is not None
        return started.lease

    async def _start(
        self, epoch: Epoch, record: SandboxName, started: _Started
    ) -> None:
        try:
            reply = await epoch.ask(lambda n: self._numbered(n, record, started))
            if not isinstance(reply, m.SandboxStarted):
                raise InternalError("an answer that does not fit the question")
            announced = epoch.channel.leases.usable(take_lease_id(reply.lease))
            if announced is None:
                raise UpstreamError(f"the sandbox of '{record}' ended at once")
            started.lease = announced.lease
            disposable = announced.lease.sandbox != record
            if disposable and not started.wanted:
                await self.stop(
                    announced.lease.id, grace=0, reason="no run waits for it any more"
                )
        except VitrailError as error:
            started.error = error
        finally:
            self._starts.discard(started)
            started.over.set()

    def _numbered(
        self, number: int, record: SandboxName, started: _Started
    ) -> m.StartSandbox:
        started.number = number
        self._starts.add(started)
        return m.StartSandbox(number, record, *astuple(started.changes))

    async def stop(self, lease: LeaseId, *, grace: float, reason: str) -> None:
        """Ask the host to end a sandbox; returns when it is gone."""
        epoch = self._up()
        short = min(grace, limits.LINK_GRACE_SECONDS)
        text = m.fit(reason, limits.LINK_TEXT_CHARACTERS)
        await epoch.ask(lambda n: m.StopSandbox(n, lease, short, text))

    async def _wait_up(self, progress: Callable[[str], None]) -> Epoch:
        """A link that was just lost, or a broker that just started: wait a little."""
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
        epoch = self.state.epoch
        if epoch is None or not epoch.live:
            problem = f": {self.state.problem}" if self.state.problem else ""
            raise UpstreamError(
                f"no host is connected{problem}",
                hint="start 'vitrail-host' on the host, paired with this viewer; "
                "its 'brokerctl status' says how far it gets",
            )
        return epoch

    # -- the door --------------------------------------------------------------------

    async def run(
        self,
        activated: socket.socket | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; started when the listener is up.

        ``activated`` is a listening socket that a service manager made.  Raises SetupError when it cannot listen, or its key is not to be had.
        """
        self._store.identity()
        if activated is None:
            listener = await open_listener(self._config.endpoint)
        else:
            activated.settimeout(0)
            listener = Listener(self._config.endpoint, activated)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.state.enter("waiting")
                task_status.started()
                while True:
                    await self._accept(listener, nursery)
        finally:
            self._nursery = None
            listener.close()

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        try:
            conn = await listener.accept()
        except UpstreamError as error:  # no descriptor left; others' ends make room
            self.state.problem = str(error)
            await trio.sleep(_FULL_PAUSE)
            return
        peer = ""
        try:
            peer = describe_far_end(conn, self._config)
        except (RefusedError, OSError) as error:
            conn.close()
            await self._refused(peer, str(error))
        else:
            ticket, pushed = self._waiting.enter(peer, trio.current_time())
            if pushed is not None:
                self._knocking[pushed.number].cancel()
            scope = trio.CancelScope(deadline=ticket.deadline)
            self._knocking[ticket.number] = scope
            nursery.start_soon(self._meet, conn, ticket, scope)
        # So that connections with a complete first message are let in before
        # the next one comes and displaces one of them.
        await trio.lowlevel.checkpoint()

    async def _meet(
        self, conn: socket.socket, ticket: Ticket, scope: trio.CancelScope
    ) -> None:
        """One connection, from accept to its end."""
        try:
            with conn:
                await self._greet(conn, ticket, scope)
        except LinkRefusedError as error:
            if error.reason is RefusalReason.VERSION:
                self.state.problem = error.diagnostics().replace("\n  hint: ", "; ")
            await self._refused(ticket.peer, str(error))
        except (VitrailError, OSError) as error:
            await self._refused(ticket.peer, str(error))
        except Exception as error:  # noqa: BLE001
            # A mistake of ours with one connection must not end the others.
            log_exception(error)
        finally:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self._waiting.leave(ticket)
        self._knocking.pop(ticket.number, None)

    async def _greet(
        self, conn: socket.socket, ticket: Ticket, scope: trio.CancelScope
    ) -> None:
        epoch: Epoch | None = None
        stream: tuple[Epoch, Preamble, bytes] | None = None
        with scope:
            untrusted_first = b""
            while len(untrusted_first) < MAGIC_BYTES:
                more = await receive(conn, MAGIC_BYTES - len(untrusted_first))
                if not more:
                    raise LinkRefusedError(
                        "closed before it stated its purpose",
                        reason=RefusalReason.CLOSED,
                    )
                untrusted_first += more
            match take_door(untrusted_first):
                case ConnectionKind.CONTROL:
                    epoch = await self._handshake(conn, untrusted_first, ticket)
                case ConnectionKind.STREAM:
                    stream = await self._preamble(conn, untrusted_first)
                case ConnectionKind.PAIRING:
                    raise LinkRefusedError(
                        "pairing request received, but no pairing is in progress",
                        reason=RefusalReason.PERSON,
                        hint="'brokerctl pair' listens on a port of its own",
                    )
        if scope.cancelled_caught:
            raise RefusedError(_why_turned_away(ticket))
        self._leave(ticket)
        if epoch is not None:
            await self._live(epoch, ticket.peer)
        elif stream is not None:
            await self._stream(conn, *stream)

    async def _handshake(
        self, conn: socket.socket, first: bytes, ticket: Ticket
    ) -> Epoch:
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
            self._serve,
            rest=rest,
            pace=self._requests,
            pinned=self._store.knows,
            alongside=self._witness.attend,
        )

    def _only(self, name: str) -> None:
        """Refuse this host while another one is."""
        now = self.state.epoch
        if now is not None and now.name != name:
            raise RefusedError(
                f"{name} wants to be the host, and {now.name} is",
                hint="one viewer has one host at a time",
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
    ) -> tuple[Epoch, Preamble, bytes]:
        reader = PreambleReader()
        preamble = reader.feed(first)
        while preamble is None:
            untrusted = await receive(conn, reader.needed)
            if not untrusted:
                reader.eof()
            preamble = reader.feed(untrusted)
        epoch = self.state.epoch
        if epoch is None or not epoch.live:
            raise LinkRefusedError(
                "a stream when no host is connected", reason=RefusalReason.PROOF
            )
        return epoch, epoch.gate.check(preamble), preamble

    async def _refused(self, peer: str, reason: str) -> None:
        self.state.refused += 1
        if self.state.epoch is not None:
            self.state.epoch.refused += 1
        await self._log.refused(
            schema.LinkRefused(
                peer=peer, outcome="refused", reason=printable(reason, 400)
            )
        )

    # -- an epoch ----------------------------------------------------------------------

    async def _live(self, epoch: Epoch, peer: str) -> None:
        """Make an epoch the current one, and run it."""
        async with self._changing:
            # guard: one viewer has one host
            self._only(epoch.name)
            old = self.state.epoch
            if old is not None:
                old.end("the same host has connected again")
                await old.gone.wait()
            self.state.up(epoch)
        began = trio.current_time()
        reason = "this broker ends"
        try:
            await self._log.note(
                schema.LinkUp(name=epoch.name, epoch=epoch.digits, peer=peer)
            )
            reason = await epoch.run()
        finally:
            with trio.CancelScope(shield=True):
                self.devices.epoch_ended(epoch)
                await self._withdraw_all(epoch, reason)
                if self.state.epoch is epoch:
                    self.state.epoch = None
                    self.state.enter("waiting", printable(reason, 400))
                epoch.gone.set()
                await self._log.note(
                    schema.LinkDown(
                        name=epoch.name,
                        epoch=epoch.digits,
                        reason=printable(reason, 400),
                        seconds=trio.current_time() - began,
                    )
                )

    async def _withdraw_all(self, epoch: Epoch, reason: str) -> None:
        """Withdraw all leases: it is unknown which still hold, so none does.

        The machines live on, and the host announces them in the next epoch.
        """
        for announced in epoch.channel.leases.all():
            await self._viewer.lease_ended(
                announced.lease.id, f"the link was lost: {reason}"
            )

    async def close(self, reason: str) -> None:
        """Say goodbye to the host; returns when that epoch is gone."""
        epoch = self.state.epoch
        if epoch is not None:
            epoch.end(reason)
            await epoch.gone.wait()

    async def _serve(self, epoch: Epoch, request: m.LinkRequest) -> m.LinkReply:
        match request:
            case m.LeaseBegun():
                lease = request.to_lease()
                await self._reload()
                await self._viewer.lease_begun(lease)
                held = {announced.lease.id for announced in epoch.channel.leases.all()}
                if lease.id not in held or not epoch.live:
                    # Withdrawn while it was being made.
                    await self._viewer.lease_ended(lease.id, "withdrawn at once")
                return m.RequestDone(request.request)
            case m.LeaseEnded():
                ended = take_lease_id(request.lease)
                await self._cut(epoch, ended, request.reason)
                await self._viewer.lease_ended(ended, printable(request.reason))
                return m.RequestDone(request.request)
            case m.StartProgress():
                for start in self._starts:
                    if start.epoch is epoch and start.number == request.start:
                        start.tell(printable(request.text))
                return m.RequestDone(request.request)
            case m.WitnessNote():
                return await self._witness.take(epoch, request)
            case m.StatusAsked():
                return own_status(request.request, epoch, self._since, self._warnings())
            case _:
                reply = await self.devices.serve(epoch, request)
                if reply is None:
                    raise InternalError(f"there is no handler for {request}")
                return reply

    async def _cut(self, epoch: Epoch, lease: LeaseId, reason: str) -> None:
        mine = [s for s in epoch.streams.values() if s.opening.lease.id == lease]
        for stream in mine:
            stream.cut(f"the lease ended: {reason}")
        for stream in mine:
            await stream.over.wait()

    # -- streams -------------------------------------------------------------------------

    async def _stream(
        self, conn: socket.socket, epoch: Epoch, preamble: Preamble, raw: bytes
    ) -> None:
        """Carry a stream that has proved whose it is."""
        with closing(_Answering(conn, epoch, raw)) as answering:
            announced = epoch.channel.leases.usable(preamble.lease)
            if announced is None:
                await answering.say(PreambleVerdict.NO_LEASE)
                raise RefusedError("a stream of a lease that is not announced")
            opening = Opening(
                announced.lease, preamble.service, next(self._streams), announced.peer
            )
            # guard: no new pace for a new epoch
            answering.place = place = self._intake.enter(preamble.lease)
            # guard: too many are refused
            if place is None:
                await answering.say(PreambleVerdict.BUSY)
                raise RefusedError(
                    f"too many undecided streams, with those of {opening.lease.sandbox}"
                )
            # Also what waits for its turn is cut with its lease.
            # guard: what waits is cut with its lease
            with epoch.stream(preamble.number, opening):
                await place.turn()
                await self._decide(opening, conn, answering)

    async def _decide(
        self, opening: Opening, conn: socket.socket, answering: _Answering
    ) -> None:
        try:
            await self._viewer.stream_opened(
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


def _why_turned_away(ticket: Ticket) -> str:
    if ticket.proved:
        return "it reconnects too often, or has sent too many requests before"
    if trio.current_time() < ticket.deadline:
        return (
            "nothing proved before its place was another's: "
            "too many unfinished connections"
        )
    return f"nothing proved within {limits.LINK_HANDSHAKE_SECONDS:g} s"


class _Started:
    """A start that was asked for."""

    def __init__(self, epoch: Epoch, changes: LaunchChanges) -> None:
        self.epoch = epoch
        self.changes = changes
        self.number = 0
        self.progress: Callable[[str], None] = _unheard
        self._told = 0
        self.over = trio.Event()
        self.wanted = True
        self.lease: Lease | None = None
        self.error: VitrailError | None = None

    def tell(self, what: str) -> None:
        """Pass on a line of the host's; a start needs a handful of them."""
        self._told += 1
        if self._told <= limits.LINK_PROGRESS_LINES:
            self.progress(what)


def _unheard(what: str) -> None:
    """No task waits for a start any more."""


class _Answering:
    """The one answer to a preamble.

    On a descriptor of its own, because the code that carries the stream owns and
    closes the other one, also when it refuses.
    """

    def __init__(self, conn: socket.socket, epoch: Epoch, preamble: bytes) -> None:
        self._sock: socket.socket | None = conn.dup()
        self._epoch = epoch
        self._preamble = preamble
        self.place: IntakePlace | None = None
        """Of the undecided, which it has until it is answered."""

    async def __call__(self, error: VitrailError | None) -> None:
        """The stream is taken and its payload may come; or why it is not."""
        if error is None:
            await self.say(PreambleVerdict.TAKEN)
        elif isinstance(error, RefusedError):
            await self.say(PreambleVerdict.DENIED)
        else:
            await self.say(PreambleVerdict.FAILED)

    async def say(self, verdict: PreambleVerdict) -> None:
        """Answer, unless that was done before."""
        # guard: a decision frees the place
        self._leave_place()
        sock, self._sock = self._sock, None
        if sock is None:
            return
        with sock, trio.move_on_after(limits.LINK_HANDSHAKE_SECONDS):
            answer = self._epoch.gate.answer(self._preamble, verdict)
            try:
                await send_all(sock, answer)
            except UpstreamError:
                return  # it has gone; who carries the stream finds out

    def close(self) -> None:
        """Let go, without an answer where none was given."""
        # guard: an end frees the place
        self._leave_place()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _leave_place(self) -> None:
        if self.place is not None:
            self.place.close()
