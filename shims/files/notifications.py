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

from shims.files.bus_messages import (
    INTERFACE,
    MEMBER,
    PATH,
    SIGNAL,
    BusMessage,
)
from shims.files.bus_service import (
    OFFERED_AGAIN_SECONDS,
    BusService,
    CallError,
    connect_session_bus,
    unknown_method,
)
from shims.files.calling import desktop_call, start_thread
from shims.files.connection import BrokerConnection
from shims.files.protocol import TransferError, frame, read_message

if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, List, Optional, Tuple

NOTIFICATIONS_NAME = "org.freedesktop.Notifications"
NOTIFICATIONS_PATH = "/org/freedesktop/Notifications"
NOTIFICATIONS_VERSION = "1.2"
NOTIFICATION_SERVICE = "vitrail.Notification"
# As in broker/core/limits/notifications.py.
SUMMARY_CHARS, BODY_CHARS = 200, 1000
NOTIFICATION_ACTIONS, ACTION_CHARS = 4, 64
UNDEFINED_REASON = 4
MESSAGES_WAITING = 64
"""While the user is asked whether there may be notifications."""
NOTIFICATIONS_XML = f"""<node><interface name="{NOTIFICATIONS_NAME}">
<method name="Notify"><arg type="s" direction="in"/><arg type="u" direction="in"/>
<arg type="s" direction="in"/><arg type="s" direction="in"/>
<arg type="s" direction="in"/><arg type="as" direction="in"/>
<arg type="a{{sv}}" direction="in"/><arg type="i" direction="in"/>
<arg type="u" direction="out"/></method>
<method name="CloseNotification"><arg type="u" direction="in"/></method>
<method name="GetCapabilities"><arg type="as" direction="out"/></method>
<method name="GetServerInformation"><arg type="s" direction="out"/>
<arg type="s" direction="out"/><arg type="s" direction="out"/>
<arg type="s" direction="out"/></method>
<signal name="NotificationClosed"><arg type="u"/><arg type="u"/></signal>
<signal name="ActionInvoked"><arg type="u"/><arg type="s"/></signal>
</interface></node>"""


def serve_notifications(words: List[str]) -> int:
    """Serve until nothing is shown and no call has come for a minute."""
    del words
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    Notifications(connect_session_bus(address)).run()
    return 0


class Notifications(BusService):
    """The service on its connection to the bus, and its one to the broker."""

    name = NOTIFICATIONS_NAME
    introspection = NOTIFICATIONS_XML

    def __init__(self, bus: socket.socket) -> None:
        import threading

        super().__init__(bus)
        self._turn = threading.Lock()
        """For the four below, which the thread of a connection changes, too."""
        self._broker: Optional[BrokerConnection] = None
        self._shown: Dict[int, BrokerConnection] = {}
        self._waiting: Optional[List[Dict[str, Any]]] = None
        """Messages to its broker once the call is permitted; None: it is."""
        self._refused = -OFFERED_AGAIN_SECONDS
        """When the last call ended without permission."""
        self._asked: Optional[Tuple[Optional[BrokerConnection], Dict[str, Any]]] = None
        """What is sent on once its program knows the number."""
        # A number of an earlier daemon is not known here: programs outlive it.
        self._last = int.from_bytes(os.urandom(3), "big")

    def busy(self) -> bool:  # type: ignore[explicit-override]
        """See ``BusService``: as long as something is shown, its answer may come."""
        return bool(self._shown)

    def perform(  # type: ignore[explicit-override]
        self, call: BusMessage, fds: List[int]
    ) -> Tuple[str, Tuple[Any, ...]]:
        """See ``BusService``."""
        del fds
        known = (call.text(INTERFACE), call.text(MEMBER), call.signature)
        if known == (self.name, "GetCapabilities", ""):
            return "as", (["actions", "body"],)
        if known == (self.name, "GetServerInformation", ""):
            return "ssss", ("Vitrail", "Vitrail", "1", NOTIFICATIONS_VERSION)
        if known == (self.name, "CloseNotification", "u"):
            self._close(call.body[0])
            return "", ()
        if known == (self.name, "Notify", "susssasa{sv}i"):
            return "u", (self._notify(call.body),)
        raise unknown_method(call)

    def _notify(self, body: Tuple[Any, ...]) -> int:
        _, replaced, _, summary, text, words, hints, expire = body
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
            self._asked = broker, message
        except (TransferError, OSError) as error:
            raise CallError("DBus.Error.Failed", str(error)) from None
        return int(number)

    def answered(self) -> None:  # type: ignore[explicit-override]
        """Ask the broker only now: an answer of its own may come at once.

        notify-send ignores the end of a number that it does not know yet, and waits on.
        """
        if self._asked is None:
            return
        (broker, message), self._asked = self._asked, None
        number = message["number"]
        if broker is None:
            self._signal("NotificationClosed", "uu", (number, UNDEFINED_REASON))
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

    def _close(self, number: int) -> None:
        broker = self._shown.get(number)
        if broker is not None:
            try:
                self._tell(broker, {"type": "close", "number": number})
            except (TransferError, OSError) as error:
                raise CallError("DBus.Error.Failed", str(error)) from None

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
        """Pass the user's answers on, to the end of the connection."""
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
                    self._signal("ActionInvoked", "us", (number, str(message["key"])))
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
        """Tell its program once, and of no later one with its number."""
        with self._turn:
            if self._shown.get(number) is not broker:
                return
            del self._shown[number]
        self._signal("NotificationClosed", "uu", (number, reason))

    def _signal(self, member: str, signature: str, body: Tuple[Any, ...]) -> None:
        fields = {PATH: NOTIFICATIONS_PATH, INTERFACE: self.name, MEMBER: member}
        self._send(BusMessage(SIGNAL, fields, signature, body))
