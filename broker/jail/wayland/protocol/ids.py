"""The object tables of both sides: ids, new objects, ends.

The base of ``Filter``.  The compositor's side wants ids without gaps and uses
them again after delete_id; the client's ids are its choice within the same
rule.  A destroyed object stays as dead until the compositor confirms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import dispatch, emit, wire
from broker.jail.wayland.protocol.objects import Handler, ProtocolObject
from broker.jail.wayland.protocol.signatures import MessageSignature
from broker.jail.wayland.protocol.wire import SERVER_IDS, Fd, Outgoing, ProtocolFault
from broker.jail.wayland.sandbox import Sandbox, Usage


class HandlerTables(Protocol):
    """The handler of each message of an interface (see ``handler_table.py``).

    Given to the table of objects, which every handler uses: importing it from here
    would be a cycle through all handlers.
    """

    def request_table(self, interface: str, version: int) -> tuple[Handler, ...]:
        """Handlers of an interface's requests, by opcode, at one bound version."""

    def event_table(self, interface: str) -> tuple[Handler, ...]:
        """Handlers of an interface's events, by opcode."""

    def template(
        self, interface: str, version: int
    ) -> tuple[type[ProtocolObject], tuple[Handler, ...], tuple[Handler, ...]]:
        """Class and both tables of an interface at a version."""


class ObjectTable:
    """Objects by their id on either side, and the queues to both."""

    def __init__(self, sandbox: Sandbox, tables: HandlerTables) -> None:
        self._tables = tables
        self.sandbox = sandbox
        self.usage = Usage(sandbox)
        self.up = Outgoing()
        self.down = Outgoing()
        self.by_client: dict[int, ProtocolObject] = {}
        self.by_server: dict[int, ProtocolObject] = {}
        self._free_sids: list[int] = []
        self._next_sid = 2
        self._next_cid = 2
        self._free_server_cids: list[int] = []
        self._next_server_cid = SERVER_IDS
        self._listeners = 0

    def too_much(self, what: str) -> ProtocolFault:
        """A limit of this connection is reached."""
        self.sandbox.refused["connection"] += 1
        return ProtocolFault(1, wire.NO_MEMORY, what)

    def arm(self, obj: ProtocolObject) -> None:
        """Give an object the handlers of its interface and version."""
        obj.requests = self._tables.request_table(obj.interface, obj.version)
        obj.events = self._tables.event_table(obj.interface)

    def make(
        self, untrusted_cid: int, interface: str, version: int, *, server: bool = True
    ) -> Any:  # noqa: ANN401 - the class depends on the interface
        """Create an object that the client names, with an id at the compositor or none.

        Raises ProtocolFault when the id is in use, not the next one, or not
        the client's to give.
        """
        cid = untrusted_cid
        # guard: new ids
        if cid in self.by_client or not 1 < cid <= self._next_cid:
            raise ProtocolFault(1, wire.INVALID_OBJECT, f"invalid new id {cid}")
        # guard: objects bounded
        if len(self.by_client) >= limits.WAYLAND_OBJECTS:
            raise self.too_much("too many objects")
        if interface in _LISTENERS:
            self._listen(_LISTENERS[interface])
        self.usage.take("objects", 1)
        if cid == self._next_cid:
            self._next_cid += 1
        cls, requests, events = self._tables.template(interface, version)
        obj = cls(interface, version)
        obj.cid = cid
        obj.requests = requests
        obj.events = events
        self.by_client[cid] = obj
        if server:
            self.give_sid(obj)
        return obj

    def _listen(self, number: int) -> None:
        """Count an object that receives input or screens.

        Limited, as events multiply.
        """
        # guard: listeners bounded
        if self._listeners + number > limits.WAYLAND_LISTENERS:
            raise self.too_much("too many objects that receive input")
        # A compositor looks at those of other connections, too.
        # guard: listeners of a sandbox bounded
        self.usage.take("listeners", number)
        self._listeners += number

    def make_server_side(self, interface: str, version: int) -> Any:  # noqa: ANN401 - see make
        """Create an object that we name to the client (an offer)."""
        if self._free_server_cids:
            cid = self._free_server_cids.pop()
        else:
            cid = self._next_server_cid
            self._next_server_cid += 1
        if len(self.by_client) >= limits.WAYLAND_OBJECTS:
            raise self.too_much("too many objects")
        self.usage.take("objects", 1)
        obj = self._tables.template(interface, version)[0](interface, version)
        obj.cid = cid
        self.arm(obj)
        self.by_client[cid] = obj
        return obj

    def give_sid(self, obj: ProtocolObject) -> int:
        """Give an object its id at the compositor, just before its request is sent.

        The compositor wants new ids without gaps, so an object whose request
        is held gets its id only when that is sent (border.md 5.1).
        """
        if self._free_sids:
            sid = self._free_sids.pop()
        else:
            sid = self._next_sid
            self._next_sid += 1
        obj.sid = sid
        self.by_server[sid] = obj
        return sid

    def replace_sid(self, obj: ProtocolObject) -> None:
        """Give an object another id at the compositor; the former one was destroyed.

        The former one stays in use until the compositor confirms, and the
        client receives nothing of it.
        """
        former = ProtocolObject(obj.interface, obj.version)
        former.sid, former.dead = obj.sid, True
        former.events = dispatch.dead_events(obj.interface)
        self.by_server[obj.sid] = former
        self.give_sid(obj)

    def own(self, interface: str, obj: ProtocolObject | None = None) -> ProtocolObject:
        """Our new object; its events are dropped unless it sets a handler."""
        made = obj if obj is not None else ProtocolObject(interface, 1)
        made.events = dispatch.dead_events(interface)
        self.give_sid(made)
        return made

    def adopt(
        self, sid: int, obj: ProtocolObject, own_handlers: dispatch.Handlers
    ) -> None:
        """Register an object that the compositor named; the client does not know it.

        Raises UpstreamError.
        """
        if sid < SERVER_IDS or not self.by_server.get(sid, _DEAD).dead:
            raise UpstreamError(
                f"the compositor created an object with the id {sid}, which is in use or the client's"
            )
        if len(self.by_server) > 2 * limits.WAYLAND_OBJECTS:
            raise UpstreamError("the compositor created too many objects")
        obj.sid = sid
        obj.events = dispatch.own_events(obj.interface, own_handlers)
        self.by_server[sid] = obj

    def adopt_dead(self, sid: int, interface: str) -> None:
        """An object made by an event that goes nowhere."""
        obj = ProtocolObject(interface, 1)
        self.adopt(sid, obj, {})
        obj.dead = True

    def bury(self, obj: ProtocolObject) -> None:
        """The client may use the object no more; nothing is sent yet."""
        obj.dead = True
        # guard: dead objects
        obj.requests = dispatch.dead_requests(obj.interface)
        obj.events = dispatch.dead_events(obj.interface)

    def destroy(self, obj: ProtocolObject) -> None:
        """Forward an object's destructor.

        Its id is free once the compositor says so.
        """
        message = dispatch.destructor(obj.interface)
        self.bury(obj)
        if obj.sid:
            self.up.data += emit.packer(message)(obj.sid)
        if obj.cid >= SERVER_IDS:
            self._free_client(obj)
        elif not obj.sid:
            self.drop_local(obj)

    def drop_local(self, obj: ProtocolObject) -> None:
        """End an object that only the client knows; confirm it at once."""
        self.bury(obj)
        cid = obj.cid
        self._free_client(obj)
        if cid < SERVER_IDS:
            self.down.data += emit.delete_id(1, cid)

    def end_own(self, obj: ProtocolObject) -> None:
        """Destroy our object, or an object that the compositor made for us."""
        self.up.data += emit.packer(dispatch.destructor(obj.interface))(obj.sid)
        obj.dead = True
        obj.events = dispatch.dead_events(obj.interface)

    def _free_client(self, obj: ProtocolObject) -> None:
        if self.by_client.pop(obj.cid, None) is not None:
            self._forget(obj)
            if obj.cid >= SERVER_IDS:
                self._free_server_cids.append(obj.cid)

    def _forget(self, obj: ProtocolObject) -> None:
        """The client has an object less."""
        self.usage.give("objects", 1)
        if obj.interface in _LISTENERS and obj.cid < SERVER_IDS:
            self._listeners -= _LISTENERS[obj.interface]
            self.usage.give("listeners", _LISTENERS[obj.interface])

    def deleted(self, sid: int) -> None:
        """Handle wl_display.delete_id: free the id on both sides.

        Raises UpstreamError.
        """
        obj = self.by_server.pop(sid, None)
        if obj is None or sid >= SERVER_IDS:
            raise UpstreamError(
                f"the compositor deleted object {sid}, which is unknown or its own"
            )
        self._free_sids.append(sid)
        if obj.cid:
            cid = obj.cid
            obj.dead = True
            if self.by_client.pop(cid, None) is not None:
                self._forget(obj)
                self.down.data += emit.delete_id(1, cid)

    def client_object(
        self, by: ProtocolObject, untrusted_cid: int, interface: str, *, nullable: bool
    ) -> ProtocolObject | None:
        """Return the object that a request names.

        Raises ProtocolFault if it may not.
        """
        if not untrusted_cid:
            if nullable:
                return None
            raise wire.bad_message(
                by.cid, f"a null object where {interface or 'an object'} is required"
            )
        obj = self.by_client.get(untrusted_cid)
        # guard: object type
        if obj is None or obj.dead or (interface and obj.interface != interface):
            raise ProtocolFault(
                1 if obj is None else by.cid,
                wire.INVALID_OBJECT,
                f"object {untrusted_cid} is not of type {interface or 'object'}",
            )
        return obj

    # -- forwarding -------------------------------------------------------------------------

    def forward_request(
        self, obj: ProtocolObject, message: MessageSignature, args: Sequence[Any]
    ) -> None:
        """Send a request on with its objects and new ids in the compositor's space.

        A request that names an inert object is not sent; what it makes is inert, too.
        """
        named = [
            obj,
            *(
                v
                for a, v in zip(message.args, args, strict=True)
                if a.kind == "o" and v is not None
            ),
        ]
        # guard: no request names an inert object
        alive = all(one.sid and not one.inert for one in named)
        values: list[Any] = []
        fds: list[Fd] = []
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "o":
                values.append(value.sid if value is not None else 0)
            elif argument.kind == "n":
                made = self.make(value, argument.interface, obj.version, server=alive)
                made.inert = not alive
                values.append(made.sid)
            elif argument.kind == "h":
                fds.append(value)
            else:
                values.append(value)
        if alive:
            self.up.add(emit.packer(message)(obj.sid, *values), fds)

    def forward_event(
        self, obj: ProtocolObject, message: MessageSignature, args: Sequence[Any]
    ) -> None:
        """Send an event on; an event that names our object is not the client's."""
        values: list[Any] = []
        fds: list[Fd] = []
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "o":
                if value is not None and not value.cid:
                    return
                values.append(value.cid if value is not None else 0)
            elif argument.kind == "n":
                raise InternalError(f"{message} creates objects and requires a handler")
            elif argument.kind == "h":
                fds.append(value)
            else:
                values.append(value)
        self.down.add(emit.packer(message)(obj.cid, *values), fds)


# With the wl_pointer that is made for it (handlers/constraints.py).
# guard: a relative pointer counts with its pointer
_RELATIVE = 2
_LISTENERS = {
    "wl_data_device": 1,
    "wl_keyboard": 1,
    "wl_output": 1,
    "wl_pointer": 1,
    "wl_touch": 1,
    "zwp_pointer_gesture_hold_v1": 1,
    "zwp_pointer_gesture_pinch_v1": 1,
    "zwp_pointer_gesture_swipe_v1": 1,
    "zwp_primary_selection_device_v1": 1,
    "zwp_relative_pointer_v1": _RELATIVE,
    "zwp_tablet_seat_v2": 1,
    "zwp_text_input_v3": 1,
}
"""Interfaces whose objects receive input or screens: how many such objects each is."""

_DEAD = ProtocolObject("", 0)
_DEAD.dead = True
