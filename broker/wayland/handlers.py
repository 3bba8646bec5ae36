"""The table of messages: what happens to each request and each event.

Every module of handlers ends in its part of the table, as literals, so this
file is the one place that knows them all.  The parts are joined and compared
with the frozen protocol tables at import: a message that no module answers
for, one that two do, and one that does not exist are each an error before
the first client connects.  Nothing is registered by importing a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from broker.core.errors import InternalError
from broker.wayland import (
    attention,
    buffers,
    constraints,
    cursor,
    drag,
    forwarded,
    outputs,
    popups,
    registry,
    seat,
    selection,
    surfaces,
    windows,
)
from broker.wayland.dispatch import Rules, compiled_event, compiled_request
from broker.wayland.objects import Handler, Obj
from broker.wayland.signatures import Message, events_of, requests_of
from broker.wayland.tables import INTERFACES

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_MODULES = (
    attention,
    buffers,
    constraints,
    cursor,
    drag,
    forwarded,
    outputs,
    popups,
    registry,
    seat,
    selection,
    surfaces,
    windows,
)


def joined(parts: Iterable[Mapping[_Key, _Value]]) -> Mapping[_Key, _Value]:
    """One table of all parts.  Raises InternalError for a key in two of them."""
    whole: dict[_Key, _Value] = {}
    for part in parts:
        doubled = whole.keys() & part.keys()
        if doubled:
            raise InternalError(f"two modules handle {min(map(str, doubled))}")
        whole.update(part)
    return MappingProxyType(whole)


def complete(table: Rules, messages: Callable[[str], tuple[Message, ...]]) -> Rules:
    """The table itself.  Raises InternalError unless it has every message once."""
    wanted = {(i, m.name) for i in INTERFACES for m in messages(i)}
    for problem, keys in (
        ("nothing handles", wanted - table.keys()),
        ("there is no message", table.keys() - wanted),
    ):
        if keys:
            raise InternalError(f"{problem} {'.'.join(min(keys))}")
    return table


REQUESTS = complete(joined(m.REQUESTS for m in _MODULES), requests_of)
EVENTS = complete(joined(m.EVENTS for m in _MODULES), events_of)
CLASSES = joined(m.CLASSES for m in _MODULES)
"""Interfaces whose objects are a class of their own, by that class."""


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
) -> tuple[type[Obj], tuple[Handler, ...], tuple[Handler, ...]]:
    """Class and both tables of an interface at a version."""
    cls = CLASSES.get(interface, Obj)
    return cls, request_table(interface, version), event_table(interface)
