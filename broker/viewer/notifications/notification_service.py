"""``vitrail.Notification``: what programs of sandboxes want the user to see.

The sandbox's worker reads what its notification daemon sends.  Here it is decided and
recorded, and the desktop's own server shows it under the sandbox's name; the user's
answer goes back to the connection that asked, and to no other.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Request
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.lease import Lease, Opening
from broker.core.limits import notifications as limits
from broker.core.names import LeaseId
from broker.core.services import NOTIFICATION
from broker.core.stderr_log import isolated
from broker.core.streams.wayland_rules import take_color
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc.audit import schema
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.desktop import notification as messages
from broker.ipc.desktop.notification_guest import (
    DaemonClose,
    DaemonShow,
    NotificationAction,
    NotificationClosed,
)
from broker.viewer.authority.interface import Permits
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

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

_ENDS = {EXPIRED: "expired", DISMISSED: "dismissed", TAKEN_BACK: "taken back"}
Answer = NotificationAction | NotificationClosed
_ROWS = 200
"""Of one answer: each may have 600 characters, and four bytes for each of them."""


class NotificationService:
    """All notifications of one viewer's sandboxes."""

    def __init__(self, *, decider: Permits, log: event_log.EventLog) -> None:
        self._decider = decider
        self._log = log
        self._events = StreamEvents(log)
        self.board = Board()
        self._server = DesktopServer(self._told)
        self._answers: dict[tuple[LeaseId, int], Callable[[Answer], None]] = {}
        self._colours: dict[str, int] = {}
        self._grouped: set[str] = set()
        self._grouping = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.raise_window: Callable[[LeaseId, str], None] = lambda _lease, _token: None
        """Raise a window of a sandbox, by a token of the compositor's."""

    async def run(self) -> None:
        """Keep what is shown on the desktop, until cancelled; ``stream`` serves a sandbox."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._server.run)
            nursery.start_soon(self._count)

    # -- a connection -------------------------------------------------------------------

    async def stream(
        self,
        guest: Guest,
        opening: Opening,
        conn: socket.socket,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve a daemon's connection, which is permitted, to its end."""
        began, lease = trio.current_time(), guest.lease
        record = guest.valid_record()
        taken = guest.notifications.begin(opening.stream)
        put, answers = trio.open_memory_channel[Answer](limits.QUEUE)

        def answer(message: Answer) -> None:
            with suppress(trio.WouldBlock):  # its daemon does not read them
                put.send_nowait(message)

        key = lease.id, opening.stream
        self._colours[lease.sandbox] = take_color(record.viewer.label.colour)
        try:
            async with self._events.carry(opening, "worker", began) as outcome:
                order = messages.NotificationStream(opening.stream)
                await guest.order(order, [conn.fileno()])
                task_status.started()
                self._answers[key] = answer
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._tell_guest, guest, opening, answers)
                        closed = await self._take(lease, opening, taken)
                        nursery.cancel_scope.cancel()
                    if closed is not None:
                        outcome.reason = printable(closed.reason, 900)
                        outcome.counts = closed.from_guest, closed.to_guest
                finally:
                    with suppress(OSError):
                        conn.shutdown(socket.SHUT_RDWR)
        finally:
            self._answers.pop(key, None)
            guest.notifications.end(opening.stream)
            # guard: notifications end with their connection
            for notice in self.board.of_stream(lease, opening.stream):
                self._end(notice.number, "its sandbox has ended")

    async def _tell_guest(
        self,
        guest: Guest,
        opening: Opening,
        answers: trio.MemoryReceiveChannel[Answer],
    ) -> None:
        async for message in answers:
            with suppress(UpstreamError, RefusedError):  # its worker has just ended
                await guest.order(messages.NotificationAnswer(opening.stream, message))

    async def _take(
        self,
        lease: Lease,
        opening: Opening,
        taken: trio.MemoryReceiveChannel[messages.FromWorker],
    ) -> messages.NotificationStreamClosed | None:
        """Take the daemon's messages; returns the last one, None where none came."""
        async for message in taken:
            if isinstance(message, messages.NotificationStreamClosed):
                return message
            match message.ask:
                case DaemonShow() as ask:
                    await self._show(lease, opening, ask)
                case DaemonClose() as ask:
                    self._taken_back(lease, opening, ask)
        return None

    async def _show(self, lease: Lease, opening: Opening, ask: DaemonShow) -> None:
        now = trio.current_time()
        notice = self.board.admit(lease, opening.stream, ask, now, time.time())
        answer = self._answers[lease.id, opening.stream]
        if notice is None:
            self._grouped.add(lease.sandbox)
            self._grouping.set()
            if self.board.known(lease, opening.stream, ask.number) is None:
                answer(NotificationClosed(ask.number, UNDEFINED))
            return
        critical = ask.urgency == CRITICAL and await self._critical(opening)
        try:
            # guard: a notification asks the share
            self._log.check_share(lease)
            # guard: a notification is recorded before it is seen
            await self._log.require(
                schema.NotificationShown(
                    **event_log.of_stream(opening),
                    notification=notice.number,
                    urgency=ask.urgency if critical else min(ask.urgency, 1),
                    size=len(ask.summary.encode()) + len(ask.body.encode()),
                    buttons=len(ask.actions),
                )
            )
        except (RefusedError, UpstreamError):
            self._end(notice.number, "not recorded, so not shown")
            answer(NotificationClosed(ask.number, UNDEFINED))
            return
        if self.board.find(notice.number) is notice:  # it was not closed meanwhile
            colour = self._colours[lease.sandbox]
            made = bubble(notice, ask, colour=colour, critical=critical)
            self._server.show(notice.number, made)

    async def _critical(self, opening: Opening) -> bool:
        """Whether a rule allows this sandbox a critical notification."""
        request = notification_request(opening, "+critical")
        (answer,) = await self._decider.preview([request])
        if answer is None or answer.verdict != "allow":
            return False  # a question about urgency would be more urgent than its cause
        with suppress(RefusedError):
            async with self._decider.permit(request):
                return True
        return False

    def _taken_back(self, lease: Lease, opening: Opening, ask: DaemonClose) -> None:
        notice = self.board.known(lease, opening.stream, ask.number)
        if notice is not None:
            self._end(notice.number, "taken back")
            closed = NotificationClosed(ask.number, TAKEN_BACK)
            self._answers[lease.id, opening.stream](closed)

    def _end(self, number: int, outcome: str) -> None:
        if self.board.end(number, outcome) is not None:
            self._server.close(number)

    # -- those that are counted -----------------------------------------------------------

    async def _count(self) -> None:
        """Keep the notifications that count, and change them slowly."""
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
        """A sandbox has stopped."""
        self._colours.pop(lease.sandbox, None)
        self._grouped.discard(lease.sandbox)
        number = self.board.end_group(lease.sandbox)
        if number is not None:
            self._server.close(number)

    # -- the user -------------------------------------------------------------------------

    def _told(self, told: ServerTold) -> None:
        """The desktop's server says what the user has done, or that it is closed."""
        if sandbox := self.board.group_of(told.number):
            if not told.key:
                self.board.end_group(sandbox)
            return
        notice = self.board.find(told.number)
        # guard: an answer that comes late goes nowhere
        if notice is None:
            return
        answer = self._answers.get((notice.lease.id, notice.stream))
        if told.key:
            self._pressed(notice, told, answer)
            return
        self.board.end(told.number, _ENDS.get(told.reason, "closed"))
        if answer is not None:
            answer(NotificationClosed(notice.guest_number, told.reason))

    def _pressed(
        self, notice: Notice, told: ServerTold, answer: Callable[[Answer], None] | None
    ) -> None:
        key = _key_of(notice, told.key)
        notice.past.outcome = "clicked" if told.key == DEFAULT else "answered"
        if told.key == DEFAULT:
            # guard: a click raises a window of the sandbox that asked
            self.raise_window(notice.lease.id, told.token)
        if answer is not None and key:
            answer(NotificationAction(notice.guest_number, key))
        event = schema.NotificationAnswered(
            **event_log.of(notice.lease),
            service=NOTIFICATION,
            notification=notice.number,
            outcome=notice.past.outcome,
        )
        if self._nursery is not None:
            self._nursery.start_soon(_alone, partial(self._log.note, event))


def notification_request(opening: Opening, argument: str = "+") -> Request:
    """Return a daemon's request as the rules see it."""
    return Request(
        lease=opening.lease,
        service=NOTIFICATION,
        argument=argument,
        stream=opening.stream,
        peer=opening.peer,
        settled=True,
        tells=True,
        counts_bytes=False,
    )


def _key_of(notice: Notice, ours: str) -> str:
    """Return the sandbox's key of a button of ours; empty where it has none."""
    if ours == DEFAULT:
        return DEFAULT if DEFAULT in notice.keys else ""
    place = int(ours) if ours.isascii() and ours.isdigit() else -1
    return notice.keys[place] if 0 <= place < len(notice.keys) else ""


async def _alone(step: Callable[[], Awaitable[None]]) -> None:
    with isolated():
        await step()


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
        """The newest notifications, of one sandbox or of all."""
        del exchange
        sandbox = request.sandbox or ""
        rows = sorted(self._board.history(sandbox), key=lambda row: row.when)
        if request.clear:
            self._board.clear(sandbox)
        omitted = max(0, len(rows) - _ROWS)
        return api.NotificationsAnswer(
            notifications=[
                api.NotificationRow(
                    sandbox=row.sandbox,
                    when=row.when,
                    summary=row.summary,
                    body=row.body,
                    urgency=row.urgency,
                    outcome=row.outcome,
                )
                for row in islice(rows, omitted, None)
            ],
            omitted=omitted,
        )
