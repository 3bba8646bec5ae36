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

from shims.files.bus_messages import (
    DESTINATION,
    INTERFACE,
    MEMBER,
    PATH,
    SENDER,
    SIGNAL,
    BusMessage,
)
from shims.files.bus_service import (
    BusService,
    CallError,
    connect_session_bus,
    unknown_method,
)
from shims.files.camera import CAMERA, CAMERA_XML, PortalCamera
from shims.files.desktop_settings import (
    SETTINGS,
    SETTINGS_VERSION,
    SETTINGS_XML,
    MirroredSettings,
)
from shims.files.file_dialogs import (
    CHOOSER_VERSION,
    CHOOSER_XML,
    FILE_CHOOSER,
    PortalDialogs,
)
from shims.files.openers import which
from shims.files.printing import PRINT, PRINT_XML, PortalPrinting
from shims.files.screen_cast import SCREEN_CAST, SCREEN_XML, PortalScreens

if TYPE_CHECKING:
    import socket
    from typing import Any, Dict, List, Tuple

PORTAL_NAME = "org.freedesktop.portal.Desktop"
PORTAL_PATH = "/org/freedesktop/portal/desktop"
OPEN_URI = "org.freedesktop.portal.OpenURI"
PORTAL_VERSION = 3
OPENS_AT_ONCE = 8
SUCCESS, FAILED = 0, 2
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
TOKEN = re.compile(r"[A-Za-z0-9_]{1,64}")
INTROSPECTION = f"""<node>{SETTINGS_XML}{CHOOSER_XML}{PRINT_XML}{CAMERA_XML}{SCREEN_XML}
<interface name="{OPEN_URI}">
<method name="OpenURI"><arg type="s" direction="in"/><arg type="s" direction="in"/>
<arg type="a{{sv}}" direction="in"/><arg type="o" direction="out"/></method>
<method name="OpenFile"><arg type="s" direction="in"/><arg type="h" direction="in"/>
<arg type="a{{sv}}" direction="in"/><arg type="o" direction="out"/></method>
<method name="OpenDirectory"><arg type="s" direction="in"/><arg type="h" direction="in"/>
<arg type="a{{sv}}" direction="in"/><arg type="o" direction="out"/></method>
<property name="version" type="u" access="read"/></interface></node>"""


def serve_portal(words: List[str]) -> int:
    """Serve until no call has come for a minute."""
    del words
    Portal(connect_session_bus(os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""))).run()
    return 0


class Portal(BusService):
    """The portal on its connection."""

    name = PORTAL_NAME
    introspection = INTROSPECTION
    rules: Tuple[str, ...] = (
        "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''",
    )

    def __init__(self, bus: socket.socket) -> None:
        super().__init__(bus)
        self._opens = 0
        self._settings = MirroredSettings(self._setting_changed)
        self._dialogs = PortalDialogs(self._respond)
        self._printing = PortalPrinting(self._respond)
        self._camera = PortalCamera(self._respond)
        self._screens = PortalScreens(self._respond, self._session_closed)

    def busy(self) -> bool:  # type: ignore[explicit-override]
        """See ``BusService``."""
        works = self._opens + len(self._dialogs) + len(self._printing)
        works += len(self._camera) + len(self._screens)
        return works > 0 or self._settings.listening

    def answered(self) -> None:  # type: ignore[explicit-override]
        """See ``BusService``."""
        self._printing.answered()
        self._camera.answered()
        self._screens.answered()

    def heard(self, signal: BusMessage) -> None:  # type: ignore[explicit-override]
        """See ``BusService``."""
        if signal.text(MEMBER) == "NameOwnerChanged" and signal.signature == "sss":
            self._dialogs.gone(signal.body[0])
            self._camera.gone(signal.body[0])
            self._screens.gone(signal.body[0])

    def perform(  # type: ignore[explicit-override]
        self, call: BusMessage, fds: List[int]
    ) -> Tuple[str, Tuple[Any, ...]]:
        """See ``BusService``."""
        interface, member = call.text(INTERFACE), call.text(MEMBER)
        known = (interface.rpartition(".")[2], member, call.signature)
        if interface == SETTINGS or call.body[:1] == (SETTINGS,):
            return self._setting(call, known)
        if interface == FILE_CHOOSER or call.body[:1] == (FILE_CHOOSER,):
            return self._choose(call, known)
        if interface == PRINT or call.body[:1] == (PRINT,):
            command = own_command("vitrail-print")
            return self._printing.perform(call, fds, request_handle, command)
        if interface == CAMERA or call.body[:1] == (CAMERA,):
            return self._camera.perform(call, self._given, request_handle)
        if interface == SCREEN_CAST or call.body[:1] == (SCREEN_CAST,):
            return self._screens.perform(call, self._given, request_handle)
        if known == ("Session", "Close", ""):
            if not self._screens.close(call.text(SENDER), call.text(PATH)):
                raise unknown_method(call)
            return "", ()
        if known == ("Request", "Close", ""):
            self._dialogs.close(call.text(SENDER), call.text(PATH))
            return "", ()
        if known == ("Properties", "Get", "ss") and call.body[1] == "version":
            return "v", (("u", PORTAL_VERSION),)
        if known == ("Properties", "GetAll", "s"):
            return "a{sv}", ({"version": ("u", PORTAL_VERSION)},)
        if interface == OPEN_URI and known[1:] == ("OpenURI", "ssa{sv}"):
            return self._open(call, checked_address(call.body[1]), -1)
        if interface == OPEN_URI and known[1:] == ("OpenFile", "sha{sv}"):
            if call.body[1] >= len(fds):
                raise CallError("DBus.Error.InvalidArgs", "there is no descriptor")
            return self._open(call, "", os.dup(fds[call.body[1]]))
        raise unknown_method(call)

    def _setting(
        self, call: BusMessage, known: Tuple[str, str, str]
    ) -> Tuple[str, Tuple[Any, ...]]:
        """Answer a call about the desktop's settings."""
        if known == ("Properties", "Get", "ss") and call.body[1] == "version":
            return "v", (("u", SETTINGS_VERSION),)
        if known == ("Properties", "GetAll", "s"):
            return "a{sv}", ({"version": ("u", SETTINGS_VERSION)},)
        if known == ("Settings", "ReadAll", "as"):
            return "a{sa{sv}}", (self._settings.matching(call.body[0]),)
        if known in (("Settings", "Read", "ss"), ("Settings", "ReadOne", "ss")):
            try:
                value = self._settings.one(*call.body)
            except KeyError:
                raise CallError(
                    "portal.Error.NotFound", "there is no such setting"
                ) from None
            # Read has a variant too many, which programs expect of it.
            return "v", (("v", value) if known[1] == "Read" else value,)
        raise unknown_method(call)

    def _setting_changed(self, space: str, key: str, value: Tuple[str, Any]) -> None:
        fields = {PATH: PORTAL_PATH, INTERFACE: SETTINGS, MEMBER: "SettingChanged"}
        self._send(BusMessage(SIGNAL, fields, "ssv", (space, key, value)))

    def _choose(
        self, call: BusMessage, known: Tuple[str, str, str]
    ) -> Tuple[str, Tuple[Any, ...]]:
        """Answer a call about file dialogs."""
        if not self._dialogs.offered():
            raise unknown_method(call)
        if known == ("Properties", "Get", "ss") and call.body[1] == "version":
            return "v", (("u", CHOOSER_VERSION),)
        if known == ("Properties", "GetAll", "s"):
            return "a{sv}", ({"version": ("u", CHOOSER_VERSION)},)
        if known[1] in ("OpenFile", "SaveFile", "SaveFiles") and known[2] == "ssa{sv}":
            handle = request_handle(call)
            self._dialogs.begin(call.text(SENDER), handle, known[1], call.body[2])
            return "o", (handle,)
        raise unknown_method(call)

    def _respond(
        self, sender: str, handle: str, code: int, results: Dict[str, Tuple[str, Any]]
    ) -> None:
        fields = {PATH: handle, DESTINATION: sender, MEMBER: "Response"}
        fields[INTERFACE] = "org.freedesktop.portal.Request"
        self._send(BusMessage(SIGNAL, fields, "ua{sv}", (code, results)))

    def _session_closed(self, sender: str, path: str) -> None:
        fields = {PATH: path, DESTINATION: sender, MEMBER: "Closed"}
        fields[INTERFACE] = "org.freedesktop.portal.Session"
        no_details: Dict[str, Tuple[str, Any]] = {}
        self._send(BusMessage(SIGNAL, fields, "a{sv}", (no_details,)))

    def _open(self, call: BusMessage, url: str, fd: int) -> Tuple[str, Tuple[Any, ...]]:
        if self._opens >= OPENS_AT_ONCE:
            if fd >= 0:
                os.close(fd)
            raise CallError("DBus.Error.LimitsExceeded", "too many are being opened")
        handle = request_handle(call)
        self._opens += 1
        words = (call.text(SENDER), handle, url, fd)
        import threading

        threading.Thread(target=self._opened, args=words, daemon=True).start()
        return "o", (handle,)

    def _opened(self, sender: str, handle: str, url: str, fd: int) -> None:
        """Open it by a separate process, and send the portal's ``Response``."""
        code = FAILED
        try:
            what = url or path_of(fd)
            import subprocess

            done = subprocess.run(own_command("vitrail-open", what), check=False)
            code = FAILED if done.returncode else SUCCESS
        except (OSError, CallError):
            code = FAILED  # the response has no room for the reason
        finally:
            if fd >= 0:
                os.close(fd)
            self._respond(sender, handle, code, {})
            self._opens -= 1


def own_command(verb: str, *words: str) -> List[str]:
    """Return a command of this program, which a container has not in its PATH."""
    if which(verb):
        return [verb, *words]
    import sys

    own = (sys.executable, "-I", "-S", "-B", os.path.abspath(sys.argv[0]))
    return [*own, verb, *words]


def checked_address(untrusted_url: str) -> str:
    """Return an address; raises CallError for one that could be a file or an option."""
    scheme = SCHEME.match(untrusted_url)
    # guard: the portal takes addresses only
    if scheme is None or scheme[0].lower() == "file:" or os.path.exists(untrusted_url):
        raise CallError("portal.Error.InvalidArgument", "not an address, or a file:")
    return untrusted_url


def path_of(fd: int) -> str:
    """Return the path of an open file, if it is still that file's."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    # guard: the portal opens the file of the descriptor
    if not path.startswith("/") or not os.path.samestat(os.stat(path), os.fstat(fd)):
        raise CallError("portal.Error.NotAllowed", "the file has no name any more")
    return path


def request_handle(call: BusMessage, kind: str = "request") -> str:
    """Return the object whose ``Response`` the caller waits for, or its session."""
    option = "handle_token" if kind == "request" else f"{kind}_handle_token"
    token = call.body[-1].get(option, "")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        token = f"vitrail{call.serial}"
    sender = call.text(SENDER).lstrip(":").replace(".", "_")
    return f"{PORTAL_PATH}/{kind}/{sender}/{token}"
