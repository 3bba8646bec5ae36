"""The authority's end of a client's channel: its requests are checked here.

A client that sends a message that it may not send has been taken over, or has a mistake; either
way its channel ends, with everything that it was permitted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
import trio

from broker.authority.audit.journal import Journal
from broker.authority.audit.log_checkpoints import CheckpointRequests, LogCheckpoints
from broker.authority.audit.shares import LogShares, cost
from broker.authority.channel.event_rights import EventRights
from broker.authority.channel.open_uses import OpenUses
from broker.authority.channel.request_messages import request_of
from broker.authority.channel.sent_records import SentRecords
from broker.authority.decisions.decision_events import not_opened
from broker.authority.permit import ChosenRequest, Permit, Request
from broker.authority.policy_authority import PolicyAuthority
from broker.authority.questions.subject import Subject
from broker.core.authority_report import AuthorityReport
from broker.core.errors import (
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.names import LeaseId, SandboxName
from broker.core.services import AUDIO, CLIPBOARD_PASTE, DEVICE
from broker.ipc import authority as m
from broker.ipc.audit import log_rows, schema
from broker.ipc.session.permit_warrant import OF_REQUEST, PermitWarrant
from broker.ipc.session.warrant import sign
from broker.wire.exchange import ServedCall
from broker.wire.frame_carrier import Frames
from broker.wire.habits import Habits
from broker.wire.peer import Peer
from broker.wire.row import Empty, ProcessKind, Row, serves

_SHARE_SECONDS = 5.0
"""For so long a client is informed that a sandbox's share of the log is used up."""
_ANSWERS_KEPT = 64
"""Choices of the user that a client may still refer to."""
_TIMES = 2
"""A client records at most so many times the shares at once: what had begun when a
share was used up has an end on record, too."""
_DECISION_BYTES = 2048
"""Of a decision in the log, beside what the request has twice: rule, columns, stamps."""
_UNLEASED = "no sandbox"
"""Who has the share of a client's events that are about no lease."""

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
ServeControl = Callable[[], Awaitable[object]]


@dataclass(eq=False)
class _Held:
    """A request for a permit, from its message to its end."""

    service: str
    over: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    permit: Permit | None = None


_GIVES_UP = frozenset({AUDIO})
"""Services whose programs give up before a user answers, and try again (libpulse)."""
_OF_SEVERAL = frozenset({CLIPBOARD_PASTE})
"""Services whose question may name further requests."""
_NAMED = {*Subject._fields, "device"} - {"mime"}
"""What a question is about, beside content, which may be of several types."""
_TERMS = m.Permitted.__struct_fields__[:-1]
"""What a client is informed of a permit, but for its warrant."""
_encode = msgspec.msgpack.Encoder().encode


def _alike(one: Request, other: Request) -> bool:
    """Return whether a question about one request also named the other one."""
    # guard: a type that crosses was named
    types = [value for title, value in one.claims if title == "type"]
    if other.mime not in {one.mime, *types}:
        return False
    return all(getattr(one, name) == getattr(other, name) for name in _NAMED)


def _same_device(one: Request, other: Request) -> bool:
    """Return whether requests are for the first one's device, but for sandboxes."""
    if one.service != DEVICE or one.device is None:
        return False
    return _alike(replace(one, lease=other.lease, target=other.target), other)


class ClientChannel:
    """One client of the authority, from its first message to its last."""

    def __init__(
        self,
        link: Frames,
        kind: ProcessKind,
        *,
        authority: PolicyAuthority,
        log: Journal,
        rights: EventRights,
        report: Callable[[], AuthorityReport],
        serve_control: ServeControl,
        raise_question: Callable[[str], None],
        checkpoints: LogCheckpoints | None = None,
        key: bytes = b"",
    ) -> None:
        """Set up the channel of a host or a viewer.

        ``serve_control`` returns once the control socket is served;
        ``raise_question`` brings the dialog to the front, by a compositor's token.

        ``key``: of the warrants of permits (``ipc.session.warrant``). ``checkpoints``:
        of a broker with a link.
        """
        self._link = link
        self._authority = authority
        self._log = log
        self._rights = rights
        self.uses = OpenUses()
        self._report = report
        self._serve_control = serve_control
        self._raise_question = raise_question
        self._key = key
        habits = Habits(
            most_calls=authority_limits.AUTHORITY_REQUESTS,
            message_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            ends_by_handler=True,
        )
        self._peer = Peer(
            link,
            ProcessKind.AUTHORITY,
            kind,
            m.AUTHORITY_ROWS,
            (self, CheckpointRequests(checkpoints, self._tell_checkpoint)),
            habits=habits,
            closes_carrier=False,
        )
        self._held: dict[int, _Held] = {}
        self._opened: dict[int, Request] = {}
        """Permits on record as streams, until their ``PermitOver``."""
        self._chosen: dict[int, ChosenRequest] = {}
        self._recorded = LogShares(_TIMES)
        """What the client has had recorded, whatever it asks before."""
        self._last_permit = 0
        """The number of the last request for a permit."""
        self._told: tuple[object, object] = (None, None)
        self._sent = SentRecords()
        self._stopping = trio.Event()
        self._tasks: trio.Nursery | None = None

    async def serve(self) -> bool:
        """Serve the client until it disconnects; return whether it asked to stop.

        Raises PeerError for a message that it may not send.
        """
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            nursery.start_soon(self._follow_policy)
            nursery.start_soon(self._end_at_stop, nursery.cancel_scope)
            await self._peer.run()
            nursery.cancel_scope.cancel()
        return self._stopping.is_set()

    async def _end_at_stop(self, serving: trio.CancelScope) -> None:
        await self._stopping.wait()
        serving.cancel()

    def put(self, row: Row[_Q, _A], request: _Q) -> None:
        """Send a notice; a client that has gone, or does not read, gets none."""
        try:
            self._peer.put_notice(row, request)
        except UpstreamError:
            self._link.close()  # and the task that reads from it ends

    # -- notices -------------------------------------------------------------------

    @serves(m.PERMIT_OVER)
    async def _permit_over(self, _: ServedCall[Empty], ended: m.PermitOver) -> None:
        """End a permit or request that the client is done with.

        Record its stream's end.
        """
        opened = self._opened.pop(ended.permit, None)
        if (held := self._holding(ended.permit)) is not None:
            held.over.set()
            if held.permit is None:
                held.scope.cancel()
        # guard: a stream that the client did not begin has an end on record
        if opened is not None and not ended.used and self._tasks is not None:
            self._tasks.start_soon(not_opened, self._log, opened)

    @serves(m.PERMIT_GONE)
    async def _permit_gone(self, _: ServedCall[Empty], named: m.NamedPermit) -> None:
        """Note that the program that asked has gone.  Raises PeerError."""
        held = self._holding(named.permit)
        if held is None:
            return
        # guard: a yes that comes late counts for sound alone
        if held.service not in _GIVES_UP:
            raise PeerError("it gives up a request that cannot be given up")
        held.gone.set()

    @serves(m.RENEW_WARRANT)
    async def _renew_warrant(self, _: ServedCall[Empty], named: m.NamedPermit) -> None:
        held = self._holding(named.permit)
        if held is not None and held.permit is not None:
            held.permit.changed(held.permit)

    @serves(m.ACTED)
    async def _acted(self, _: ServedCall[Empty], acted: m.Acted) -> None:
        """Note the user's input in a sandbox, which may have stopped.  Raises PeerError."""
        with contextlib.suppress(RefusedError):
            known = self._rights.running(acted.lease)
            self._authority.decider.acted(known.id, max(0.0, acted.ago))

    @serves(log_rows.NOTIFY_USER)
    async def _notify(self, _: ServedCall[Empty], note: log_rows.NotifyUser) -> None:
        decider = self._authority.decider
        decider.notify(note.title, note.text, sandbox=note.sandbox)

    @serves(m.SHOW_QUESTION)
    async def _show_question(self, _: ServedCall[Empty], show: m.ShowQuestion) -> None:
        self._raise_question(show.token)

    @serves(log_rows.STOP)
    async def _stop(self, _: ServedCall[Empty], stop: log_rows.Stop) -> None:
        del stop  # its reason is for a reader of the messages
        self._stopping.set()

    def _holding(self, number: int) -> _Held | None:
        """The permit of that number; None: it has ended already."""
        # guard: a notice is about a permit that was requested
        if number > self._last_permit:
            raise PeerError("it refers to a request that it has not sent")
        return self._held.get(number)

    # -- permits ---------------------------------------------------------------------

    @serves(m.PERMIT)
    def _permit(
        self, exchange: ServedCall[Empty], asked: m.AskPermit
    ) -> Awaitable[Empty | None]:
        """Check a request, and hold its permit until the client ends it.

        Its place is the client's until then.  Raises PeerError and RefusedError.
        """
        self._last_permit = exchange.call
        lease = self._rights.running(asked.asked.lease)
        request = request_of(asked.asked, lease)
        charged = self._charge_reported(asked, request)
        # guard: a question that names several requests is one about a paste
        if asked.covered and request.service not in _OF_SEVERAL:
            raise PeerError("its service has no question that names several requests")
        named = self._held.get(asked.covered)
        covered = None if named is None else named.permit
        # guard: a yes is for what its question has named
        if covered is not None and not _alike(covered.request, request):
            covered = None
        choice = self._chosen.get(asked.chosen)
        # guard: a choice was the user's
        if asked.chosen and choice is None:
            raise PeerError("it refers to an unknown or forgotten answer of the user")
        chosen = None if choice is None else choice.asked
        # guard: a choice is for the request that was chosen
        if choice is not None and not _alike(choice.request, request):
            chosen = None
        held = self._held[exchange.call] = _Held(request.service)

        async def permit() -> None:
            try:
                with held.scope:
                    async with self._authority.decider.permit(
                        request,
                        on_ask=lambda: exchange.emit(m.PermitNews()),
                        covered=covered,
                        chosen=chosen,
                        gone=held.gone,
                    ) as got:
                        await self._hold(exchange, held, got)
            except Exception as error:
                # Of a permit that it has, it was told that it is cut.
                if held.permit is None or not isinstance(sole(error), RefusedError):
                    raise
            finally:
                if held.permit is None:  # a refusal is counted with its equals
                    now = trio.current_time()
                    self._recorded.charge(lease.record, -charged, now)
                del self._held[exchange.call]

        return permit()

    async def _hold(
        self, exchange: ServedCall[Empty], held: _Held, permit: Permit
    ) -> None:
        """Report changes and the cut of a permit to the client, until it has ended."""
        number, held.permit = exchange.call, permit
        if permit.request.opens:
            # guard: a request that was given up while it was decided opened nothing
            if held.over.is_set():
                await not_opened(self._log, permit.request)
                return
            if len(self._opened) >= authority_limits.AUTHORITY_REQUESTS:
                del self._opened[next(iter(self._opened))]  # of a client that ends none
            self._opened[number] = permit.request
        permit.changed = lambda now: self._renew(exchange, now)
        terms = {name: getattr(permit, name) for name in _TERMS}
        granted = m.Permitted(warrant=self._warrant(permit), **terms)
        exchange.put_item(m.PermitNews(granted=granted))
        self._tell_share(permit.request.lease)
        try:
            await held.over.wait()
        finally:
            # guard: a permit that has ended is not renewed
            permit.changed = lambda _: None
            if not held.over.is_set():
                # Before the end is recorded: taking away comes first.
                reason = permit.over or "the time limit of the rule has passed"
                cut = m.PermitCut(reason, permit.where)
                # guard: a client is told of a cut
                exchange.put_item(m.PermitNews(cut=cut))

    def _renew(self, exchange: ServedCall[Empty], permit: Permit) -> None:
        """Send the present terms of a permit, with a warrant of now."""
        # guard: what was permitted to a sandbox that its host has ended is not renewed
        if self._rights.held(permit.request.lease.id):
            terms = permit.where, permit.max_size, permit.returns
            now = m.PermitNow(*terms, self._warrant(permit, renewed=True))
            exchange.put_item(m.PermitNews(changed=now))

    def _warrant(self, permit: Permit, *, renewed: bool = False) -> bytes:
        """Return the signed warrant of a permit."""
        request, now = permit.request, time.monotonic()
        asked = {name: getattr(request, name) for name in OF_REQUEST}
        lease, rule = request.lease, permit.rule
        by = permit.schemes, "" if rule is None else rule.limits.printer or ""
        whose = now, lease.sandbox, lease.record, permit.target
        warrant = PermitWarrant(*whose, *by, **asked, renewed=renewed)
        return sign(self._key, warrant)

    @serves(m.CHOOSE)
    async def _choose(
        self, _: ServedCall[m.Chosen], request: m.ChoiceRequest
    ) -> m.Chosen:
        """Ask the user which of several requests to permit; return the answer."""
        requests = [
            request_of(asked, self._rights.running(asked.lease))
            for asked in request.asked
        ]
        # guard: a choice is who gets one device
        if not requests or not all(_same_device(requests[0], x) for x in requests):
            raise PeerError("it requests a choice that is not about one device")
        chosen = await self._authority.decider.choose(requests)
        number = chosen.asked.number
        self._chosen[number] = chosen
        while len(self._chosen) > _ANSWERS_KEPT:
            del self._chosen[next(iter(self._chosen))]
        return m.Chosen(requests.index(chosen.request), number)

    @serves(m.RULES_ABOUT)
    async def _rules_about(
        self, _: ServedCall[m.ShownRules], about: m.RulesRequest
    ) -> m.ShownRules:
        decider = self._authority.decider
        found = await decider.rules_about(about.service, about.source, about.target)
        return m.ShownRules([*found])

    @serves(m.PREVIEW)
    async def _preview(
        self, _: ServedCall[m.Previews], request: m.PreviewRequests
    ) -> m.Previews:
        # guard: a preview is about few requests
        if len(request.asked) > authority_limits.AUTHORITY_PREVIEWS:
            raise PeerError(f"it requests {len(request.asked)} previews at one time")
        requests = [
            request_of(one.asked, _unleased(one.sandbox, one.record))
            for one in request.asked
        ]
        return m.Previews([*await self._authority.decider.preview(requests)])

    # -- events ------------------------------------------------------------------------

    @serves(log_rows.RECORD)
    def _record(
        self, _: ServedCall[Empty], message: log_rows.RecordEvent
    ) -> Awaitable[None]:
        """Check an event, and record it as the client asked.  Raises PeerError."""
        return self._recorded_event(message, self._rights.take(message.body))

    async def _recorded_event(
        self, message: log_rows.RecordEvent, event: schema.AnyEvent
    ) -> None:
        if isinstance(event, schema.LeaseEnd):
            # guard: a lease ends at its host's word
            await self._authority.lease_ended(event.lease)
        try:
            self._charge(message, event)
            await self._write(message, event)
        except VitrailError:
            if isinstance(event, schema.LeaseBegin):
                self._rights.end(event.lease)  # it never began
            raise
        self.uses.take(event)
        lease = self._rights.lease(event.lease)
        if lease is not None:
            self._tell_share(lease)

    def _charge_reported(self, message: m.AskPermit, request: Request) -> int:
        """Count a request of which the decider asks no share; return its bytes.

        Raises RefusedError as ``_charge``.
        """
        if not request.reported_by_viewer:
            return 0
        lease, now = request.lease, trio.current_time()
        # guard: requests in the user's name do not push events out of the log
        self._recorded.check(lease.record, now)
        size = 2 * len(_encode(message)) + _DECISION_BYTES
        self._recorded.charge(lease.record, size, now)
        return size

    def _charge(self, message: log_rows.RecordEvent, event: schema.AnyEvent) -> None:
        """Count an event to its share, before it waits for the disk.

        Raises RefusedError if a client that was taken over fills the log.
        """
        if message.how == "refused":
            return  # counted with its equals
        lease, now = self._rights.lease(event.lease), trio.current_time()
        owner = _UNLEASED if lease is None else lease.record
        # guard: a client does not push earlier events out of the log
        self._recorded.check(owner, now)
        self._recorded.charge(owner, cost(event), now)

    async def _write(
        self, message: log_rows.RecordEvent, event: schema.AnyEvent
    ) -> None:
        """Write an event of the client to the log, as it asked.  Raises PeerError."""
        match message.how:
            case "require":
                await self._log.require(event)
            case "note":
                await self._log.note(event)
            case "refused" if isinstance(event, schema.Refusal):
                await self._log.refused(event)
            case _:
                raise PeerError("it records an event in an unknown way")

    def _tell_share(self, lease: Lease) -> None:
        """Tell the client that a record's share of the log is used up."""
        try:
            self._log.check_share(lease)
        except RefusedError as error:
            used_up = lease.record, _SHARE_SECONDS, error.message, error.hint
            self.put(log_rows.SHARE_USED_UP, log_rows.ShareUsedUp(*used_up))

    # -- leases, files, status ------------------------------------------------------------

    @serves(log_rows.ANNOUNCE_LEASE)
    def _announce(
        self, _: ServedCall[Empty], announced: log_rows.AnnounceLease
    ) -> Awaitable[None]:
        """Note a lease that the client announces.  Raises PeerError."""
        lease = Lease(
            LeaseId(announced.lease),
            SandboxName(announced.sandbox),
            SandboxName(announced.record),
            announced.generation,
        )
        self._rights.begin(lease)
        return self._announced(lease)

    async def _announced(self, lease: Lease) -> None:
        """Begin a lease, and send the client its share of the log."""
        self._rights.running(lease.id)  # its end may have come first
        await self._authority.lease_begun(lease)
        self._tell_share(lease)

    @serves(log_rows.END_LEASE)
    def _end_lease(
        self, _: ServedCall[Empty], ended: log_rows.EndLease
    ) -> Awaitable[None]:
        self._rights.end(ended.lease)
        return self._authority.lease_ended(ended.lease)

    @serves(log_rows.RELOAD)
    async def _reload(self, _: ServedCall[Empty], __: Empty) -> None:
        """Read records and rules again, and send the client what has changed."""
        try:
            await self._authority.reload()
        finally:
            self._tell_policy()

    @serves(log_rows.REPORT)
    async def _status(
        self, _: ServedCall[log_rows.Report], __: Empty
    ) -> log_rows.Report:
        return log_rows.Report(self._report())

    @serves(log_rows.SERVE_CONTROL)
    async def _control(self, _: ServedCall[Empty], __: Empty) -> None:
        await self._serve_control()

    def _tell_checkpoint(self) -> None:
        self.put(log_rows.CHECKPOINT_MADE, Empty())

    async def _follow_policy(self) -> None:
        """Send the client each change of rules and records, until cancelled."""
        while True:
            self._tell_policy()
            await self._authority.wait_changed()

    def _tell_policy(self) -> None:
        """Announce the rules and send the records in force, unless the client has them."""
        rules, records = self._authority.rules.now.rules, self._authority.records
        if self._told[0] is rules and self._told[1] is records:
            return
        self._told = rules, records
        for change in self._sent.update(records):
            self.put(log_rows.RECORD_CHANGED, change)
        self.put(log_rows.POLICY_CHANGED, log_rows.PolicyChanged(records.digest))


def _unleased(sandbox: str, record: str) -> Lease:
    """Return a placeholder for the lease of a preview, which permits nothing."""
    return Lease(LeaseId(""), SandboxName(sandbox), SandboxName(record), 0)
