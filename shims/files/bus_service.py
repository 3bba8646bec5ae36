"""A service on the guest's session bus: its connection, its name, its answers.

The bus starts the program when one of the guest asks for the name, and the program
ends when it has had nothing to do for a minute.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
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
from shims.files.connection import BrokerConnection
from shims.files.protocol import TransferError, frame

if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple

BUS_NAME = "org.freedesktop.DBus"
IDLE_SECONDS = 60.0
FDS_OF_MESSAGE = 253  # SCM_MAX_FD: a read gets no more, and none is lost
FDS_WAITING = 512
OFFER_SECONDS, OFFERED_AGAIN_SECONDS = 5.0, 20.0


class CallError(Exception):
    """A call that is answered by an error: name and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"org.freedesktop.{name}"


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


class PortalOffer:
    """Whether a rule may allow a part of the portal; else programs use their own.

    The broker is asked again after a while.
    """

    def __init__(self, ask: Dict[str, Any]) -> None:
        self._ask = ask
        self._held = False
        self._looked = -OFFERED_AGAIN_SECONDS

    def held(self) -> bool:
        """Whether a rule may allow it."""
        now = time.monotonic()
        if now - self._looked >= OFFERED_AGAIN_SECONDS:
            self._looked, self._held = now, False
            with contextlib.suppress(TransferError, OSError):
                connection = BrokerConnection("VITRAIL_CALL")
                with connection.socket:
                    connection.socket.settimeout(OFFER_SECONDS)
                    connection.send(frame(self._ask))
                    connection.wait("done")
                    self._held = True
        return self._held


class BusService:
    """A service on its connection."""

    name = ""
    introspection = ""
    rules: Tuple[str, ...] = ()
    """Signals of the bus itself that it wants."""

    def __init__(self, bus: socket.socket) -> None:
        import threading

        self._bus = bus
        self._serial = 0
        self._lock = threading.Lock()
        self._data = b""
        self._fds: List[int] = []
        self._given: List[int] = []
        """Descriptors of the reply to the call that is performed; closed behind it."""

    def run(self) -> None:
        """Own the name and answer calls.  Raises BusError."""
        try:
            self._serve()
        finally:
            self._close_fds()

    def _serve(self) -> None:
        self._call("Hello")
        self._call("RequestName", "su", (self.name, 4))
        for rule in self.rules:
            self._call("AddMatch", "s", (rule,))
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._bus, 65536, FDS_OF_MESSAGE)
            except TimeoutError:
                if self.busy():
                    continue
                return
            except socket.timeout:  # another class before Python 3.10
                if self.busy():
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
                elif message.kind == SIGNAL and message.text(SENDER) == BUS_NAME:
                    self.heard(message)
                else:
                    self.told(message)
            finally:
                for fd in fds:
                    os.close(fd)

    def _call(
        self, member: str, signature: str = "", body: Tuple[Any, ...] = ()
    ) -> None:
        fields = {PATH: "/org/freedesktop/DBus", DESTINATION: BUS_NAME}
        fields.update({INTERFACE: BUS_NAME, MEMBER: member})
        self._send(BusMessage(CALL, fields, signature, body))

    def _send(self, message: BusMessage, fds: Sequence[int] = ()) -> int:
        """Send a message, with descriptors of its own; returns its serial."""
        with self._lock:
            self._serial += 1
            data, sent = encode_message(message, self._serial), 0
            if fds:
                sent = socket.send_fds(self._bus, [data], fds)
            self._bus.sendall(data[sent:])
            return self._serial

    # -- calls ------------------------------------------------------------------------

    def _answer(self, call: BusMessage, fds: List[int]) -> None:
        back: Dict[int, Any] = {
            DESTINATION: call.text(SENDER),
            REPLY_SERIAL: call.serial,
        }
        try:
            signature, body = self._perform(call, fds)
        except CallError as error:
            back[ERROR_NAME] = error.name
            if call.wants_reply:
                self._send(BusMessage(ERROR, back, "s", (str(error),)))
            return
        given, self._given = self._given, []
        if given:
            back[UNIX_FDS] = len(given)
        try:
            if call.wants_reply:
                self._send(BusMessage(REPLY, back, signature, body), given)
        finally:
            for fd in given:
                os.close(fd)
        self.answered()

    def busy(self) -> bool:
        """Whether the service must not end yet, though no call has come."""
        return False

    def answered(self) -> None:
        """Do what follows the reply to a call, which has been sent."""

    def heard(self, signal: BusMessage) -> None:
        """Take a signal of the bus itself."""

    def told(self, message: BusMessage) -> None:
        """Take a reply, an error or a signal of another program."""

    def _perform(self, call: BusMessage, fds: List[int]) -> Tuple[str, Tuple[Any, ...]]:
        """Answer a call; raises CallError."""
        interface, member = call.text(INTERFACE), call.text(MEMBER)
        known = (interface.rpartition(".")[2], member, call.signature)
        if known == ("Peer", "Ping", ""):
            return "", ()
        if known == ("Introspectable", "Introspect", ""):
            return "s", (self.introspection,)
        return self.perform(call, fds)

    def perform(self, call: BusMessage, fds: List[int]) -> Tuple[str, Tuple[Any, ...]]:
        """Answer a call of the service's own; raises CallError."""
        del fds
        raise unknown_method(call)


def unknown_method(call: BusMessage) -> CallError:
    """Return the error for a call that is not served."""
    text = f"{call.text(INTERFACE)}.{call.text(MEMBER)} is not offered in a sandbox of Vitrail"
    return CallError("DBus.Error.UnknownMethod", text)
