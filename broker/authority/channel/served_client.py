"""The authority's end of a client's channel: its requests are checked here.

A client that sends a message that it may not send has been taken over, or has a mistake; either
way its channel ends, with everything that it was permitted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

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
    InternalError,
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.names import LeaseId, SandboxName
from broker.core.services import AUDIO, CLIPBOARD_PASTE, DEVICE
from broker.core.stderr_log import log_exception
from broker.ipc import authority as m
from broker.ipc.audit import schema
from broker.ipc.session.permit_warrant import OF_REQUEST, PermitWarrant
from broker.ipc.session.warrant import sign
from broker.wire.frame_carrier import Frames

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

ServeControl = Callable[[], Awaitable[object]]


@dataclass(eq=False)
class _Held:
    """A request for a permit, from its message to its end."""

    over: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    permit: Permit | None = None
    service: str = ""
    """Of a request for a permit."""


_GIVES_UP = frozenset({AUDIO})
"""Services whose programs give up before a user answers, and try again (libpulse)."""
_OF_SEVERAL = frozenset({CLIPBOARD_PASTE})
"""Services whose question may name further requests."""
_NAMED = {*Subject._fields, "device"} - {"mime"}
"""What a question is about, beside content, which may be of several types."""
_TERMS = m.Permitted.__struct_fields__[1:-1]
"""What a client is informed of a permit, but for its number and its warrant."""


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
        """Set up the channel.

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
        self._checkpoints = CheckpointRequests(checkpoints, self.put)
        self._held: dict[int, _Held] = {}
        self._opened: dict[int, Request] = {}
        """Permits on record as streams, until their ``PermitOver``."""
        self._chosen: dict[int, ChosenRequest] = {}
        self._recorded = LogShares(_TIMES)
        """What the client has had recorded, whatever it asks before."""
        self._last = 0
        self._waiting = 0
        self._told: tuple[object, object] = (None, None)
        self._sent = SentRecords()
        self._stop: m.Stop | None = None

    async def serve(self) -> m.Stop | None:
        """Serve the client until it disconnects; return its goodbye, if it sent one.

        Raises PeerError for a message that it may not send.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run)
            nursery.start_soon(self._follow_policy)
            while self._stop is None:
                received = await self._link.receive()
                if not received.data:
                    break
                self._take(m.decode_from_client(received.data), nursery)
            nursery.cancel_scope.cancel()
        return self._stop

    def put(self, message: m.FromAuthority) -> None:
        """Send a message; a client that has gone, or does not read, gets none."""
        try:
            self._link.put(m.encode_from_authority(message))
        except UpstreamError:
            self._link.close()  # and the task that reads from it ends

    # -- taking messages -----------------------------------------------------------

    def _take(self, message: m.FromClient, nursery: trio.Nursery) -> None:
        """Handle one message of the channel's client (host or viewer), by its type.

        A request's answer is sent to the client; an event goes into the audit log.
        """
        match message:
            case m.PermitOver(number, used):
                self._over(number, nursery, used=used)
            case m.PermitGone(number):
                self._give_up(self._holding(number))
            case m.Acted(lease, ago):
                self._rights.may_ask()
                with contextlib.suppress(RefusedError):
                    known = self._rights.running(lease)
                    self._authority.decider.acted(known.id, max(0.0, ago))
            case m.RenewWarrant(number):
                held = self._holding(number)
                if held is not None and held.permit is not None:
                    held.permit.changed(held.permit)
            case m.NotifyUser():
                self._authority.decider.notify(
                    message.title, message.text, sandbox=message.sandbox
                )
            case m.ShowQuestion(token):
                self._rights.may_ask()
                self._raise_question(token)
            case m.Stop():
                self._stop = message
            case m.AskPermit():
                self._rights.may_ask()
                self._begin(message.request)
                self._ask(message, nursery)
            case _:
                end = isinstance(message, m.EndLease)
                # guard: the end of a lease is never refused for want of a place
                self._begin(message.request, end * authority_limits.AUTHORITY_LEASES)
                nursery.start_soon(self._answer, message, self._work(message))

    def _begin(self, number: int, more: int = 0) -> None:
        """Check and count a new request's number.  Raises PeerError."""
        # guard: each request has a new number
        if number <= self._last:
            raise PeerError("it reuses the number of a request")
        self._last = number
        # guard: a client's requests are bounded
        if self._waiting >= authority_limits.AUTHORITY_REQUESTS + more:
            raise PeerError(f"it has {self._waiting} unanswered requests")
        self._waiting += 1

    def _holding(self, number: int) -> _Held | None:
        """The permit of that number; None: it has ended already."""
        if number > self._last:
            raise PeerError("it refers to a request that it has not sent")
        return self._held.get(number)

    @staticmethod
    def _give_up(held: _Held | None) -> None:
        """Note that the program that asked has gone.  Raises PeerError."""
        if held is None:
            return
        # guard: a yes that comes late counts for sound alone
        if held.service not in _GIVES_UP:
            raise PeerError("it gives up a request that cannot be given up")
        held.gone.set()

    def _over(self, number: int, nursery: trio.Nursery, *, used: bool) -> None:
        """End a permit or request that the client is done with.

        Record its stream's end.
        """
        opened = self._opened.pop(number, None)
        if (held := self._holding(number)) is not None:
            held.over.set()
            if held.permit is None:
                held.scope.cancel()
        # guard: a stream that the client did not begin has an end on record
        if opened is not None and not used:
            nursery.start_soon(not_opened, self._log, opened)

    def _work(self, message: m.FromClient) -> Awaitable[m.FromAuthority]:
        """Check a request, and return the work that answers it.  Raises PeerError."""
        match message:
            case m.RecordEvent():
                return self._record(message, self._rights.take(message.body))
            case m.AnnounceLease():
                self._rights.may_ask()
                lease = Lease(
                    LeaseId(message.lease),
                    SandboxName(message.sandbox),
                    SandboxName(message.record),
                    message.generation,
                )
                self._rights.begin(lease)
                return self._announced(message.request, lease)
            case m.EndLease():
                self._rights.may_ask()
                self._rights.end(message.lease)
                return self._ended(message)
            case m.AskChoice():
                self._rights.may_ask()
                # Here: what gives it up may be the next message.
                # guard: a choice that is given up as it is asked is not shown
                held = self._held[message.request] = _Held()
                return self._choose(message, held)
            case m.AskPreview() | m.AskRules():
                self._rights.may_ask()
                return self._show(message)
            case m.Reload():
                return self._reload(message)
            case m.AskReport():
                return self._reported(message)
            case m.ServeControl():
                return self._served(message)
            case (
                m.AskCheckpoint()
                | m.AskEvidence()
                | m.CheckpointWitnessed()
                | m.CompareCheckpoint()
                | m.HoldCheckpoint()
            ):
                return self._checkpoints.answer(message)
            case _:
                raise InternalError(f"no answer exists to {type(message).__name__}")

    async def _answer(
        self, message: m.FromClient, work: Awaitable[m.FromAuthority]
    ) -> None:
        """Do a request's work and send the answer, or the error."""
        number = getattr(message, "request", 0)
        try:
            self.put(await work)
        except PeerError:
            raise
        except Exception as error:  # noqa: BLE001 -- a mistake ends no other request
            self._fail(number, error)
        finally:
            self._waiting -= 1

    def _fail(self, number: int, error: Exception) -> None:
        """Send the client the error of its request.

        Our own errors also go to standard error.
        """
        if not isinstance(error, VitrailError):
            log_exception(error)
            error = InternalError("see the broker's log")
        self.put(m.failed(number, error))

    # -- permits ---------------------------------------------------------------------

    def _ask(self, message: m.AskPermit, nursery: trio.Nursery) -> None:
        """Ask the decider for a permit, and hold it until the client ends it."""
        try:
            lease = self._rights.running(message.asked.lease)
            request = request_of(message.asked, lease)
            charged = self._charge_reported(message, request)
        except RefusedError as error:
            self.put(m.failed(message.request, error))
            self._done(message.request)
            return
        # guard: a question that names several requests is one about a paste
        if message.covered and request.service not in _OF_SEVERAL:
            raise PeerError("its service has no question that names several requests")
        named = self._held.get(message.covered)
        covered = None if named is None else named.permit
        # guard: a yes is for what its question has named
        if covered is not None and not _alike(covered.request, request):
            covered = None
        choice = self._chosen.get(message.chosen)
        # guard: a choice was the user's
        if message.chosen and choice is None:
            raise PeerError("it refers to an unknown or forgotten answer of the user")
        chosen = None if choice is None else choice.asked
        # guard: a choice is for the request that was chosen
        if choice is not None and not _alike(choice.request, request):
            chosen = None
        held = self._held[message.request] = _Held(service=request.service)

        async def permit() -> None:
            try:
                with held.scope:
                    async with self._authority.decider.permit(
                        request,
                        on_ask=lambda: self._asking(message.request),
                        covered=covered,
                        chosen=chosen,
                        gone=held.gone,
                    ) as got:
                        await self._hold(message.request, held, got)
            except Exception as error:  # noqa: BLE001 -- a mistake ends no other
                # Of a permit that it has, it was told that it is cut.
                if held.permit is None or not isinstance(error, RefusedError):
                    self._fail(message.request, error)
            finally:
                if held.permit is None:  # a refusal is counted with its equals
                    now = trio.current_time()
                    self._recorded.charge(lease.record, -charged, now)
                del self._held[message.request]
                self._done(message.request)

        nursery.start_soon(permit)

    def _done(self, number: int) -> None:
        """Send the client the end of its request."""
        self._waiting -= 1
        self.put(m.AuthorityDone(number))

    async def _asking(self, number: int) -> None:
        self.put(m.Asking(number))

    async def _hold(self, number: int, held: _Held, permit: Permit) -> None:
        """Report changes and the cut of a permit to the client, until it has ended."""
        held.permit = permit
        if permit.request.opens:
            # guard: a request that was given up while it was decided opened nothing
            if held.over.is_set():
                await not_opened(self._log, permit.request)
                return
            if len(self._opened) >= authority_limits.AUTHORITY_REQUESTS:
                del self._opened[next(iter(self._opened))]  # of a client that ends none
            self._opened[number] = permit.request
        permit.changed = lambda now: self._renew(number, now)
        terms = {name: getattr(permit, name) for name in _TERMS}
        self.put(m.Permitted(number, warrant=self._warrant(permit), **terms))
        self._tell_share(permit.request.lease)
        try:
            await held.over.wait()
        finally:
            # guard: a permit that has ended is not renewed
            permit.changed = lambda _: None
            if not held.over.is_set():
                # Before the end is recorded: taking away comes first.
                reason = permit.over or "the time limit of the rule has passed"
                # guard: a client is told of a cut
                self.put(m.PermitCut(number, reason, permit.where))

    def _renew(self, number: int, permit: Permit) -> None:
        """Send the present terms of a permit, with a warrant of now."""
        # guard: what was permitted to a sandbox that its host has ended is not renewed
        if self._rights.held(permit.request.lease.id):
            terms = number, permit.where, permit.max_size, permit.returns
            self.put(m.PermitNow(*terms, self._warrant(permit, renewed=True)))

    def _warrant(self, permit: Permit, *, renewed: bool = False) -> bytes:
        """Return the signed warrant of a permit."""
        request, now = permit.request, time.monotonic()
        asked = {name: getattr(request, name) for name in OF_REQUEST}
        lease, rule = request.lease, permit.rule
        by = permit.schemes, "" if rule is None else rule.limits.printer or ""
        whose = now, lease.sandbox, lease.record, permit.target
        warrant = PermitWarrant(*whose, *by, **asked, renewed=renewed)
        return sign(self._key, warrant)

    async def _choose(self, message: m.AskChoice, held: _Held) -> m.FromAuthority:
        """Ask the user which of several requests to permit; return the answer."""
        try:
            requests = [
                request_of(asked, self._rights.running(asked.lease))
                for asked in message.asked
            ]
            # guard: a choice is who gets one device
            if not requests or not all(_same_device(requests[0], x) for x in requests):
                raise PeerError("it requests a choice that is not about one device")
            with held.scope:
                chosen = await self._authority.decider.choose(requests)
                number = chosen.asked.number
                self._chosen[number] = chosen
                while len(self._chosen) > _ANSWERS_KEPT:
                    del self._chosen[next(iter(self._chosen))]
                place = requests.index(chosen.request)
                return m.Chosen(message.request, place, number)
        finally:
            del self._held[message.request]
        raise RefusedError("the question was withdrawn")

    async def _show(self, message: m.AskPreview | m.AskRules) -> m.FromAuthority:
        """Answer a preview or a question about rules."""
        if isinstance(message, m.AskRules):
            found = await self._authority.decider.rules_about(
                message.service, message.source, message.target
            )
            return m.RulesShown(message.request, [*found])
        # guard: a preview is about few requests
        if len(message.asked) > authority_limits.AUTHORITY_PREVIEWS:
            raise PeerError(f"it requests {len(message.asked)} previews at one time")
        requests = [
            request_of(one.asked, _unleased(one.sandbox, one.record))
            for one in message.asked
        ]
        answers = await self._authority.decider.preview(requests)
        return m.Previewed(message.request, [*answers])

    # -- events ------------------------------------------------------------------------

    async def _record(
        self, message: m.RecordEvent, event: schema.AnyEvent
    ) -> m.FromAuthority:
        """Record an event of the client, as it asked; return the confirmation."""
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
        return m.AuthorityDone(message.request)

    def _charge_reported(self, message: m.AskPermit, request: Request) -> int:
        """Count a request of which the decider asks no share; return its bytes.

        Raises RefusedError as ``_charge``.
        """
        if not request.reported_by_viewer:
            return 0
        lease, now = request.lease, trio.current_time()
        # guard: requests in the user's name do not push events out of the log
        self._recorded.check(lease.record, now)
        size = 2 * len(m.encode_from_client(message)) + _DECISION_BYTES
        self._recorded.charge(lease.record, size, now)
        return size

    def _charge(self, message: m.RecordEvent, event: schema.AnyEvent) -> None:
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

    async def _write(self, message: m.RecordEvent, event: schema.AnyEvent) -> None:
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
            self.put(
                m.ShareUsedUp(lease.record, _SHARE_SECONDS, error.message, error.hint)
            )

    # -- leases, files, status ------------------------------------------------------------

    async def _announced(self, number: int, lease: Lease) -> m.FromAuthority:
        """Note a lease, and send the client its share of the log and an answer."""
        self._rights.running(lease.id)  # its end may have come first
        await self._authority.lease_begun(lease)
        self._tell_share(lease)
        return m.AuthorityDone(number)

    async def _ended(self, message: m.EndLease) -> m.FromAuthority:
        await self._authority.lease_ended(message.lease)
        return m.AuthorityDone(message.request)

    async def _reload(self, message: m.Reload) -> m.FromAuthority:
        """Read records and rules again, and send the client what has changed."""
        try:
            await self._authority.reload()
        finally:
            self._tell_policy()
        return m.AuthorityDone(message.request)

    async def _reported(self, message: m.AskReport) -> m.FromAuthority:
        return m.Report(message.request, self._report())

    async def _served(self, message: m.ServeControl) -> m.FromAuthority:
        await self._serve_control()
        return m.AuthorityDone(message.request)

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
            self.put(change)
        self.put(m.Policy(records.digest))


def _unleased(sandbox: str, record: str) -> Lease:
    """Return a placeholder for the lease of a preview, which permits nothing."""
    return Lease(LeaseId(""), SandboxName(sandbox), SandboxName(record), 0)
