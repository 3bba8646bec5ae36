"""From a row of the table of messages to the function that is called.

``handler_table.py`` has the table.  This module compiles its rows: each becomes a
function of the raw bytes, with the checks that the message's signature asks
for (size, strings, objects, new ids and descriptors) done once, here.

A worker compiles an interface when its first object is made, and keeps the result; the
fork server compiles nothing.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from broker.core.errors import InternalError, UpstreamError
from broker.jail.wayland.protocol import wire
from broker.jail.wayland.protocol.objects import Handler, ProtocolObject
from broker.jail.wayland.protocol.signatures import (
    MessageSignature,
    events_of,
    requests_of,
)
from broker.jail.wayland.protocol.wire import bad_message

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_ID = struct.Struct("=I")
Handlers = Mapping[str, Callable[..., None]]
"""Event name to handler, for objects of ours."""


class Action(enum.Enum):
    """Treatment of a message that has no handler."""

    FORWARD = "forwarded"
    """Checked (size, strings, objects, new ids, descriptors), given the other
    side's ids, and passed on.  A destructor ends the object on both sides."""
    LOCAL = "never received"
    """An event of an interface that the filter serves itself: the compositor
    has no such object.  Parsed and dropped if it comes all the same."""
    DROP = "dropped"
    """Parsed, its descriptors closed, its new objects ended; not passed on."""


FORWARD, LOCAL, DROP = Action.FORWARD, Action.LOCAL, Action.DROP


@dataclass(frozen=True, slots=True)
class Raw:
    """A handler that parses the message itself (hot paths)."""

    function: Callable[[Any, Any, bytes, int, int], None]


Rule = Action | Raw | Callable[..., None]
"""A function is ``f(filter, object, *arguments)``: objects arrive as ``ProtocolObject``
(None for null) of the right interface, new ids as numbers, strings as bytes,
descriptors as the shell's value."""
Rules = Mapping[tuple[str, str], Rule]
"""(interface, message) to what happens to it: one module's part of the table."""
Classes = Mapping[str, type[ProtocolObject]]
"""Interface to the class of its objects, where that is not ``ProtocolObject``."""

DESTRUCTORS = frozenset({"destroy", "release"})
"""Names of the requests that end an object, in every interface of ours."""


# -- arguments -------------------------------------------------------------------


def _named_in(message: MessageSignature) -> list[tuple[int, str, bool]]:
    """Return which arguments are objects: place, interface, whether null is allowed."""
    return [
        (i, a.interface, a.nullable)
        for i, a in enumerate(message.args)
        if a.kind == "o"
    ]


def _fds_in(message: MessageSignature) -> list[int]:
    return [i for i, a in enumerate(message.args) if a.kind == "h"]


def _taking_any_request(
    message: MessageSignature, function: Callable[..., None]
) -> Handler:
    """Compile a handler of requests with strings, arrays or descriptors."""
    objects, fds = _named_in(message), _fds_in(message)
    read = wire.reader(message)

    def general(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        try:
            args = read(data, pos + 8, pos + size)
        except ValueError as error:
            raise bad_message(obj.cid, f"{message}: {error}") from error
        for i, interface, nullable in objects:
            args[i] = core.client_object(obj, args[i], interface, nullable=nullable)
        for i in fds:
            args[i] = core.take_client_fd(obj)
        function(core, obj, *args)

    return general


def _taking_request(
    message: MessageSignature, function: Callable[..., None]
) -> Handler:
    """Return a decoder of a request's arguments that calls ``function``."""
    objects = _named_in(message)
    words = message.words
    if words is None or message.fds:
        return _taking_any_request(message, function)
    want = 8 + words.size
    unpack = words.unpack_from

    def numbers(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        if size != want:
            raise bad_message(obj.cid, f"{message}: {size} bytes instead of {want}")
        function(core, obj, *unpack(data, pos + 8))

    if not objects:
        return numbers

    def with_objects(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        if size != want:
            raise bad_message(obj.cid, f"{message}: {size} bytes instead of {want}")
        args: list[Any] = list(unpack(data, pos + 8))
        known = core.by_client
        for i, interface, nullable in objects:
            named = known.get(args[i])
            # The usual case without a call; whatever is unusual is judged there.
            if named is None or named.dead or named.interface != interface:
                named = core.client_object(obj, args[i], interface, nullable=nullable)
            args[i] = named
        function(core, obj, *args)

    return with_objects


def _taking_event(message: MessageSignature, function: Callable[..., None]) -> Handler:
    """Return a decoder of an event's arguments that calls ``function``."""
    if message.words is not None and message.plain:
        unpack = message.words.unpack_from
        want = 8 + message.words.size

        def numbers(
            core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
        ) -> None:
            if size != want:
                raise UpstreamError(
                    f"the compositor sent {message} with {size} bytes instead of {want}"
                )
            function(core, obj, *unpack(data, pos + 8))

        return numbers

    read = wire.reader(message)
    objects = [i for i, _, _ in _named_in(message)]
    fds = _fds_in(message)

    def general(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        try:
            args = read(data, pos + 8, pos + size)
        except ValueError as error:
            raise UpstreamError(
                f"the compositor sent an invalid {message}: {error}"
            ) from error
        for i in objects:
            args[i] = core.by_server.get(args[i])
        for i in fds:
            args[i] = core.take_server_fd()
        function(core, obj, *args)

    return general


# -- forwarding --------------------------------------------------------------------


def _forward_plain_request(message: MessageSignature, size_wanted: int) -> Handler:
    """Return a handler that passes a request of fixed size on as it is."""
    pack = _ID.pack

    def forward(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        if size != size_wanted:
            raise bad_message(
                obj.cid, f"{message}: {size} bytes instead of {size_wanted}"
            )
        out = core.up.data
        out += pack(obj.sid)
        out += data[pos + 4 : pos + size]

    return forward


def _forward_request(message: MessageSignature) -> Handler:
    """Return a handler that passes a request on, with ids of the server."""
    if message.name in DESTRUCTORS:
        return _taking_request(message, lambda core, obj: core.destroy(obj))
    if message.plain and message.words is not None:
        return _forward_plain_request(message, 8 + message.words.size)

    def forward(core: ClientState, obj: ProtocolObject, *args: Any) -> None:  # noqa: ANN401
        core.forward_request(obj, message, args)

    return _taking_request(message, forward)


def _forward_plain_event(message: MessageSignature, size_wanted: int) -> Handler:
    """Return a handler that passes an event of fixed size on as it is."""
    pack = _ID.pack

    def forward(
        core: ClientState, obj: ProtocolObject, data: bytes, pos: int, size: int
    ) -> None:
        if size != size_wanted:
            raise UpstreamError(
                f"the compositor sent {message} with {size} bytes instead of {size_wanted}"
            )
        out = core.down.data
        out += pack(obj.cid)
        out += data[pos + 4 : pos + size]

    return forward


def _forward_event(message: MessageSignature) -> Handler:
    """Return a handler that passes an event on, with ids of the client."""
    if message.plain and message.words is not None:
        return _forward_plain_event(message, 8 + message.words.size)

    def forward(core: ClientState, obj: ProtocolObject, *args: Any) -> None:  # noqa: ANN401
        core.forward_event(obj, message, args)

    return _taking_event(message, forward)


# -- tables ------------------------------------------------------------------------


def _too_new(message: MessageSignature) -> Handler:
    """Return a handler that refuses a message of a newer version."""

    def refuse(
        _core: ClientState, obj: ProtocolObject, _data: bytes, _pos: int, _size: int
    ) -> None:
        raise bad_message(
            obj.cid,
            f"{message} requires version {message.since}, bound is {obj.version}",
        )

    return refuse


def compiled_request(message: MessageSignature, rule: Rule, version: int) -> Handler:
    """Compile the handler of a request at one bound version of its interface."""
    if message.since > version:
        return _too_new(message)
    if isinstance(rule, Raw):
        return rule.function
    if rule is FORWARD:
        return _forward_request(message)
    if isinstance(rule, Action):
        raise InternalError(f"{message} is a request: {rule.value} is not supported")
    return _taking_request(message, rule)


def compiled_event(message: MessageSignature, rule: Rule) -> Handler:
    """Compile the handler of a compositor's event from its rule."""
    if isinstance(rule, Raw):
        return rule.function
    if rule is FORWARD:
        return _forward_event(message)
    if isinstance(rule, Action):
        return _taking_event(message, _swallow(message))
    return _taking_event(message, rule)


def _swallow(message: MessageSignature) -> Callable[..., None]:
    """Return an event handler that closes descriptors and ends new objects, only."""

    def swallow(core: ClientState, _obj: ProtocolObject, *args: Any) -> None:  # noqa: ANN401
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "h":
                core.discard(value)
            elif argument.kind == "n":
                core.adopt_dead(value, argument.interface)

    return swallow


@cache
def dead_events(interface: str) -> tuple[Handler, ...]:
    """For an object that is destroyed or ours: every event is parsed, none is forwarded."""
    return tuple(_taking_event(m, _swallow(m)) for m in events_of(interface))


_own_tables: dict[tuple[str, int], tuple[Handler, ...]] = {}


def own_events(interface: str, handlers: Handlers) -> tuple[Handler, ...]:
    """Compile event handlers of our own object; those without a handler are dropped."""
    key = (interface, id(handlers))
    if not handlers:
        return dead_events(interface)
    table = _own_tables.get(key)
    if table is None:
        # 'handlers' are module constants, so their identity is a fair key.
        table = tuple(
            _taking_event(m, handlers.get(m.name) or _swallow(m))
            for m in events_of(interface)
        )
        _own_tables[key] = table
    return table


@cache
def destructor(interface: str) -> MessageSignature:
    """The request that ends an object of this interface."""
    return next(m for m in requests_of(interface) if m.name in DESTRUCTORS)


def _gone(
    _core: ClientState, obj: ProtocolObject, _data: bytes, _pos: int, _size: int
) -> None:
    raise wire.ProtocolFault(1, wire.INVALID_OBJECT, f"invalid object {obj.cid}")


@cache
def dead_requests(interface: str) -> tuple[Handler, ...]:
    """For an object that the client destroyed: using it again is its error."""
    return (_gone,) * max(1, len(requests_of(interface)))
