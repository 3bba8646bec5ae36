"""Wayland objects of both sides: ids, new objects, and messages that pass unchanged.

The compositor wants a client's ids without gaps, so objects of Xwayland and of the bridge
share one counter and one list of free ids there.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Optional, Sequence

from shims.x11.message_table import BY_NAME, WireMessage
from shims.x11.wire import BridgeError, WireEnd

FIRST_OF_SERVER = 0xFF000000


class WireObject:
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


Maybe = Optional[WireObject]


def ignored(*_: object, **__: object) -> None:
    """Handle an event that Xwayland is not to know, and answers that nobody needs."""


class Relay:
    """Both connections, their objects, and who handles which message.

    Handlers of events (from the compositor) and requests (from Xwayland) take the object
    and the values, among which objects are objects; a message without one is passed on.
    Events for Xwayland wait in order while ``hold`` counts.
    """

    def __init__(self) -> None:
        self.up, self.down = WireEnd("the compositor"), WireEnd("Xwayland")
        self.by_up: dict[int, WireObject] = {}
        self.by_down: dict[int, WireObject] = {}
        self._handlers: dict[tuple[str, str], Callable[..., None]] = {}
        self._free: list[int] = []
        self._next = 2
        self._held = 0
        self._waiting: list[tuple[WireObject, str, Sequence[object]]] = []
        self._gone = WireObject("", 1, 0, 0)
        """What an event names that the compositor no longer has, or never had."""
        self._gone.dead = True
        self.display = WireObject("wl_display", 1, 1, 1)
        self.by_up[1] = self.by_down[1] = self.display
        self.attach(self)

    def attach(self, part: object) -> None:
        """Have messages handled by the methods of a part that are named after them.

        ``_wl_pointer_enter`` gets each wl_pointer.enter.
        """
        for message in BY_NAME.values():
            handler = getattr(part, f"_{message.interface}_{message.name}", None)
            if handler is not None:
                self._handlers[message.interface, message.name] = handler

    # -- ids and objects

    def make(
        self, interface: str, version: int, data: object = None, down: int = 0
    ) -> WireObject:
        """Make an object that the compositor has, and Xwayland if it has an id there."""
        made = self.make_local(interface, version, down, data)
        self.raise_up(made)
        return made

    def make_local(
        self, interface: str, version: int, down: int, data: object = None
    ) -> WireObject:
        """Create an object that Xwayland knows and the compositor does not.

        Raises BridgeError.
        """
        if down in self.by_down or down >= FIRST_OF_SERVER:
            raise BridgeError(f"Xwayland reused the id {down}")
        made = WireObject(interface, version, down, 0, data)
        if down:
            self.by_down[down] = made
        return made

    def create(
        self, maker: WireObject, request: str, *values: object, **more: object
    ) -> WireObject:
        """Make an object by a request; its id goes where the protocol has it.

        ``more`` is for ``make``.
        """
        message = BY_NAME[">", maker.interface, request]
        at = message.kinds.index("n")
        made = self.make(message.types[at], maker.version, **more)  # type: ignore[arg-type]
        self.ask(maker, request, *values[:at], made, *values[at:])
        return made

    def raise_up(self, local: WireObject) -> None:
        """Give a local object a free id at the compositor."""
        if not self._free:
            self._free.append(self._next)
            self._next += 1
        local.up = self._free.pop()
        self.by_up[local.up] = local

    def known(self, down: int, interface: str = "") -> WireObject:
        """Return the object of an Xwayland id.

        Raises BridgeError for another interface.
        """
        found = self.by_down.get(down)
        if found is None or (interface and found.interface != interface):
            what = interface or "any"
            raise BridgeError(f"object {down} of Xwayland is not of type {what}")
        return found

    def forget(self, local: WireObject) -> None:
        """End an object that the compositor does not have, or no longer."""
        local.dead = True
        if self.by_down.get(local.down) is local:
            del self.by_down[local.down]
            self.tell(self.display, "delete_id", local.down)

    def release(self, made: Maybe) -> None:
        """Destroy an object of the compositor's, if there is one."""
        if made is not None and not made.dead:
            self.ask(made, "destroy")
            made.dead = True

    def close(self) -> None:
        """Close descriptors that wait in either direction, or for their turn."""
        for made, name, values in self._waiting:
            _close(BY_NAME["<", made.interface, name], values)
        self.up.close()
        self.down.close()

    # -- messages

    def ask(self, made: Maybe, name: str, *values: object) -> None:
        """Send a request, if there is such an object; others are given as they are."""
        if made is None:
            return
        numbers = [v.up if isinstance(v, WireObject) else v for v in values]
        self.up.put(made.up, BY_NAME[">", made.interface, name], numbers)

    def tell(self, made: WireObject, name: str, *values: object) -> None:
        """Send Xwayland an event."""
        numbers = [v.down if isinstance(v, WireObject) else v for v in values]
        self.down.put(made.down, BY_NAME["<", made.interface, name], numbers)

    def pass_event(self, made: WireObject, name: str, *values: object) -> None:
        """Send Xwayland an event in its turn, if it has all objects of it."""
        about = [v for v in (made, *values) if isinstance(v, WireObject)]
        if self._held:
            self._waiting.append((made, name, values))
        elif any(v.dead or not v.down for v in about):
            _close(BY_NAME["<", made.interface, name], values)
        else:
            self.tell(made, name, *values)

    def hold(self) -> None:
        """Let events wait; as many ``let_go`` end it."""
        self._held += 1

    def let_go(self) -> None:
        """Release one hold on events; after the last, send those that waited."""
        self._held -= 1
        if not self._held:
            waiting, self._waiting = self._waiting, []
            for made, name, values in waiting:
                self.pass_event(made, name, *values)

    def handle(self) -> None:
        """Handle all whole messages of both sides.  Raises BridgeError."""
        for oid, opcode, body in self.down.messages():
            made = self.known(oid)
            if made.dead:
                raise BridgeError(f"Xwayland used a destroyed {made.interface}")
            self._handle(made, ">", opcode, body)
        for oid, opcode, body in self.up.messages():
            found = self.by_up.get(oid)
            if found is not None:
                self._handle(found, "<", opcode, body)
            elif oid < FIRST_OF_SERVER:  # not an offer that we have destroyed
                raise BridgeError(f"received an event for the unknown object {oid}")

    def _handle(self, made: WireObject, mark: str, opcode: int, body: bytes) -> None:
        """Handle or pass on a message, with ids of the other side."""
        asked = mark == ">"
        end = self.down if asked else self.up
        message, values = end.decode(mark, made.interface, opcode, body)
        for at, kind, of in message.objects:
            if kind == "O" and not values[at]:
                values[at] = None
            elif asked:
                values[at] = self.known(values[at], of)
            else:
                found = self.by_up.get(values[at], self._gone)
                values[at] = found if of in ("", found.interface) else self._gone
        handler = self._handlers.get((made.interface, message.name))
        if handler is not None:
            handler(made, *values)
        elif asked:
            self._pass_request(made, message, values)
        else:
            self.pass_event(made, message.name, *values)

    def _pass_request(
        self, made: WireObject, message: WireMessage, values: list[Any]
    ) -> None:
        """Send a request of Xwayland's up, with ids of that side."""
        last = message.name in ("destroy", "release")
        if not made.up:
            _close(message, values)
            if last:
                self.forget(made)
            return
        if any(isinstance(v, WireObject) and not v.up for v in values):
            return
        for at, (kind, of) in enumerate(zip(message.kinds, message.types)):
            if kind == "n":
                values[at] = self.make(of, made.version, None, values[at])
        self.ask(made, message.name, *values)
        made.dead = last

    def _wl_display_delete_id(self, _: WireObject, oid: int) -> None:
        made = self.by_up.pop(oid, None)
        if made is None or made is self.display:
            raise BridgeError(f"the compositor deleted the unknown object {oid}")
        self._free.append(oid)
        self.forget(made)

    def _wl_display_error(self, _: Maybe, of: WireObject, code: int, text: str) -> None:
        what = of.interface or "a destroyed object"
        raise BridgeError(f"the compositor rejected {what} ({code}): {text[:300]}")


def _close(message: WireMessage, values: Sequence[Any]) -> None:
    for kind, value in zip(message.kinds, values):
        if kind == "h":
            os.close(value)
