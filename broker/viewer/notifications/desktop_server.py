"""The desktop's notification server, over D-Bus (Desktop Notifications 1.2).

What is to be shown is put down in ``show`` and ``close``, which never wait; one task
brings the server to it.  A server that is missing, hangs or dies ends what was shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from jeepney import HeaderFields, Message
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusRouter

from broker.core.errors import UpstreamError
from broker.core.limits import notifications as limits
from broker.net.desktop_bus import desktop_call, rules_of
from broker.net.session_bus import Complaint, OpenBus, answer_of
from broker.viewer.notifications.board import Bubble, badge

_NAME = "org.freedesktop.Notifications"
_SIGNALS_WAITING = 256
EXPIRED, DISMISSED, TAKEN_BACK, UNDEFINED = 1, 2, 3, 4


@dataclass(frozen=True)
class ServerTold:
    """The server's signal about a notification.

    ``key``: of the pressed button; empty: it is closed, for the ``reason``.
    ``token``: the compositor's, by which a window may be raised for this press.
    """

    number: int
    key: str = ""
    token: str = ""
    reason: int = UNDEFINED


@dataclass
class _Session:
    """One connection to the server."""

    router: DBusRouter
    owner: str
    """The server's unique name."""
    buttons: bool
    markup: bool
    shown: dict[int, tuple[int, Bubble]] = field(default_factory=dict)
    """Our number: the server's, and what it shows."""
    tokens: dict[int, str] = field(default_factory=dict)
    gone: bool = False
    early: deque[tuple[str, tuple[object, ...]]] = field(
        default_factory=lambda: deque(maxlen=_SIGNALS_WAITING)
    )
    """Signals about unknown numbers: perhaps of the notification that is just being
    shown, because a signal may be taken before the answer that was read with it."""

    def ours(self, theirs: int) -> int | None:
        """Return our number for the server's."""
        return next((n for n, (one, _) in self.shown.items() if one == theirs), None)


class DesktopServer:
    """Shows and closes notifications at the desktop's server."""

    def __init__(
        self,
        told: Callable[[ServerTold], None],
        bus: OpenBus,
        lost: str = "notifications of sandboxes are not shown",
    ) -> None:
        """Set up the server's client.

        ``told`` takes its signals, and never waits; ``lost``: what it means that there
        is no server.
        """
        self._told = told
        self._bus = bus
        self._wanted: dict[int, Bubble] = {}
        self._closing: set[int] = set()
        self._changed = trio.Event()
        self._complaint = Complaint(lost)
        self._stopped = False

    def show(self, number: int, bubble: Bubble) -> None:
        """Show a notification soon, in place of one with its number."""
        self._closing.discard(number)
        self._wanted[number] = bubble
        self._changed.set()

    def close(self, number: int) -> None:
        """Close a notification soon."""
        self._wanted.pop(number, None)
        self._closing.add(number)
        self._changed.set()

    async def run(self) -> None:
        """Show the wanted notifications until cancelled, then close all of them."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run)
            try:
                await trio.sleep_forever()
            finally:
                self._stopped = True
                self._changed.set()

    async def _run(self) -> None:
        """Connect to the notification server whenever something is to be shown."""
        # Cancelled, the library's task that reads could not bring the last answers.
        with trio.CancelScope(shield=True):
            while not self._stopped:
                await self._changed.wait()
                self._changed = trio.Event()
                if not self._wanted or self._stopped:
                    self._closing.clear()
                    continue  # it shows no notification of this viewer
                try:
                    await self._connected()
                except Exception as error:  # noqa: BLE001 -- no bus, no server, one that dies
                    self._complaint.tell(error)
                else:
                    if not self._stopped:
                        continue  # nothing is shown; the next one may wait already
                self._closing.clear()
                lost, self._wanted = self._wanted, {}
                for number in lost:
                    self._told(ServerTold(number))

    async def _connected(self) -> None:
        """Have a connection to the session bus while something is to be shown."""
        async with self._bus() as connection, connection.router() as router:
            await self._serve(router)

    async def _serve(self, router: DBusRouter) -> None:
        """Exchange with the server until it has gone, or nothing is shown any more."""
        send, signals = trio.open_memory_channel[Message](_SIGNALS_WAITING)
        rules = rules_of(_NAME)
        # Not as context managers, see DesktopSettings: they end with the router.
        router.filter(rules[0], channel=send)
        router.filter(rules[1], channel=send.clone())
        for rule in rules:
            await answer_of(router, message_bus.AddMatch(rule), limits.SERVER_SECONDS)
        facts = await answer_of(
            router, desktop_call(_NAME, "GetServerInformation"), limits.SERVER_SECONDS
        )
        owner = str(facts.header.fields[HeaderFields.sender])
        session = _Session(router, owner, *await _abilities(router))
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._listen, session, signals)
                while not self._stopped:
                    await self._bring(session)
                    # Its filter is a process.
                    # guard: the connection ends with the last notification
                    if not self._wanted and not session.shown:
                        break
                    await self._changed.wait()
                    self._changed = trio.Event()
            finally:
                if not session.gone:
                    await self._empty(session)
            nursery.cancel_scope.cancel()

    async def _bring(self, session: _Session) -> None:
        """Close and send the notifications that have changed since the last time."""
        for number in list(self._closing):
            self._closing.discard(number)
            await self._take_down(session, number)
        for number, bubble in list(self._wanted.items()):
            # The user may have dismissed it while the one before it was shown.
            # guard: a dismissed notification does not come back
            if self._wanted.get(number) is not bubble:
                continue
            before = session.shown.get(number)
            if before is None or before[1] != bubble:
                theirs = before[0] if before else 0
                call = _notify(bubble, theirs, session)
                session.early.clear()
                answer = await answer_of(session.router, call, limits.SERVER_SECONDS)
                session.shown[number] = int(answer.body[0]), bubble
                for member, body in list(session.early):
                    self._heard(session, member, body)
                if number not in self._wanted:
                    self.close(number)

    async def _take_down(self, session: _Session, number: int) -> None:
        """Close one notification on the desktop, if it is shown."""
        before = session.shown.pop(number, None)
        if before is not None:
            call = desktop_call(_NAME, "CloseNotification", before[0])
            # A notification that the user has closed in this moment is an error.
            with suppress(UpstreamError):
                await answer_of(session.router, call, limits.SERVER_SECONDS)

    async def _empty(self, session: _Session) -> None:
        """Close all notifications of this viewer, where the server still answers."""
        with trio.move_on_after(limits.SERVER_SECONDS):
            try:
                for number in list(session.shown):
                    await self._take_down(session, number)
            except Exception as error:  # noqa: BLE001 -- it is going, as we are
                self._complaint.tell(error)

    async def _listen(
        self, session: _Session, signals: trio.MemoryReceiveChannel[Message]
    ) -> None:
        """Handle signals of the server until it ends.  Raises UpstreamError then."""
        async for signal in signals:
            sender = signal.header.fields.get(HeaderFields.sender)
            member = signal.header.fields.get(HeaderFields.member)
            if member == "NameOwnerChanged" and sender == message_bus.bus_name:
                session.gone = True
                raise UpstreamError("the notification server exited")
            # Any program of the session may send us a signal of this name.
            # guard: a press is the notification server's word
            if sender == session.owner:
                self._heard(session, str(member), signal.body)
        session.gone = True
        raise UpstreamError("the session bus closed the connection")

    def _heard(self, session: _Session, member: str, body: tuple[object, ...]) -> None:
        """Handle a signal: a notification was closed, clicked or answered."""
        if len(body) != 2 or not isinstance(body[0], int):
            return
        number = session.ours(body[0])
        if number is None:  # another program's, or not known yet
            session.early.append((member, body))
            return
        match member, body[1]:
            case "ActivationToken", str(token):
                session.tokens[number] = token
            case "ActionInvoked", str(key):
                self._told(ServerTold(number, key, session.tokens.pop(number, "")))
            case "NotificationClosed", int(reason):
                session.shown.pop(number, None)
                session.tokens.pop(number, None)
                self._wanted.pop(number, None)
                self._told(ServerTold(number, reason=reason))
                self._changed.set()
            case _:
                pass  # of a later version of the specification


async def _abilities(router: DBusRouter) -> tuple[bool, bool]:
    """Return whether the server shows buttons, and reads markup in the text."""
    try:
        answer = await answer_of(
            router, desktop_call(_NAME, "GetCapabilities"), limits.SERVER_SECONDS
        )
    except UpstreamError:
        # mako 1.7.1 answers some of these calls so.  Escaped text is safe with either.
        # guard: text is escaped for a server that does not say
        return True, True
    able = set(answer.body[0])
    return "actions" in able, "body-markup" in able


def unescape_markup(markup: str) -> str:
    """Return the text of which ``escape_markup`` made this."""
    return markup.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")


def _notify(bubble: Bubble, replaces: int, session: _Session) -> Message:
    """Return the D-Bus call that shows a notification."""
    buttons = [word for pair in bubble.buttons for word in pair]
    hints: dict[str, tuple[str, object]] = {"urgency": ("y", bubble.urgency)}
    # guard: a sandbox's notification has its colour and no icon of ours
    if bubble.entry:
        hints["desktop-entry"] = ("s", bubble.entry)
    elif not bubble.icon:
        hints["image-data"] = ("(iiibiiay)", badge(bubble.colour))
    body = bubble.body if session.markup else unescape_markup(bubble.body)
    return desktop_call(
        _NAME,
        "Notify",
        "Vitrail",
        replaces,
        bubble.icon,
        bubble.title,
        body,
        buttons if session.buttons else [],
        hints,
        bubble.expire,
    )
