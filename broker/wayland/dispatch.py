"""From an opcode to the function that handles it.

Rooms register handlers with ``@request`` and ``@event``.  A message without
one is forwarded only if its interface stands in ``FORWARDED``; everything
else is a mistake of ours that building the table finds.  Forwarding checks
what it forwards: size, strings, objects, new ids and descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from broker.core.errors import InternalError, UpstreamError
from broker.wayland import wire
from broker.wayland.objects import Handler, Obj
from broker.wayland.signatures import Message, events_of, requests_of
from broker.wayland.signatures import event as find_event
from broker.wayland.signatures import request as find_request
from broker.wayland.wire import bad_message

if TYPE_CHECKING:
    from broker.wayland.filter import Filter

_ID = struct.Struct("=I")
Handlers = Mapping[str, Callable[..., None]]
"""Event name to handler, for objects of ours."""

_REQUESTS: dict[tuple[str, str], Handler] = {}
_EVENTS: dict[tuple[str, str], Handler] = {}

# Interfaces whose messages may go on unchanged but for their ids.
FORWARDED = frozenset(
    {
        "wl_callback",
        "wl_keyboard",
        "wl_output",
        "wl_pointer",
        "wl_seat",
        "wl_shm",
        "wl_surface",
        "wl_touch",
        "wp_cursor_shape_device_v1",
        "wp_cursor_shape_manager_v1",
        "wp_fractional_scale_manager_v1",
        "wp_fractional_scale_v1",
        "wp_presentation",
        "wp_presentation_feedback",
        "wp_single_pixel_buffer_manager_v1",
        "xdg_activation_token_v1",
        "xdg_activation_v1",
        "xdg_dialog_v1",
        "xdg_popup",
        "xdg_toplevel",
        "xdg_wm_base",
        "xdg_wm_dialog_v1",
        "zwp_confined_pointer_v1",
        "zwp_idle_inhibit_manager_v1",
        "zwp_idle_inhibitor_v1",
        "zwp_keyboard_shortcuts_inhibit_manager_v1",
        "zwp_keyboard_shortcuts_inhibitor_v1",
        "zwp_locked_pointer_v1",
        "zwp_pointer_constraints_v1",
        "zwp_pointer_gesture_hold_v1",
        "zwp_pointer_gesture_pinch_v1",
        "zwp_pointer_gesture_swipe_v1",
        "zwp_pointer_gestures_v1",
        "zwp_relative_pointer_manager_v1",
        "zwp_relative_pointer_v1",
        "zwp_text_input_manager_v3",
        "zwp_text_input_v3",
        "zxdg_decoration_manager_v1",
        "zxdg_output_manager_v1",
        "zxdg_output_v1",
        "zxdg_toplevel_decoration_v1",
    }
)

DESTRUCTORS = frozenset({"destroy", "release"})
"""Names of the requests that end an object, in every interface of ours."""

# Interfaces whose objects are a class of their own, by that class.
CLASSES: dict[str, type[Obj]] = {}


def request(
    interface: str, name: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a handler ``f(filter, object, *arguments)`` of a request.

    Objects arrive as ``Obj`` (None for null) of the right interface, new ids
    as numbers, strings as bytes, descriptors as the shell's value.
    """
    message = find_request(interface, name)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _REQUESTS[interface, name] = _taking_request(message, function)
        return function

    return register


def event(
    interface: str, name: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a handler ``f(filter, object, *arguments)`` of an event."""
    message = find_event(interface, name)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _EVENTS[interface, name] = _taking_event(message, function)
        return function

    return register


def raw_request(interface: str, name: str) -> Callable[[Handler], Handler]:
    """Register a handler that parses by itself (hot paths)."""

    def register(function: Handler) -> Handler:
        _REQUESTS[interface, find_request(interface, name).name] = function
        return function

    return register


def raw_event(interface: str, name: str) -> Callable[[Handler], Handler]:
    """Register a handler that parses by itself (hot paths)."""

    def register(function: Handler) -> Handler:
        _EVENTS[interface, find_event(interface, name).name] = function
        return function

    return register


# -- arguments -------------------------------------------------------------------


def _named_in(message: Message) -> list[tuple[int, str, bool]]:
    """Which arguments are objects: place, interface, whether null may be."""
    return [
        (i, a.interface, a.nullable)
        for i, a in enumerate(message.args)
        if a.kind == "o"
    ]


def _fds_in(message: Message) -> list[int]:
    return [i for i, a in enumerate(message.args) if a.kind == "h"]


def _taking_any_request(message: Message, function: Callable[..., None]) -> Handler:
    """For requests with strings, arrays or descriptors."""
    objects, fds = _named_in(message), _fds_in(message)
    read = wire.reader(message)

    def general(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
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


def _taking_request(message: Message, function: Callable[..., None]) -> Handler:
    objects = _named_in(message)
    words = message.words
    if words is None or message.fds:
        return _taking_any_request(message, function)
    want = 8 + words.size
    unpack = words.unpack_from

    def numbers(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
        if size != want:
            raise bad_message(obj.cid, f"{message}: {size} bytes instead of {want}")
        function(core, obj, *unpack(data, pos + 8))

    if not objects:
        return numbers

    def with_objects(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
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


def _taking_event(message: Message, function: Callable[..., None]) -> Handler:
    if message.words is not None and message.plain:
        unpack = message.words.unpack_from
        want = 8 + message.words.size

        def numbers(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
            if size != want:
                raise UpstreamError(f"the compositor sent {message} of {size} bytes")
            function(core, obj, *unpack(data, pos + 8))

        return numbers

    read = wire.reader(message)
    objects = [i for i, _, _ in _named_in(message)]
    fds = _fds_in(message)

    def general(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
        try:
            args = read(data, pos + 8, pos + size)
        except ValueError as error:
            raise UpstreamError(
                f"the compositor sent a bad {message}: {error}"
            ) from error
        for i in objects:
            args[i] = core.by_server.get(args[i])
        for i in fds:
            args[i] = core.take_server_fd()
        function(core, obj, *args)

    return general


# -- forwarding --------------------------------------------------------------------


def _forward_plain_request(message: Message, size_wanted: int) -> Handler:
    pack = _ID.pack

    def forward(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
        if size != size_wanted:
            raise bad_message(
                obj.cid, f"{message}: {size} bytes instead of {size_wanted}"
            )
        out = core.up.data
        out += pack(obj.sid)
        out += data[pos + 4 : pos + size]

    return forward


def _forward_request(message: Message) -> Handler:
    if message.name in DESTRUCTORS:
        return _taking_request(message, lambda core, obj: core.destroy(obj))
    if message.plain and message.words is not None:
        return _forward_plain_request(message, 8 + message.words.size)

    def forward(core: Filter, obj: Obj, *args: Any) -> None:  # noqa: ANN401
        core.forward_request(obj, message, args)

    return _taking_request(message, forward)


def _forward_plain_event(message: Message, size_wanted: int) -> Handler:
    pack = _ID.pack

    def forward(core: Filter, obj: Obj, data: bytes, pos: int, size: int) -> None:
        if size != size_wanted:
            raise UpstreamError(f"the compositor sent {message} of {size} bytes")
        out = core.down.data
        out += pack(obj.cid)
        out += data[pos + 4 : pos + size]

    return forward


def _forward_event(message: Message) -> Handler:
    if message.plain and message.words is not None:
        return _forward_plain_event(message, 8 + message.words.size)

    def forward(core: Filter, obj: Obj, *args: Any) -> None:  # noqa: ANN401
        core.forward_event(obj, message, args)

    return _taking_event(message, forward)


# -- tables ------------------------------------------------------------------------


def _too_new(message: Message) -> Handler:
    def refuse(_core: Filter, obj: Obj, _data: bytes, _pos: int, _size: int) -> None:
        raise bad_message(
            obj.cid, f"{message} needs version {message.since}, bound {obj.version}"
        )

    return refuse


@cache
def request_table(interface: str, version: int) -> tuple[Handler, ...]:
    """Handlers of an interface's requests, by opcode, at one bound version."""
    table: list[Handler] = []
    for message in requests_of(interface):
        handler = _REQUESTS.get((interface, message.name))
        if message.since > version:
            handler = _too_new(message)
        elif handler is None:
            if interface not in FORWARDED:
                raise InternalError(f"nothing handles {message}")
            handler = _forward_request(message)
        table.append(handler)
    return tuple(table)


@cache
def event_table(interface: str) -> tuple[Handler, ...]:
    """Handlers of an interface's events, by opcode."""
    table: list[Handler] = []
    for message in events_of(interface):
        handler = _EVENTS.get((interface, message.name))
        if handler is None:
            # An event that only we would send (local interfaces) never comes.
            handler = (
                _forward_event(message)
                if interface in FORWARDED
                else _taking_event(message, _swallow(message))
            )
        table.append(handler)
    return tuple(table)


def _swallow(message: Message) -> Callable[..., None]:
    """An event that goes nowhere: its descriptors close, its objects end."""

    def swallow(core: Filter, _obj: Obj, *args: Any) -> None:  # noqa: ANN401
        for argument, value in zip(message.args, args, strict=True):
            if argument.kind == "h":
                core.discard(value)
            elif argument.kind == "n":
                core.adopt_dead(value, argument.interface)

    return swallow


@cache
def dead_events(interface: str) -> tuple[Handler, ...]:
    """For an object that is destroyed or ours: every event is parsed, none goes on."""
    return tuple(_taking_event(m, _swallow(m)) for m in events_of(interface))


@cache
def template(
    interface: str, version: int
) -> tuple[type[Obj], tuple[Handler, ...], tuple[Handler, ...]]:
    """Class and both tables of an interface at a version."""
    cls = CLASSES.get(interface, Obj)
    return cls, request_table(interface, version), event_table(interface)


_own_tables: dict[tuple[str, int], tuple[Handler, ...]] = {}


def own_events(interface: str, handlers: Handlers) -> tuple[Handler, ...]:
    """For an object of ours: some events have handlers, the others go nowhere."""
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
def destructor(interface: str) -> Message:
    """The request that ends an object of this interface."""
    return next(m for m in requests_of(interface) if m.name in DESTRUCTORS)


def _gone(_core: Filter, obj: Obj, _data: bytes, _pos: int, _size: int) -> None:
    raise wire.ProtocolFault(1, wire.INVALID_OBJECT, f"invalid object {obj.cid}")


@cache
def dead_requests(interface: str) -> tuple[Handler, ...]:
    """For an object that the client destroyed: using it again is its error."""
    return (_gone,) * max(1, len(requests_of(interface)))
