"""``org.kde.StatusNotifierWatcher`` on the guest's session bus: icons of its programs.

What a program shows there is shown in the user's own panel, where the broker's rules
allow it, in a frame of this sandbox's colour.  Pictures are drawn here, and clicks come
back; menus stay.  Source: the StatusNotifierItem specification.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import struct
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_messages import (
    PATH,
    REPLY,
    SENDER,
    BusMessage,
)
from shims.files.bus_service import (
    NAME_LOST,
    BusInterface,
    BusService,
    CallError,
    connect_session_bus,
)
from shims.files.calling import desktop_call, start_thread
from shims.files.connection import BrokerConnection
from shims.files.protocol import TransferError, frame, read_message
from shims.files.tray_pictures import drawn

if TYPE_CHECKING:
    import socket
    from typing import Any, ClassVar, Dict, List, Tuple

    from shims.files.bus_service import Values

WATCHER = "org.kde.StatusNotifierWatcher"
TRAY_ITEM = "org.kde.StatusNotifierItem"
ITEM_AT = "/StatusNotifierItem"
TRAY_SERVICE = BUS_OBJECTS[WATCHER].service
TRAY_TITLE_CHARS = 60  # as broker/core/limits/tray.py
ITEMS_AT_ONCE = 16


def serve_tray(words: List[str]) -> int:
    """Serve the tray on the session bus while the broker permits it."""
    del words
    broker = BrokerConnection("VITRAIL_CALL")
    broker.send(frame(desktop_call(TRAY_SERVICE)))
    broker.wait("go")
    Tray(connect_session_bus(), broker).run()
    return 0


class TrayIcon:
    """An item of a program."""

    def __init__(self, number: int, sender: str, path: str) -> None:
        self.number, self.sender, self.path = number, sender, path
        self.shown: Dict[str, Any] = {}  # what the broker was told
        self.asked = False  # its values are on their way


class Tray(BusService, BusInterface):
    """The service on its connection to the bus, and its one to the broker."""

    name = interface = WATCHER
    rules: Tuple[str, ...] = (NAME_LOST, f"type='signal',interface='{TRAY_ITEM}'")
    facts: ClassVar[Values] = {
        "RegisteredStatusNotifierItems": ("as", []),
        "IsStatusNotifierHostRegistered": ("b", 1),
        "ProtocolVersion": ("i", 0),
    }

    def __init__(self, bus: socket.socket, broker: BrokerConnection) -> None:
        super().__init__(bus)
        self.interfaces = [self]
        self._broker = broker
        self._items: Dict[int, TrayIcon] = {}
        self._last = 0
        start_thread(self._listen)

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``: programs look for the name at their start only."""
        return True

    def _ignore(self, _: BusMessage) -> Tuple[Any, ...]:
        """Take a panel of the guest: the user's own one is the only host."""
        return ()

    def properties(self) -> Values:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        items = [one.sender + one.path for one in self._items.values()]
        return {**self.facts, "RegisteredStatusNotifierItems": ("as", items)}

    def _register(self, call: BusMessage) -> Tuple[Any, ...]:
        """Register a program's icon and read it; raises CallError."""
        sender, service = call.text(SENDER), call.body[0]
        path = service if service.startswith("/") else ITEM_AT
        for item in self._items.values():
            if (item.sender, item.path) == (sender, path):
                self._look(item)
                return ()
        # guard: programs of a sandbox have bounds of their own icons
        if len(self._items) >= ITEMS_AT_ONCE:
            raise CallError("DBus.Error.LimitsExceeded", "too many icons are shown")
        self._last += 1
        item = self._items[self._last] = TrayIcon(self._last, sender, path)
        self._tell_all("StatusNotifierItemRegistered", item)
        self._look(item)
        return ()

    def _look(self, item: TrayIcon) -> None:
        """Ask an item for all that it has, once at a time."""
        if not item.asked:
            item.asked = True
            target = (item.sender, item.path, "org.freedesktop.DBus.Properties")
            on_reply = functools.partial(self._show_values, item)
            self.call(target, "GetAll", "s", (TRAY_ITEM,), on_reply)

    def _show_values(self, item: TrayIcon, reply: BusMessage) -> None:
        """Show an item with the values of its reply."""
        item.asked = False
        known = reply.kind == REPLY and reply.signature == "a{sv}"
        if item.number in self._items and known:
            self._show(item, reply.body[0])

    def _tell_all(self, name: str, item: TrayIcon) -> None:
        self.signal(WATCHER, name, item.sender + item.path)

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """Hide the icons of a program that has gone."""
        for item in list(self._items.values()):
            if item.sender == sender:
                del self._items[item.number]
                self._tell_all("StatusNotifierItemUnregistered", item)
                self._hide(item)

    def handle_signal(self, message: BusMessage) -> None:  # type: ignore[explicit-override]
        """Read an item again that has changed."""
        for item in self._items.values():
            source = (message.text(SENDER), message.text(PATH))
            if source == (item.sender, item.path):
                self._look(item)

    # -- the broker -----------------------------------------------------------------

    def _show(self, item: TrayIcon, values: Dict[str, Any]) -> None:
        """Send an item's icon to the broker, or hide it."""
        if values.get("Status") == "Passive":
            self._hide(item)
            return
        try:
            name, theme = str(values.get("IconName", "")), values.get("IconThemePath")
            pixels = drawn(values.get("IconPixmap") or [], name, str(theme or ""))
        except (TypeError, ValueError):
            pixels = b""  # values of another type
        message = {
            "type": "icon",
            "number": item.number,
            "title": str(values.get("Title") or values.get("Id"))[:TRAY_TITLE_CHARS],
            "pixels": base64.b64encode(pixels).decode(),
        }
        if message != item.shown:
            item.shown = message
            self._broker.send(frame(message))

    def _hide(self, item: TrayIcon) -> None:
        if item.shown:
            item.shown = {}
            self._broker.send(frame({"type": "gone", "number": item.number}))

    def _listen(self) -> None:
        """Pass clicks on to items, to the end of the connection."""
        with contextlib.suppress(TransferError, OSError, KeyError, struct.error):
            while True:
                message = read_message(self._broker.reader)
                if message["type"] != "clicked":
                    break
                item = self._items.get(int(message["number"]))
                if item is not None:
                    member = "SecondaryActivate" if message["second"] else "Activate"
                    target = (item.sender, item.path, TRAY_ITEM)
                    self.call(target, member, "ii", (0, 0))
        # Programs see the name go, and have no icons then.
        os._exit(0)
