"""A service on the guest's session bus: its connection, its name, its answers.

The bus starts the program when one of the guest asks for the name, and the program
ends when it has had nothing to do for a minute.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS, PORTAL_PATH
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
    split_types,
)
from shims.files.calling import start_thread
from shims.files.connection import BrokerConnection
from shims.files.protocol import EXIT_FAILED, TransferError, frame, tell

if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Dict, List, Optional, Tuple

    from shims.files.bus_calls import BusRow

    Values = Dict[str, Tuple[str, Any]]
    Respond = Callable[[str, str, int, Values], None]
    OnReply = Callable[[BusMessage], None]

BUS_NAME = "org.freedesktop.DBus"
BUS = (BUS_NAME, "/org/freedesktop/DBus", BUS_NAME)
IDLE_SECONDS = 60.0
FDS_OF_MESSAGE = 253  # SCM_MAX_FD: a read gets no more, and none is lost
FDS_WAITING = 512
NAME_LOST = f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg2=''"
DONE, NOT_DONE = 0, 2
TOKEN = re.compile(r"[A-Za-z0-9_]{1,64}")
OFFER_SECONDS, OFFERED_AGAIN_SECONDS = 5.0, 20.0


class CallError(Exception):
    """A call that is answered by an error: name and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = f"org.freedesktop.{name}"


def connect_session_bus() -> socket.socket:
    """Connect to the bus and authenticate as this user.  Raises TransferError."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    kind, _, rest = address.split(";", maxsplit=1)[0].partition(":")
    options = dict(part.partition("=")[::2] for part in rest.split(","))
    place = options.get("path") or "\0" + options.get("abstract", "")
    if kind != "unix" or len(place) < 2:
        raise TransferError("the session bus does not have a UNIX socket")
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
    """Read one line of D-Bus authentication and compare it.

    Raises TransferError.
    """
    line = b""
    while not line.endswith(b"\r\n") and len(line) < 1024:
        line += bus.recv(1) or b"\r\n"
    if not line.startswith(wanted):
        raise TransferError("the session bus rejected the authentication")


class PortalOffer:
    """Whether a rule may allow a part of the portal; else programs use their own.

    The broker is asked again after a while.
    """

    def __init__(self, ask: Dict[str, Any]) -> None:
        self._ask = ask
        self._held = False
        self._looked = -OFFERED_AGAIN_SECONDS

    def held(self) -> bool:
        """Return whether a rule may allow the service.  Asks the broker now and then.

        Asks the broker, and keeps the answer for a while.
        """
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


def request_handle(call: BusMessage, kind: str = "request") -> str:
    """Return the object path of the request or session that a call makes."""
    option = "handle_token" if kind == "request" else f"{kind}_handle_token"
    token = call.body[-1].get(option, "")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        token = f"vitrail{call.serial}"
    sender = call.text(SENDER).lstrip(":").replace(".", "_")
    return f"{PORTAL_PATH}/{kind}/{sender}/{token}"


def own_descriptor(call: BusMessage, place: int) -> int:
    """Return a copy of a descriptor of a call.  Raises CallError."""
    if place >= len(call.fds):
        raise CallError("DBus.Error.InvalidArgs", "the call has no such descriptor")
    return os.dup(call.fds[place])


def path_of(fd: int) -> str:
    """Return the path of an open file; raises CallError if it has none."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    # guard: the portal opens the file of the descriptor
    if not path.startswith("/") or not os.path.samestat(os.stat(path), os.fstat(fd)):
        raise CallError("portal.Error.NotAllowed", "the file no longer has a name")
    return path


def read_machine_id() -> str:
    """Return the machine id of this sandbox (machine-id(5)).  Raises CallError."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError) as error:
        raise CallError("DBus.Error.Failed", f"/etc/machine-id: {error}") from None


class BusInterface:
    """An interface that a service has, which answers the calls of its rows."""

    interface = ""
    facts: ClassVar[Values] = {}

    def answer(self, row: BusRow, call: BusMessage) -> Tuple[Any, ...]:
        """Return the values of the reply to a call of a row.  Raises CallError."""
        # guard: programs of a sandbox have bounds of their own calls
        if row.most and self.running() >= row.most:
            raise CallError("DBus.Error.LimitsExceeded", row.refusal)
        values: Tuple[Any, ...] = getattr(self, row.answer)(call)
        return values

    def running(self) -> int:
        """Return how much of what its calls begin has not ended."""
        return self.busy()

    def offered(self) -> bool:
        """Return whether programs are to find it."""
        return True

    def properties(self) -> Values:
        """Return the properties; ``facts`` has the names and types of all."""
        return self.facts

    def busy(self) -> int:
        """Return whether the service must not end yet, though no call has come."""
        return 0

    def forget_program(self, sender: str) -> None:
        """A program has left the bus; for services that want ``NAME_LOST``."""

    def described(self) -> str:
        """Return the interface's XML for D-Bus introspection."""

        def words(types: str, where: str = "") -> str:
            return "".join(f'<arg type="{one}"{where}/>' for one in split_types(types))

        parts = [f'<interface name="{self.interface}">']
        for row in BUS_OBJECTS[self.interface].rows.values():
            if row.guest and row.signal:
                parts.append(f'<signal name="{row.member}">{words(row.takes)}</signal>')
            elif row.guest:
                values = words(row.takes, ' direction="in"')
                values += words(row.gives, ' direction="out"')
                parts.append(f'<method name="{row.member}">{values}</method>')
        for name, (kind, _) in self.facts.items():
            parts.append(f'<property name="{name}" type="{kind}" access="read"/>')
        return "\n".join([*parts, "</interface>"])


class PortalPart(BusInterface):
    """An interface of the portal, where a rule may allow it.

    ``respond`` is called with a program, a handle, a code and results.
    """

    def __init__(self, respond: Respond, ask: Optional[Dict[str, Any]] = None) -> None:
        """``ask``: what the broker is asked, to know whether to offer it."""
        self._respond = respond
        self._offer = PortalOffer(ask) if ask is not None else None
        self._running = 0

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return self._running

    def offered(self) -> bool:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return self._offer is None or self._offer.held()

    def run(
        self, call: BusMessage, words: List[str], stdin: Optional[int] = None
    ) -> Tuple[Any, ...]:
        """Run a command of ours for a call in a thread; respond with its end.

        Takes ``stdin`` over.
        """
        sender, handle = call.text(SENDER), request_handle(call)
        self._running += 1

        def work() -> None:
            import subprocess

            code = EXIT_FAILED
            try:
                code = subprocess.call(words, stdin=stdin, stdout=sys.stderr)
            except OSError as error:
                tell(f"vitrail: {words[0]}: {error}")
            finally:
                if stdin is not None:
                    os.close(stdin)
                self._running -= 1
                self._respond(sender, handle, NOT_DONE if code else DONE, {})

        start_thread(work)
        return (handle,)


class BusService:
    """A service on its connection."""

    name = ""
    rules: Tuple[str, ...] = ()
    """Signals that it wants."""

    def __init__(self, bus: socket.socket) -> None:
        import threading

        self._bus = bus
        self._serial = 0
        self._lock = threading.Lock()
        self._data = b""
        self._fds: List[int] = []
        self.interfaces: List[BusInterface] = []
        self._awaited: Dict[int, OnReply] = {}
        """Handlers of replies and errors, by the serial of our call."""

    def run(self) -> None:
        """Own the name and answer calls.  Raises BusError."""
        try:
            self._serve()
        finally:
            self._close_fds()

    def _serve(self) -> None:
        """Register on the bus; receive and answer messages to the end."""
        self.call(BUS, "Hello")
        self.call(BUS, "RequestName", "su", (self.name, 4))
        for rule in self.rules:
            self.call(BUS, "AddMatch", "s", (rule,))
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._bus, 65536, FDS_OF_MESSAGE)
            except (TimeoutError, socket.timeout):  # one class since Python 3.10
                if any(one.busy() for one in self.interfaces):
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
                raise BusError("received more descriptors than a message can have")

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _take_messages(self) -> None:
        """Decode the received messages; answer calls, pass others on."""
        while True:
            size = message_size(self._data)
            if size is None or len(self._data) < size:
                return
            message = decode_message(self._data[:size])
            self._data = self._data[size:]
            count = message.fields.get(UNIX_FDS, 0)
            if not isinstance(count, int) or not 0 <= count <= len(self._fds):
                raise BusError("a message came with fewer descriptors than it declares")
            # guard: a call has the descriptors of its own message
            message.fds, self._fds = self._fds[:count], self._fds[count:]
            try:
                if message.kind == CALL:
                    self._answer(message)
                elif message.kind == SIGNAL and message.text(SENDER) == BUS_NAME:
                    if message.signature == "sss":
                        for one in self.interfaces:
                            one.forget_program(message.body[0])
                elif message.kind == SIGNAL:
                    self.handle_signal(message)
                else:
                    self.handle_reply(message)
            finally:
                for fd in message.fds:
                    os.close(fd)

    def call(
        self,
        target: Tuple[str, str, str],
        member: str,
        signature: str = "",
        body: Tuple[Any, ...] = (),
        on_reply: Optional[OnReply] = None,
    ) -> None:
        """Call a method of a destination's path and interface.

        ``on_reply`` handles the reply or error; only the thread that serves passes one.
        """
        fields: Dict[int, Any] = dict(zip((DESTINATION, PATH, INTERFACE), target))
        fields[MEMBER] = member
        serial = self._send(BusMessage(CALL, fields, signature, body))
        if on_reply is not None:
            self._awaited[serial] = on_reply

    def signal(
        self,
        interface: str,
        member: str,
        *body: object,
        path: str = "",
        program: str = "",
    ) -> None:
        """Send a signal of a row, from the path of a request, to all or one program."""
        known = BUS_OBJECTS[interface]
        fields: Dict[int, Any] = {PATH: path or known.path, INTERFACE: interface}
        fields[MEMBER] = member
        if program:
            fields[DESTINATION] = program
        self._send(BusMessage(SIGNAL, fields, known.rows[member].takes, body))

    def _send(self, message: BusMessage) -> int:
        """Send a message, with its descriptors; returns its serial."""
        with self._lock:
            self._serial += 1
            data, sent = encode_message(message, self._serial), 0
            if message.given:
                sent = socket.send_fds(self._bus, [data], message.given)
            self._bus.sendall(data[sent:])
            return self._serial

    # -- calls ------------------------------------------------------------------------

    def _answer(self, call: BusMessage) -> None:
        """Answer a call with its reply or error, then do what follows it."""
        back: Dict[int, Any] = {
            DESTINATION: call.text(SENDER),
            REPLY_SERIAL: call.serial,
        }
        try:
            reply = BusMessage(REPLY, back, *self.perform(call))
        except CallError as error:
            back[ERROR_NAME] = error.name
            reply = BusMessage(ERROR, back, "s", (str(error),))
        work = call.work
        if work is not None:

            def send_later() -> None:
                reply.body = work()
                self._send(reply)

            start_thread(send_later)
            return
        reply.given = call.given
        if call.given:
            back[UNIX_FDS] = len(call.given)
        try:
            if call.wants_reply:
                self._send(reply)
        finally:
            for fd in call.given:
                os.close(fd)
        for follow in call.after:
            follow()

    def handle_reply(self, message: BusMessage) -> None:
        """Pass a reply or an error on to what waits for it."""
        serial = int(message.fields.get(REPLY_SERIAL, 0))
        on_reply = self._awaited.pop(serial, None)
        if on_reply is not None:
            on_reply(message)

    def handle_signal(self, message: BusMessage) -> None:
        """Handle a signal of another program."""

    def perform(self, call: BusMessage) -> Tuple[str, Tuple[Any, ...]]:
        """Return the types and values of the reply to a call.  Raises CallError."""
        interface, known = call.text(INTERFACE), (call.text(MEMBER), call.signature)
        if (interface, *known) == (f"{BUS_NAME}.Peer", "Ping", ""):
            return "", ()
        if (interface, *known) == (f"{BUS_NAME}.Peer", "GetMachineId", ""):
            return "s", (read_machine_id(),)
        if (interface, *known) == (f"{BUS_NAME}.Introspectable", "Introspect", ""):
            return "s", (self._describe(call.text(PATH)),)
        if interface == f"{BUS_NAME}.Properties":
            return self._read_properties(call)
        for part in self.interfaces:
            if part.interface == interface and part.offered():
                row = BUS_OBJECTS[interface].rows.get(known[0])
                # guard: a guest's object answers the calls of its rows
                if row is not None and row.answers(known[1]):
                    return row.gives, part.answer(row, call)
        text = f"a sandbox of Vitrail does not provide {interface}.{known[0]}"
        raise CallError("DBus.Error.UnknownMethod", text)

    def _read_properties(self, call: BusMessage) -> Tuple[str, Tuple[Any, ...]]:
        """Return one property or all of an interface.  Raises CallError."""
        member, types = call.text(MEMBER), call.signature
        if types != {"Get": "ss", "GetAll": "s", "Set": "ssv"}.get(member):
            text = f"Properties.{member} does not take ({types})"
            raise CallError("DBus.Error.InvalidArgs", text)
        name = call.body[0]
        for part in self.interfaces:
            if part.interface == name and part.offered():
                values = part.properties()
                break
        else:
            text = f"a sandbox of Vitrail does not provide {name}"
            raise CallError("DBus.Error.UnknownInterface", text)
        if member == "GetAll":
            return "a{sv}", (values,)
        if call.body[1] not in values:
            text = f"{name} does not have the property {call.body[1]}"
            raise CallError("DBus.Error.UnknownProperty", text)
        if member == "Set":
            text = f"{name}.{call.body[1]} can only be read"
            raise CallError("DBus.Error.PropertyReadOnly", text)
        return "v", (values[call.body[1]],)

    def _describe(self, path: str) -> str:
        """Return the XML of an object: its interfaces, and the objects below it."""
        parts, children = [], set()
        below = path.rstrip("/") + "/"
        for part in self.interfaces:
            part_path = BUS_OBJECTS[part.interface].path
            if part_path == path:
                parts.append(part.described())
            elif part_path.startswith(below):
                children.add(part_path[len(below) :].split("/")[0])
        parts += [f'<node name="{name}"/>' for name in sorted(children)]
        return f"<node>{''.join(parts)}</node>"
