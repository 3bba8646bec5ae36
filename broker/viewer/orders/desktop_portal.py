"""Requests to the portal of the user's desktop (documentation of XDG Desktop Portal).

The portal and its dialogs are programs of the user's session.
The viewer asks it to share screens; ``session.dialogs`` has files chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from jeepney import (
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
)
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection

from broker.core.errors import SetupError, UpstreamError, sole
from broker.core.escape import printable
from broker.net.desktop_bus import (
    Options,
    PortalRequest,
    desktop_call,
    desktop_property,
    owner_changes,
    portal_signal,
)
from broker.net.session_bus import OpenBus, why

DISMISSED = (1, 2)
"""Codes of a response without a choice."""
_REPLY_SECONDS, _CLOSE_SECONDS = 25.0, 2.0
"""The portal and its part of the desktop may have to be started first."""
_NO_BUS = (
    KeyError,  # of the environment
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
)
_NO_CLOSE = (SetupError, *_NO_BUS)
_SIGNALS = 64


class PortalBus:
    """A connection that does one thing after the other, for one interface."""

    def __init__(
        self, connection: DBusConnection, interface: str, noun: str, hint: str
    ) -> None:
        self._connection = connection
        self._interface = interface
        self._noun = noun
        self._hint = hint
        self._signals: deque[Message] = deque(maxlen=_SIGNALS)
        """Those that came before a reply."""
        self._owner = ""
        """The unique name: another program of the session could answer by the same path."""

    async def send(self, call: Message) -> int:
        """Send a call without waiting for its reply; return its serial."""
        serial: int = next(self._connection.outgoing_serial)
        await self._connection.send(call, serial=serial)
        return serial

    async def call(self, call: Message) -> Message:
        """Call a D-Bus method; return the reply.  Raises SetupError for an error."""
        with trio.fail_after(_REPLY_SECONDS):
            serial = await self.send(call)
            while True:
                got = await self._connection.receive()
                if got.header.message_type is MessageType.signal:
                    self._signals.append(got)
                elif got.header.fields.get(HeaderFields.reply_serial) == serial:
                    break
        if got.header.message_type is not MessageType.method_return:
            words = printable(" ".join(map(str, got.body)), 300)
            text = f"the desktop does not provide a {self._noun}: {words}"
            raise SetupError(text, hint=self._hint)
        return got

    async def property(self, name: str) -> object:
        """Return a property of the interface.  Raises SetupError where it has none."""
        reply = await self.call(desktop_property(self._interface, name))
        self._owner = str(reply.header.fields.get(HeaderFields.sender, ""))
        _, value = reply.body[0]
        return value

    def message(self, method: str, *values: object) -> Message:
        """Return a call of the portal, of which a property has been read."""
        return desktop_call(self._interface, method, *values, owner=self._owner)

    async def request(
        self, method: str, *first: object, options: Options
    ) -> tuple[object, ...]:
        """Call a portal method that answers by a Response signal; return the response.

        It is closed when this is cancelled, which waits for the portal a moment.
        Raises SetupError, UpstreamError.
        """
        made = PortalRequest(str(self._connection.unique_name), self._owner)
        for rule in (made.response, made.ended):
            await self.call(message_bus.AddMatch(rule))
        try:
            await self.call(made.call(self._interface, method, *first, options=options))
            answer = await self.signal(made.response)
        except trio.Cancelled:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(*_NO_CLOSE):
                # guard: a dialog that was given up counts until it is closed
                await self.call(made.close)
            raise
        return tuple(answer.body)

    async def signal(self, rule: MatchRule) -> Message:
        """Wait for a signal.  Raises UpstreamError when the portal has ended."""
        end = owner_changes(self._owner)
        while True:
            got = (
                self._signals.popleft()
                if self._signals
                else await self._connection.receive()
            )
            if rule.matches(got):
                return got
            if end.matches(got):
                raise UpstreamError("the desktop's portal exited")

    def rule(self, path: str, interface: str, member: str) -> MatchRule:
        """Return the rule for a signal of the portal."""
        return portal_signal(self._owner, path, interface, member)


@asynccontextmanager
async def portal_bus(
    bus: OpenBus, interface: str, noun: str, hint: str
) -> AsyncIterator[PortalBus]:
    """Yield a connection to a portal's interface while the block runs.

    ``noun`` and ``hint``: of an interface that is not there.  Raises SetupError.
    """
    try:
        async with bus() as connection:
            yield PortalBus(connection, interface, noun, hint)
    except (*_NO_BUS, ExceptionGroup) as error:
        found = sole(error)
        if not isinstance(found, _NO_BUS):
            raise
        text = f"cannot connect to the desktop's {noun}: {why(found)}"
        raise SetupError(text, hint=hint) from error
