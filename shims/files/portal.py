"""``org.freedesktop.portal.OpenURI`` on the guest's session bus.

The bus starts this program when one of the guest asks for the name
``org.freedesktop.portal.Desktop``; an address or a file then goes the way of
``vitrail-open``.  ``OpenDirectory`` is refused: a directory of the sandbox is
opened in the sandbox itself.  Source: the documentation of XDG Desktop Portal.
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

if TYPE_CHECKING:
    import socket
    from typing import Any, List, Tuple

PORTAL_NAME = "org.freedesktop.portal.Desktop"
PORTAL_PATH = "/org/freedesktop/portal/desktop"
OPEN_URI = "org.freedesktop.portal.OpenURI"
PORTAL_VERSION = 3
OPENS_AT_ONCE = 8
SUCCESS, FAILED = 0, 2
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
TOKEN = re.compile(r"[A-Za-z0-9_]{1,64}")
INTROSPECTION = f"""<node><interface name="{OPEN_URI}">
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

    def __init__(self, bus: socket.socket) -> None:
        super().__init__(bus)
        self._opens = 0

    def busy(self) -> bool:  # type: ignore[explicit-override]
        """See ``BusService``."""
        return self._opens > 0

    def perform(  # type: ignore[explicit-override]
        self, call: BusMessage, fds: List[int]
    ) -> Tuple[str, Tuple[Any, ...]]:
        """See ``BusService``."""
        interface, member = call.text(INTERFACE), call.text(MEMBER)
        known = (interface.rpartition(".")[2], member, call.signature)
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
        """Open it by a process of its own, and send the portal's ``Response``."""
        code = FAILED
        try:
            what = url or path_of(fd)
            import subprocess

            done = subprocess.run(["vitrail-open", what], check=False)
            code = FAILED if done.returncode else SUCCESS
        except (OSError, CallError):
            code = FAILED  # the response has no room for the reason
        finally:
            if fd >= 0:
                os.close(fd)
            fields = {PATH: handle, DESTINATION: sender, MEMBER: "Response"}
            fields[INTERFACE] = "org.freedesktop.portal.Request"
            self._send(BusMessage(SIGNAL, fields, "ua{sv}", (code, {})))
            self._opens -= 1


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


def request_handle(call: BusMessage) -> str:
    """Return the object whose ``Response`` the caller waits for."""
    token = call.body[2].get("handle_token", "")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        token = f"vitrail{call.serial}"
    sender = call.text(SENDER).lstrip(":").replace(".", "_")
    return f"{PORTAL_PATH}/request/{sender}/{token}"
