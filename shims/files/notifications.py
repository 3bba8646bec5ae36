"""``org.freedesktop.Notifications`` on the guest's session bus.

What a program of the guest notifies of is shown by the user's own desktop, where the
broker's rules allow it, under this sandbox's name.  Source: the Desktop Notifications
Specification 1.2.  Pictures, sounds and markup stay here.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_service import (
    OFFERED_AGAIN_SECONDS,
    BusInterface,
    BusService,
    CallError,
    connect_session_bus,
)
from shims.files.calling import desktop_call, start_thread
from shims.files.connection import BrokerConnection
from shims.files.protocol import TransferError, frame, read_message

if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, List, Optional, Tuple

    from shims.files.bus_messages import BusMessage

NOTIFICATIONS_NAME = "org.freedesktop.Notifications"
NOTIFICATION_SERVICE = BUS_OBJECTS[NOTIFICATIONS_NAME].service
# As in broker/core/limits/notifications.py.
SUMMARY_CHARS, BODY_CHARS = 200, 1000
NOTIFICATION_ACTIONS, ACTION_CHARS = 4, 64
UNDEFINED_REASON = 4
MESSAGES_WAITING = 64
"""While the user is asked whether there may be notifications."""


def serve_notifications(words: List[str]) -> int:
    """Serve until nothing is shown and no call has come for a minute."""
    del words
    Notifications(connect_session_bus()).run()
    return 0


class Notifications(BusService, BusInterface):
    """The service on its connection to the bus, and its one to the broker."""

    name = interface = NOTIFICATIONS_NAME

    def __init__(self, bus: socket.socket) -> None:
        import threading

        super().__init__(bus)
        self.interfaces = [self]
        self._turn = threading.Lock()
        """For the four below, which the thread of a connection changes, too."""
        self._broker: Optional[BrokerConnection] = None
        self._shown: Dict[int, BrokerConnection] = {}
        self._waiting: Optional[List[Dict[str, Any]]] = None
        """Messages to its broker once the call is permitted; None: it is."""
        self._refused = -OFFERED_AGAIN_SECONDS
        """When the last call ended without permission."""
        # A number of an earlier daemon is not known here: programs outlive it.
        self._last = int.from_bytes(os.urandom(3), "big")

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``: as long as something is shown, its answer may come."""
        return len(self._shown)

    def _capabilities(self, _: BusMessage) -> Tuple[Any, ...]:
        return (["actions", "body"],)

    def _information(self, _: BusMessage) -> Tuple[Any, ...]:
        return ("Vitrail", "Vitrail", "1", "1.2")

    def _notify(self, call: BusMessage) -> Tuple[Any, ...]:
        """Show a program's notification by the broker; return its number."""
        _, replaced, _, summary, text, words, hints, expire = call.body
        number = replaced
        if not number:
            self._last = self._last % 0xFFFFFFFF + 1
            number = self._last
        urgency = hints.get("urgency", 1)
        pairs = list(zip(words[::2], words[1::2]))[:NOTIFICATION_ACTIONS]
        message = {
            "type": "show",
            "number": number,
            "summary": summary[:SUMMARY_CHARS],
            "body": text[:BODY_CHARS],
            "urgency": urgency if urgency in (0, 1, 2) else 1,
            # A key that is cut would not be the program's any more.
            "actions": [
                [key, label[:ACTION_CHARS]]
                for key, label in pairs
                if len(key) <= ACTION_CHARS
            ],
            "expire": max(-1, expire),
        }
        again = time.monotonic() - self._refused >= OFFERED_AGAIN_SECONDS
        try:
            # guard: a refused program does not call for each notification
            broker = self._broker or (self._connect() if again else None)
        except (TransferError, OSError) as error:
            raise CallError("DBus.Error.Failed", str(error)) from None
        # An answer of the broker's may come at once, and notify-send ignores the end of
        # a number that it does not know yet, and waits on.
        call.after.append(lambda: self._show(broker, message))
        return (number,)

    def _show(
        self, broker: Optional[BrokerConnection], message: Dict[str, Any]
    ) -> None:
        """Send a notification to the broker; tell the program if that fails."""
        number = message["number"]
        if broker is None:
            self._tell_all("NotificationClosed", number, UNDEFINED_REASON)
            return
        with self._turn:
            self._shown[number] = broker
            ended = self._broker is not broker
        if not ended:
            try:
                self._tell(broker, message)
            except (TransferError, OSError):
                ended = True
        if ended:
            self._closed(broker, number, UNDEFINED_REASON)

    def _close(self, call: BusMessage) -> Tuple[Any, ...]:
        """Close a notification that is shown."""
        number = call.body[0]
        broker = self._shown.get(number)
        if broker is not None:
            try:
                self._tell(broker, {"type": "close", "number": number})
            except (TransferError, OSError) as error:
                raise CallError("DBus.Error.Failed", str(error)) from None
        return ()

    # -- the broker -----------------------------------------------------------------

    def _connect(self) -> BrokerConnection:
        broker, self._waiting = BrokerConnection("VITRAIL_CALL"), []
        broker.send(frame(desktop_call(NOTIFICATION_SERVICE)))
        self._broker = broker
        start_thread(lambda: self._listen(broker))
        return broker

    def _tell(self, broker: BrokerConnection, message: Dict[str, Any]) -> None:
        """Ask the broker, or once it has permitted the call: the user may be asked."""
        with self._turn:
            if self._waiting is None:
                broker.send(frame(message))
            elif len(self._waiting) < MESSAGES_WAITING:
                self._waiting.append(message)
            else:
                raise TransferError("the user has not answered yet")

    def _listen(self, broker: BrokerConnection) -> None:
        """Pass the user's answers on to programs, to the end of the connection."""
        permitted = False
        with contextlib.suppress(TransferError, OSError, KeyError, struct.error):
            broker.wait("go")
            permitted = True
            with self._turn:
                for waiting in self._waiting or ():
                    broker.send(frame(waiting))
                self._waiting = None
            while True:
                message = read_message(broker.reader)
                number = int(message["number"])
                if message["type"] == "closed":
                    self._closed(broker, number, int(message["reason"]))
                elif message["type"] == "action":
                    self._tell_all("ActionInvoked", number, str(message["key"]))
        with self._turn:
            if self._broker is broker:
                self._broker = None
            if not permitted:
                self._refused = time.monotonic()
            left = list(self._shown)
        broker.socket.close()
        for number in left:
            self._closed(broker, number, UNDEFINED_REASON)

    def _closed(self, broker: BrokerConnection, number: int, reason: int) -> None:
        """Tell a notification's program that it is closed, once."""
        with self._turn:
            if self._shown.get(number) is not broker:
                return
            del self._shown[number]
        self._tell_all("NotificationClosed", number, reason)

    def _tell_all(self, name: str, *values: object) -> None:
        self.signal(self.name, name, *values)
