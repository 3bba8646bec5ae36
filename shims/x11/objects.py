"""Wayland objects of both sides: ids, new objects, and messages that pass unchanged.

The compositor wants a client's ids without gaps, so objects of Xwayland and of the bridge
share one counter and one list of free ids there.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from shims.x11.message_table import BY_NAME, EVENTS, REQUESTS, WireMessage
from shims.x11.wire import BridgeError, WireEnd

FIRST_OF_SERVER = 0xFF000000


class WaylandObject:
    """An object: ``down`` is Xwayland's id, ``up`` the compositor's, 0 for none."""

    __slots__ = ("data", "dead", "down", "interface", "up", "version")

    def __init__(
        self, interface: str, version: int, down: int, up: int, data: object = None
    ) -> None:
        self.interface, self.version = interface, version
        self.down, self.up = down, up
        self.data: Any = data
        self.dead = False
        """Whether its destructor was sent, or its side has gone."""


def ignored(*_: object) -> None:
    """Handle an event that Xwayland is not to know."""


class Relay:
    """Both connections, their objects, and who handles which message.

    ``events`` (from the compositor) and ``requests`` (from Xwayland) have handlers by
    (interface, message), which take the object and the values; what has none is passed on.
    Input events wait in order while ``hold`` counts.
    """

    def __init__(self) -> None:
        self.up, self.down = WireEnd("the compositor"), WireEnd("Xwayland")
        self.by_up: Dict[int, WaylandObject] = {}
        self.by_down: Dict[int, WaylandObject] = {}
        self.events: Dict[Tuple[str, str], Callable[..., None]] = {}
        self.requests: Dict[Tuple[str, str], Callable[..., None]] = {}
        self._free: List[int] = []
        self._next = 2
        self._held = 0
        self._waiting: List[Tuple[WaylandObject, str, Sequence[object]]] = []
        self.display = WaylandObject("wl_display", 1, 1, 1)
        self.by_up[1] = self.by_down[1] = self.display
        self.hear("wl_display", delete_id=self._delete_id, error=self._error)

    def hear(self, interface: str, **handlers: Callable[..., None]) -> None:
        """Have the compositor's events of an interface handled, by name."""
        for name, handler in handlers.items():
            self.events[interface, name] = handler

    def serve(self, interface: str, **handlers: Callable[..., None]) -> None:
        """Have Xwayland's requests to an interface handled."""
        for name, handler in handlers.items():
            self.requests[interface, name] = handler

    # -- ids and objects

    def new_id(self) -> int:
        """Return a free id of the compositor's side."""
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def make(self, interface: str, version: int, data: object = None) -> WaylandObject:
        """Make an object that only the compositor has, beside us."""
        made = WaylandObject(interface, version, 0, self.new_id(), data)
        self.by_up[made.up] = made
        return made

    def create(
        self, maker: WaylandObject, request: str, *values: object, data: object = None
    ) -> WaylandObject:
        """Make an object by a request; its id goes where the protocol has it."""
        message = BY_NAME[">", maker.interface, request]
        at = message.kinds.index("n")
        made = self.make(message.types[at], maker.version, data)
        self.ask(maker, request, *values[:at], made, *values[at:])
        return made

    def adopt(
        self, down: int, interface: str, version: int, *, local: bool = False
    ) -> WaylandObject:
        """Make an object that Xwayland asked for; a local one stays unknown above."""
        if down in self.by_down or not 0 < down < FIRST_OF_SERVER:
            raise BridgeError(f"Xwayland uses the id {down} again")
        made = WaylandObject(interface, version, down, 0 if local else self.new_id())
        self.by_down[down] = made
        if made.up:
            self.by_up[made.up] = made
        return made

    def raise_up(self, local: WaylandObject) -> None:
        """Give a local object an id at the compositor."""
        local.up = self.new_id()
        self.by_up[local.up] = local

    def known(self, down: int, interface: str = "") -> WaylandObject:
        """Return Xwayland's object.  Raises BridgeError."""
        found = self.by_down.get(down)
        if found is None or (interface and found.interface != interface):
            what = interface or "any"
            raise BridgeError(f"Xwayland names object {down}, not a {what}")
        return found

    def forget(self, local: WaylandObject) -> None:
        """Xwayland destroyed an object that only it and we have."""
        local.dead = True
        if self.by_down.pop(local.down, None) is not None:
            self.tell(self.display, "delete_id", local.down)

    def release(self, made: Optional[WaylandObject], name: str = "destroy") -> None:
        """Destroy an object of the compositor's, if there is one."""
        if made is not None and not made.dead:
            self.ask(made, name)
            made.dead = True

    # -- messages

    def ask(self, made: Optional[WaylandObject], name: str, *values: object) -> None:
        """Send a request, if there is such an object; others are given as they are."""
        if made is None:
            return
        numbers = [v.up if isinstance(v, WaylandObject) else v for v in values]
        self.up.put(made.up, BY_NAME[">", made.interface, name], numbers)

    def tell(self, made: WaylandObject, name: str, *values: object) -> None:
        """Send Xwayland an event."""
        numbers = [v.down if isinstance(v, WaylandObject) else v for v in values]
        self.down.put(made.down, BY_NAME["<", made.interface, name], numbers)

    def input(self, made: WaylandObject, name: str, *values: object) -> None:
        """Send Xwayland an event of a pointer, keyboard or finger, in its turn."""
        if self._held:
            self._waiting.append((made, name, values))
        elif not any(v.dead for v in (made, *values) if isinstance(v, WaylandObject)):
            self.tell(made, name, *values)

    def hold(self) -> None:
        """Let input wait; as many ``let_go`` end it."""
        self._held += 1

    def let_go(self) -> None:
        """Send the input that waited."""
        self._held -= 1
        if not self._held:
            waiting, self._waiting = self._waiting, []
            for made, name, values in waiting:
                self.input(made, name, *values)

    def from_compositor(self) -> None:
        """Handle all whole events.  Raises BridgeError."""
        for oid, opcode, body in self.up.messages():
            made = self.by_up.get(oid)
            if made is None and oid >= FIRST_OF_SERVER:
                continue  # an offer that we have destroyed
            if made is None:
                raise BridgeError(f"an event for object {oid}, which does not exist")
            message = _message(EVENTS, made, opcode, self.up)
            values = self.up.values(message, body)
            handler = self.events.get((made.interface, message.name))
            if handler is not None:
                handler(made, *values)
            elif made.down and not made.dead:
                self._pass_event(made, message, values)
            else:
                _close(message, values)

    def from_xwayland(self) -> None:
        """Handle all whole requests.  Raises BridgeError."""
        for oid, opcode, body in self.down.messages():
            made = self.known(oid)
            message = _message(REQUESTS, made, opcode, self.down)
            values = self.down.values(message, body)
            handler = self.requests.get((made.interface, message.name))
            if handler is not None:
                handler(made, *values)
            else:
                self.pass_request(made, message, values)

    def _pass_event(
        self, made: WaylandObject, message: WireMessage, values: List[Any]
    ) -> None:
        numbers = []
        for kind, value in zip(message.kinds, values):
            if kind == "o" and value:
                other = self.by_up.get(value)
                if other is None or not other.down or other.dead:
                    return
                numbers.append(other.down)
            else:
                numbers.append(value)
        self.down.put(made.down, message, numbers)

    def pass_request(
        self, made: WaylandObject, message: WireMessage, values: List[Any]
    ) -> None:
        """Send a request of Xwayland's up, with ids of that side."""
        last = message.name in ("destroy", "release")
        if not made.up:
            _close(message, values)
            if last:
                self.forget(made)
            return
        numbers = []
        for kind, of, value in zip(message.kinds, message.types, values):
            if kind == "n":
                numbers.append(self.adopt(value, of, made.version).up)
            elif kind == "o" and value:
                numbers.append(self.known(value, of).up)
                if not numbers[-1]:
                    return
            else:
                numbers.append(value)
        self.up.put(made.up, message, numbers)
        made.dead = made.dead or last

    def _delete_id(self, _display: WaylandObject, oid: int) -> None:
        made = self.by_up.pop(oid, None)
        if made is None or made is self.display:
            raise BridgeError(f"object {oid} ended, which does not exist")
        self._free.append(oid)
        if made.down and self.by_down.get(made.down) is made:
            del self.by_down[made.down]
            self.tell(self.display, "delete_id", made.down)

    def _error(self, _display: WaylandObject, oid: int, code: int, text: str) -> None:
        made = self.by_up.get(oid)
        what = made.interface if made else f"object {oid}"
        raise BridgeError(f"the compositor refused {what} ({code}): {text[:300]}")


def _message(
    table: Dict[str, List[WireMessage]],
    made: WaylandObject,
    opcode: int,
    sender: WireEnd,
) -> WireMessage:
    messages = table.get(made.interface, [])
    if opcode >= len(messages):
        raise BridgeError(f"{sender.peer} sent {made.interface} message {opcode}")
    return messages[opcode]


def _close(message: WireMessage, values: Sequence[Any]) -> None:
    for kind, value in zip(message.kinds, values):
        if kind == "h":
            os.close(value)
