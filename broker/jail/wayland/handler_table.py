"""The table of messages: what happens to each request and each event.

Every module of handlers ends in its part of the table, as literals, so this
file is the one place that knows them all.  The parts are joined and compared
with the frozen protocol tables at import: a message that no module answers
for, one that two do, and one that does not exist are each an error before
the first client connects.  Nothing is registered by importing a module.

The fork server in its jail imports this; a worker compiles the interfaces that it uses.
"""

from __future__ import annotations

from functools import cache

from broker.jail.wayland.gpu import dmabuf
from broker.jail.wayland.handlers import (
    attention,
    buffers,
    constraints,
    cursor,
    drag,
    exported_windows,
    forwarded,
    outputs,
    popups,
    registry,
    seat,
    selection,
    subsurfaces,
    surfaces,
    text_input,
    windows,
)
from broker.jail.wayland.handlers.extensions import (
    decorations,
    dialogs,
    gestures,
    icons,
    kde_decorations,
    surface_hints,
    tablets,
)
from broker.jail.wayland.protocol.dispatch import compiled_event, compiled_request
from broker.jail.wayland.protocol.joined import complete, joined
from broker.jail.wayland.protocol.objects import Handler, ProtocolObject
from broker.jail.wayland.protocol.signatures import events_of, requests_of

_MODULES = (
    attention,
    buffers,
    constraints,
    cursor,
    decorations,
    dialogs,
    dmabuf,
    drag,
    exported_windows,
    forwarded,
    gestures,
    icons,
    kde_decorations,
    outputs,
    popups,
    registry,
    seat,
    selection,
    subsurfaces,
    surface_hints,
    surfaces,
    tablets,
    text_input,
    windows,
)


REQUESTS = complete(joined(m.REQUESTS for m in _MODULES), requests_of)
EVENTS = complete(joined(m.EVENTS for m in _MODULES), events_of)
CLASSES = joined(m.CLASSES for m in _MODULES)
"""Interfaces whose objects have a separate class, by that class."""


@cache
def request_table(interface: str, version: int) -> tuple[Handler, ...]:
    """Handlers of an interface's requests, by opcode, at one bound version."""
    return tuple(
        compiled_request(m, REQUESTS[interface, m.name], version)
        for m in requests_of(interface)
    )


@cache
def event_table(interface: str) -> tuple[Handler, ...]:
    """Handlers of an interface's events, by opcode."""
    return tuple(
        compiled_event(m, EVENTS[interface, m.name]) for m in events_of(interface)
    )


@cache
def template(
    interface: str, version: int
) -> tuple[type[ProtocolObject], tuple[Handler, ...], tuple[Handler, ...]]:
    """Class and both tables of an interface at a version."""
    cls = CLASSES.get(interface, ProtocolObject)
    return cls, request_table(interface, version), event_table(interface)
