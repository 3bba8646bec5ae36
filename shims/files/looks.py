"""``org.freedesktop.portal.Settings``: how the user's desktop looks, followed live.

The broker tells, where its rules allow it; programs of the guest read it here and get
``SettingChanged``.  What does not come is not there for them, as on a desktop that has
no such setting.  Source: the documentation of XDG Desktop Portal.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_service import BusInterface, CallError
from shims.files.calling import desktop_call, start_thread
from shims.files.connection import BrokerConnection
from shims.files.frames import CALL_DATA, CALL_HEADER
from shims.files.protocol import TransferError, frame

if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Dict, List, Tuple

    from shims.files.bus_messages import BusMessage
    from shims.files.bus_service import Values

SETTINGS = "org.freedesktop.portal.Settings"
SETTINGS_SERVICE = BUS_OBJECTS[SETTINGS].service
FIRST_SECONDS = 5.0  # programs wait for it at their start
AGAIN_SECONDS = 30.0
SETTINGS_LINE_BYTES = 1 << 16


class MirroredSettings(BusInterface):
    """The settings as the broker tells them; ``changed`` is called with each new one."""

    interface = SETTINGS
    facts: ClassVar[Values] = {"version": ("u", 2)}

    def __init__(self, changed: Callable[[str, str, Tuple[str, Any]], None]) -> None:
        import threading

        self._changed = changed
        self._values: Dict[Tuple[str, str], Tuple[str, Any]] = {}
        self._first = threading.Event()
        self._listening = False
        self._tried = -AGAIN_SECONDS

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``: changes can come."""
        return self._listening

    def _read_one(self, call: BusMessage) -> Tuple[Any, ...]:
        self._begin()
        if call.body not in self._values:
            raise CallError("portal.Error.NotFound", "the setting does not exist")
        return (self._values[call.body],)

    def _read(self, call: BusMessage) -> Tuple[Any, ...]:
        # It has a variant too many, which programs expect of it.
        return (("v", *self._read_one(call)),)

    def _read_all(self, call: BusMessage) -> Tuple[Any, ...]:
        """Return the settings of the named namespaces (``PREFIX*``); all for none."""
        self._begin()
        (patterns,) = call.body
        found: Dict[str, Dict[str, Tuple[str, Any]]] = {}
        for (space, key), value in list(self._values.items()):
            if not any(patterns) or any(namespace_fits(space, p) for p in patterns):
                found.setdefault(space, {})[key] = value
        return (found,)

    def _begin(self) -> None:
        """Ask the broker, where it does not tell already, and wait for the first word.

        Starts a thread that connects to the broker and follows what it sends.
        """
        now = time.monotonic()
        if not self._listening and now - self._tried >= AGAIN_SECONDS:
            self._tried = now
            self._listening = True
            self._first.clear()
            start_thread(self._listen)
        self._first.wait(FIRST_SECONDS)

    def _listen(self) -> None:
        """Follow the desktop's settings in a thread, to the connection's end."""
        try:
            with contextlib.suppress(TransferError, OSError, ValueError, struct.error):
                self._follow()
        finally:
            self._listening = False
            self._first.set()

    def _follow(self) -> None:
        """Call the desktop for its settings and read each new version."""
        connection = BrokerConnection("VITRAIL_CALL")
        with connection.socket:
            connection.send(frame(desktop_call(SETTINGS_SERVICE)))
            connection.wait("go")
            line = b""
            while True:
                kind, left = CALL_HEADER.unpack(
                    connection.reader.read(CALL_HEADER.size)
                )
                if kind != CALL_DATA or left > SETTINGS_LINE_BYTES:
                    return
                line += connection.reader.read(left)
                if line.endswith(b"\n"):
                    self._take(json.loads(line)["settings"])
                    line = b""
                if len(line) > SETTINGS_LINE_BYTES:
                    return

    def _take(self, rows: List[Any]) -> None:
        """Keep these settings; report each that changed."""
        before = self._values
        self._values = {
            (str(space), str(key)): (str(kind), value)
            for space, key, kind, value in rows
        }
        first = not self._first.is_set()
        self._first.set()
        for place, value in self._values.items():
            if not first and before.get(place) != value:
                self._changed(*place, value)


def namespace_fits(space: str, pattern: str) -> bool:
    """Return whether a pattern of ReadAll means a namespace."""
    if pattern.endswith("*"):
        return space.startswith(pattern[:-1])
    return not pattern or space == pattern
