"""``vitrail.Notification``: what programs of sandboxes want the user to see.

The sandbox's worker reads what its notification daemon sends.  Here it is decided and
recorded, and the desktop's own server shows it under the sandbox's name; the user's
answer goes back to the connection that asked, and to no other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Request
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Lease
from broker.core.limits import notifications as limits
from broker.core.names import LeaseId
from broker.core.services import NOTIFICATION
from broker.core.stderr_log import run_isolated
from broker.core.streams.wayland_rules import take_color
from broker.ipc.audit import schema
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.guest.daemons import (
    DaemonClose,
    DaemonShow,
    FromDaemon,
    NotificationAction,
    NotificationClosed,
)
from broker.ipc.transfer import StreamTell
from broker.net.caller_paces import CallPaces
from broker.net.session_bus import OpenBus
from broker.viewer.authority.interface import Permits
from broker.viewer.calls.places import take_asks
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.notifications.board import (
    CRITICAL,
    DEFAULT,
    Board,
    Notice,
    bubble,
    counting,
)
from broker.viewer.notifications.desktop_server import (
    DISMISSED,
    EXPIRED,
    TAKEN_BACK,
    UNDEFINED,
    DesktopServer,
    ServerTold,
)

_ENDS = {EXPIRED: "expired", DISMISSED: "dismissed", TAKEN_BACK: "taken back"}
Answer = NotificationAction | NotificationClosed
_ROWS = 200
"""Of one answer: each may have 600 characters, and four bytes for each of them."""


class NotificationService:
    """All notifications of one viewer's sandboxes."""

    def __init__(
        self, *, decider: Permits, log: event_log.EventLog, bus: OpenBus
    ) -> None:
        self._decider = decider
        self._log = log
        self.board = Board()
        self._server = DesktopServer(self._told, bus)
        self._answers: dict[tuple[LeaseId, int], trio.MemorySendChannel[Answer]] = {}
        self._paces = CallPaces(limits.MESSAGES_PER_SECOND, limits.MESSAGES_BURST)
        self._colours: dict[str, int] = {}
        self._grouped: set[str] = set()
        self._grouping = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.raise_window: Callable[[LeaseId, str], None] = lambda _lease, _token: None
        """Raise a window of a sandbox, by a token of the compositor's."""

    async def run(self) -> None:
        """Keep the desktop's notifications up to date, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._server.run)
            nursery.start_soon(self._count)

    # -- a connection -------------------------------------------------------------------

    async def serve(self, exchange: GuestConnection, request: Request) -> None:
        """Serve the permitted connection of a notification daemon until it ends."""
        guest, stream = exchange.guest, exchange.stream
        lease = guest.lease
        colour = guest.valid_record().viewer.label.colour
        self._colours[lease.sandbox] = take_color(colour)
        self._answers[lease.id, stream], answers = trio.open_memory_channel[Answer](
            limits.QUEUE
        )

        async def tell_guest() -> None:
            async for answer in answers:
                with suppress(UpstreamError, RefusedError):  # its worker has just ended
                    await guest.order(StreamTell(stream, answer))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_guest)
                await take_asks(exchange, self._paces, partial(self._take, request))
        finally:
            del self._answers[lease.id, stream]
            # guard: notifications end with their connection
            for notice in self.board.of_stream(lease, stream):
                self._end(notice.number, "its sandbox is no longer running")

    async def _take(self, request: Request, ask: FromDaemon) -> None:
        """Handle a daemon's request: show, close, or other.  Raises ShareableError."""
        match ask:
            case DaemonShow():
                await self._show(request, ask)
            case DaemonClose():
                notice = self.board.known(request.lease, request.stream, ask.number)
                if notice is not None:
                    self._end(notice.number, "taken back")
                    self._answer(request, NotificationClosed(ask.number, TAKEN_BACK))
            case _:
                raise ShareableError("received an icon in a call for notifications")

    def _answer(self, to: Request | Notice, answer: Answer) -> None:
        """Send an answer to the daemon that asked, if it is there and reads answers."""
        put = self._answers.get((to.lease.id, to.stream))
        if put is not None:
            with suppress(trio.WouldBlock):
                put.send_nowait(answer)

    async def _show(self, request: Request, ask: DaemonShow) -> None:
        """Show a notification, or count it if there are too many."""
        lease, stream, now = request.lease, request.stream, trio.current_time()
        notice = self.board.admit(lease, stream, ask, now, time.time())
        if notice is None:
            self._grouped.add(lease.sandbox)
            self._grouping.set()
            if self.board.known(lease, stream, ask.number) is None:
                self._answer(request, NotificationClosed(ask.number, UNDEFINED))
            return
        critical = ask.urgency == CRITICAL and await self._critical(request)
        try:
            # guard: a notification asks the share
            self._log.check_share(lease)
            # guard: a notification is recorded before it is seen
            await self._log.require(
                schema.NotificationShown(
                    **event_log.of(lease),
                    service=NOTIFICATION,
                    stream=stream,
                    peer=request.peer,
                    notification=notice.number,
                    urgency=ask.urgency if critical else min(ask.urgency, 1),
                    size=len(ask.summary.encode()) + len(ask.body.encode()),
                    buttons=len(ask.actions),
                )
            )
        except (RefusedError, UpstreamError):
            self._end(notice.number, "the authority did not record it")
            self._answer(request, NotificationClosed(ask.number, UNDEFINED))
            return
        if self.board.find(notice.number) is notice:  # it was not closed meanwhile
            colour = self._colours.get(lease.sandbox, 0)
            made = bubble(notice, ask, colour=colour, critical=critical)
            self._server.show(notice.number, made)

    async def _critical(self, request: Request) -> bool:
        """Return whether a rule permits this sandbox a critical notification."""
        request = replace(request, argument="+critical")
        (answer,) = await self._decider.preview([request])
        if answer is None or answer.verdict != "allow":
            return False  # a question about urgency would be more urgent than its cause
        with suppress(RefusedError):
            async with self._decider.permit(request):
                return True
        return False

    def _end(self, number: int, outcome: str) -> None:
        if self.board.end(number, outcome) is not None:
            self._server.close(number)

    # -- those that are counted -----------------------------------------------------------

    async def _count(self) -> None:
        """Show how many notifications were only counted, at a limited rate."""
        while True:
            await self._grouping.wait()
            self._grouping = trio.Event()
            due, self._grouped = self._grouped, set()
            for sandbox in due:
                number, count = self.board.group(sandbox)
                colour = self._colours.get(sandbox, 0)
                self._server.show(number, counting(sandbox, count, colour))
            # guard: a flood changes one notification, slowly
            await trio.sleep(limits.GROUP_SECONDS)

    def lease_ended(self, lease: Lease) -> None:
        """Close the grouped notification of a stopped sandbox, and forget the group."""
        self._colours.pop(lease.sandbox, None)
        self._grouped.discard(lease.sandbox)
        number = self.board.end_group(lease.sandbox)
        if number is not None:
            self._server.close(number)

    # -- the user -------------------------------------------------------------------------

    def _told(self, told: ServerTold) -> None:
        """Handle the server's report that the user closed or clicked a notification."""
        if sandbox := self.board.group_of(told.number):
            if not told.key:
                self.board.end_group(sandbox)
            return
        notice = self.board.find(told.number)
        # guard: an answer that comes late goes nowhere
        if notice is None:
            return
        if told.key:
            self._pressed(notice, told)
            return
        self.board.end(told.number, _ENDS.get(told.reason, "closed"))
        self._answer(notice, NotificationClosed(notice.guest_number, told.reason))

    def _pressed(self, notice: Notice, told: ServerTold) -> None:
        """Raise the sandbox's window for a click, and tell the daemon which button."""
        key = _key_of(notice, told.key)
        notice.past.outcome = "clicked" if told.key == DEFAULT else "answered"
        if told.key == DEFAULT:
            # guard: a click raises a window of the sandbox that asked
            self.raise_window(notice.lease.id, told.token)
        if key:
            self._answer(notice, NotificationAction(notice.guest_number, key))
        event = schema.NotificationAnswered(
            **event_log.of(notice.lease),
            service=NOTIFICATION,
            notification=notice.number,
            outcome=notice.past.outcome,
        )
        if self._nursery is not None:
            self._nursery.start_soon(run_isolated, self._log.note, event)


def _key_of(notice: Notice, ours: str) -> str:
    """Return the sandbox's key of our button; empty if it has none."""
    if ours == DEFAULT:
        return DEFAULT if DEFAULT in notice.keys else ""
    # As we wrote it: int() raises ValueError for thousands of digits.
    # guard: a button that nobody made has no key
    places = {str(place): key for place, key in enumerate(notice.keys)}
    return places.get(ours, "")


class NotificationControl:
    """The history of notifications, which only memory has."""

    def __init__(self, board: Board) -> None:
        self._board = board

    @serves(methods.NOTIFICATIONS)
    async def notifications(
        self,
        exchange: Exchange[api.NotificationsAnswer],
        request: api.NotificationsRequest,
    ) -> api.NotificationsAnswer:
        """Return the newest notifications of one sandbox, or as many of each."""
        del exchange
        sandbox, later = request.sandbox or "", Counter[str]()
        newest = sorted(self._board.history(sandbox), key=lambda row: -row.when)
        if request.clear:
            self._board.clear(sandbox)
        places = []
        for row in newest:
            # guard: a sandbox with many notifications leaves room for the others'
            places.append((later[row.sandbox], row))
            later[row.sandbox] += 1
        places.sort(key=lambda place: place[0])
        rows = sorted((row for _, row in places[:_ROWS]), key=lambda row: row.when)
        return api.NotificationsAnswer(
            notifications=[api.NotificationRow(**vars(row)) for row in rows],
            omitted=len(newest) - len(rows),
        )
