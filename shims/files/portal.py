"""``org.freedesktop.portal.OpenURI`` on the guest's session bus.

The bus starts this program when one of the guest asks for the name
``org.freedesktop.portal.Desktop``; an address or a file then goes the way of
``vitrail-open``.  ``OpenDirectory`` is refused: a directory of the sandbox is
opened in the sandbox itself.  Source: the documentation of XDG Desktop Portal.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

from shims.files.bus_messages import (
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    PATH,
    REPLY,
    REPLY_SERIAL,
    SENDER,
    SIGNAL,
    UNIX_FDS,
    BusError,
    BusMessage,
    decode_message,
    encode_message,
    message_size,
)
from shims.files.protocol import TransferError

if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

PORTAL_NAME = "org.freedesktop.portal.Desktop"
PORTAL_PATH = "/org/freedesktop/portal/desktop"
OPEN_URI = "org.freedesktop.portal.OpenURI"
PORTAL_VERSION = 3
IDLE_SECONDS = 60.0
OPENS_AT_ONCE = 8
FDS_OF_MESSAGE = 253  # SCM_MAX_FD: a read gets no more, and none is lost
FDS_WAITING = 512
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


class PortalError(Exception):
    """A call that is answered by an error: name and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"org.freedesktop.{name}"


def serve_portal(words: List[str]) -> int:
    """Serve until no call has come for a minute."""
    del words
    Portal(connect_session_bus(os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""))).run()
    return 0


def connect_session_bus(address: str) -> socket.socket:
    """Connect to the bus and authenticate as this user.  Raises TransferError."""
    kind, _, rest = address.split(";", maxsplit=1)[0].partition(":")
    options = dict(part.partition("=")[::2] for part in rest.split(","))
    place = options.get("path") or "\0" + options.get("abstract", "")
    if kind != "unix" or len(place) < 2:
        raise TransferError("there is no session bus at a UNIX socket")
    bus = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bus.settimeout(IDLE_SECONDS)
    bus.connect(place)
    user = str(os.getuid()).encode().hex().encode()
    bus.sendall(b"\0AUTH EXTERNAL " + user + b"\r\n")
    expect(bus, b"OK ")
    bus.sendall(b"NEGOTIATE_UNIX_FD\r\n")
    expect(bus, b"AGREE_UNIX_FD")
    bus.sendall(b"BEGIN\r\n")
    return bus


def expect(bus: socket.socket, wanted: bytes) -> None:
    """Read a line of the authentication."""
    line = b""
    while not line.endswith(b"\r\n") and len(line) < 1024:
        line += bus.recv(1) or b"\r\n"
    if not line.startswith(wanted):
        raise TransferError("the session bus does not accept us")


class Portal:
    """The service on its connection."""

    def __init__(self, bus: socket.socket) -> None:
        import threading

        self._bus = bus
        self._serial = 0
        self._lock = threading.Lock()
        self._opens = 0
        self._data = b""
        self._fds: List[int] = []

    def run(self) -> None:
        """Own the name and answer calls.  Raises BusError."""
        try:
            self._serve()
        finally:
            self._close_fds()

    def _serve(self) -> None:
        self._call("Hello")
        self._call("RequestName", "su", (PORTAL_NAME, 4))
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._bus, 65536, FDS_OF_MESSAGE)
            except TimeoutError:
                if self._opens:
                    continue
                return
            except socket.timeout:  # another class before Python 3.10
                if self._opens:
                    continue
                return
            if not data:
                return
            self._fds += fds
            self._data += data
            self._take_messages()
            # guard: surplus descriptors are closed
            if not self._data:
                self._close_fds()
            # guard: descriptors do not pile up before their message
            if len(self._fds) > FDS_WAITING:
                raise BusError("more descriptors than a message can have")

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _take_messages(self) -> None:
        while True:
            size = message_size(self._data)
            if size is None or len(self._data) < size:
                return
            message = decode_message(self._data[:size])
            self._data = self._data[size:]
            count = message.fields.get(UNIX_FDS, 0)
            if not isinstance(count, int) or not 0 <= count <= len(self._fds):
                raise BusError("a message with fewer descriptors than it says")
            # guard: a call has the descriptors of its own message
            fds, self._fds = self._fds[:count], self._fds[count:]
            try:
                if message.kind == CALL:
                    self._answer(message, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def _call(
        self, member: str, signature: str = "", body: Tuple[Any, ...] = ()
    ) -> None:
        name = "org.freedesktop.DBus"
        fields = {PATH: "/org/freedesktop/DBus", DESTINATION: name, INTERFACE: name}
        self._send(BusMessage(CALL, {**fields, MEMBER: member}, signature, body))

    def _send(self, message: BusMessage) -> None:
        with self._lock:
            self._serial += 1
            self._bus.sendall(encode_message(message, self._serial))

    # -- calls ------------------------------------------------------------------------

    def _answer(self, call: BusMessage, fds: List[int]) -> None:
        back: Dict[int, Any] = {
            DESTINATION: call.text(SENDER),
            REPLY_SERIAL: call.serial,
        }
        try:
            signature, body = self._perform(call, fds)
        except PortalError as error:
            back[ERROR_NAME] = error.name
            if call.wants_reply:
                self._send(BusMessage(ERROR, back, "s", (str(error),)))
            return
        if call.wants_reply:
            self._send(BusMessage(REPLY, back, signature, body))

    def _perform(self, call: BusMessage, fds: List[int]) -> Tuple[str, Tuple[Any, ...]]:
        interface, member = call.text(INTERFACE), call.text(MEMBER)
        known = (interface.rpartition(".")[2], member, call.signature)
        if known == ("Peer", "Ping", ""):
            return "", ()
        if known == ("Introspectable", "Introspect", ""):
            return "s", (INTROSPECTION,)
        if known == ("Properties", "Get", "ss") and call.body[1] == "version":
            return "v", (("u", PORTAL_VERSION),)
        if known == ("Properties", "GetAll", "s"):
            return "a{sv}", ({"version": ("u", PORTAL_VERSION)},)
        if interface == OPEN_URI and known[1:] == ("OpenURI", "ssa{sv}"):
            return self._open(call, checked_address(call.body[1]), -1)
        if interface == OPEN_URI and known[1:] == ("OpenFile", "sha{sv}"):
            if call.body[1] >= len(fds):
                raise PortalError("DBus.Error.InvalidArgs", "there is no descriptor")
            return self._open(call, "", os.dup(fds[call.body[1]]))
        text = f"{interface}.{member} is not offered in a sandbox of Vitrail"
        raise PortalError("DBus.Error.UnknownMethod", text)

    def _open(self, call: BusMessage, url: str, fd: int) -> Tuple[str, Tuple[Any, ...]]:
        if self._opens >= OPENS_AT_ONCE:
            if fd >= 0:
                os.close(fd)
            raise PortalError("DBus.Error.LimitsExceeded", "too many are being opened")
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
        except (OSError, PortalError):
            code = FAILED  # the response has no room for the reason
        finally:
            if fd >= 0:
                os.close(fd)
            fields = {PATH: handle, DESTINATION: sender, MEMBER: "Response"}
            fields[INTERFACE] = "org.freedesktop.portal.Request"
            self._send(BusMessage(SIGNAL, fields, "ua{sv}", (code, {})))
            self._opens -= 1


def checked_address(untrusted_url: str) -> str:
    """Return an address; raises PortalError for one that could be a file or an option."""
    scheme = SCHEME.match(untrusted_url)
    # guard: the portal takes addresses only
    if scheme is None or scheme[0].lower() == "file:" or os.path.exists(untrusted_url):
        raise PortalError("portal.Error.InvalidArgument", "not an address, or a file:")
    return untrusted_url


def path_of(fd: int) -> str:
    """Return the path of an open file, if it is still that file's."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    # guard: the portal opens the file of the descriptor
    if not path.startswith("/") or not os.path.samestat(os.stat(path), os.fstat(fd)):
        raise PortalError("portal.Error.NotAllowed", "the file has no name any more")
    return path


def request_handle(call: BusMessage) -> str:
    """Return the object whose ``Response`` the caller waits for."""
    token = call.body[2].get("handle_token", "")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        token = f"vitrail{call.serial}"
    sender = call.text(SENDER).lstrip(":").replace(".", "_")
    return f"{PORTAL_PATH}/request/{sender}/{token}"
