"""The portal on the guest's session bus, and its addresses and files to open.

The bus starts this program when one of the guest asks for the name
``org.freedesktop.portal.Desktop``; an address or a file then goes the way of
``vitrail-open``.  ``OpenDirectory`` is refused: a directory of the sandbox is
opened in the sandbox itself.
Source: the documentation of XDG Desktop Portal.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from shims.files.bus_calls import PORTAL_NAME
from shims.files.bus_messages import INTERFACE, MEMBER, PATH, SENDER, BusMessage
from shims.files.bus_service import (
    NAME_LOST,
    BusService,
    CallError,
    PortalPart,
    connect_session_bus,
    own_descriptor,
    path_of,
)
from shims.files.camera import PortalCamera
from shims.files.dialogs import PortalDialogs
from shims.files.looks import SETTINGS, MirroredSettings
from shims.files.monitors import (
    NETWORK_MONITOR,
    MemoryMonitor,
    NetworkMonitor,
    PowerProfileMonitor,
    ProxyResolver,
)
from shims.files.openers import own_command
from shims.files.portal_notifications import NOTIFICATION_SIGNALS, PortalNotifications
from shims.files.printing import PortalPrinting
from shims.files.screens import PortalScreens
from shims.files.trash import PortalTrash

if TYPE_CHECKING:
    import socket
    from typing import Any, ClassVar, List, Tuple

    from shims.files.bus_service import Values

OPEN_URI = "org.freedesktop.portal.OpenURI"
REQUEST = "org.freedesktop.portal.Request"
SESSION = "org.freedesktop.portal.Session"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def serve_portal(words: List[str]) -> int:
    """Serve until no call has come for a minute."""
    del words
    Portal(connect_session_bus()).run()
    return 0


class Portal(BusService):
    """The portal on its connection."""

    name = PORTAL_NAME
    rules: Tuple[str, ...] = (NAME_LOST, NOTIFICATION_SIGNALS)

    def __init__(self, bus: socket.socket) -> None:
        super().__init__(bus)
        self._dialogs = PortalDialogs(self._respond)
        self._screens = PortalScreens(self._respond, self._session_closed)
        self._notifications = PortalNotifications(self)
        self.interfaces = [
            MirroredSettings(self._setting_changed),
            self._dialogs,
            PortalPrinting(self._respond),
            PortalCamera(self._respond),
            self._screens,
            PortalOpening(self._respond),
            self._notifications,
            PortalTrash(),
            ProxyResolver(),
            NetworkMonitor(lambda: self.signal(NETWORK_MONITOR, "changed")),
            MemoryMonitor(),
            PowerProfileMonitor(),
        ]

    def handle_signal(self, message: BusMessage) -> None:  # type: ignore[explicit-override]
        """Handle a signal of the notification service."""
        self._notifications.handle_signal(message)

    def perform(  # type: ignore[explicit-override]
        self, call: BusMessage
    ) -> Tuple[str, Tuple[Any, ...]]:
        """Perform a call; requests and sessions have paths of their own."""
        known = (call.text(INTERFACE), call.text(MEMBER), call.signature)
        for interface, close in (
            (REQUEST, self._dialogs.close),
            (SESSION, self._screens.close),
        ):
            if known == (interface, "Close", ""):
                close(call.text(SENDER), call.text(PATH))
                return "", ()
        return super().perform(call)

    def _setting_changed(self, space: str, key: str, value: Tuple[str, Any]) -> None:
        self.signal(SETTINGS, "SettingChanged", space, key, value)

    def _respond(self, sender: str, handle: str, code: int, results: Values) -> None:
        self.signal(REQUEST, "Response", code, results, path=handle, program=sender)

    def _session_closed(self, sender: str, path: str) -> None:
        no_details: Values = {}
        self.signal(SESSION, "Closed", no_details, path=path, program=sender)


class PortalOpening(PortalPart):
    """Addresses and files, which are opened as ``vitrail-open`` has it."""

    interface = OPEN_URI
    # Version 3 has OpenDirectory, too.
    facts: ClassVar[Values] = {"version": ("u", 2)}

    def _open_address(self, call: BusMessage) -> Tuple[Any, ...]:
        return self._open(call, checked_address(call.body[1]))

    def _open_file(self, call: BusMessage) -> Tuple[Any, ...]:
        """Open the file of a descriptor; raises CallError."""
        fd = own_descriptor(call, call.body[1])
        try:
            return self._open(call, path_of(fd))
        except OSError as error:
            raise CallError("portal.Error.NotAllowed", str(error)) from None
        finally:
            os.close(fd)

    def _open(self, call: BusMessage, what: str) -> Tuple[Any, ...]:
        return self.run(call, own_command("vitrail-open", what))


def checked_address(untrusted_url: str) -> str:
    """Return an address; raises CallError if it could be a file or an option."""
    scheme = SCHEME.match(untrusted_url)
    # guard: the portal takes addresses only
    if scheme is None or scheme[0].lower() == "file:" or os.path.exists(untrusted_url):
        raise CallError("portal.Error.InvalidArgument", "not a URI, or a file: URI")
    return untrusted_url
