"""Tables in parts: joined into one, and compared with the protocol's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from broker.core.errors import InternalError
from broker.jail.wayland.protocol.signatures import MessageSignature
from broker.jail.wayland.protocol.tables import INTERFACES

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Table = TypeVar("_Table", bound=Mapping[tuple[str, str], object])


def joined(parts: Iterable[Mapping[_Key, _Value]]) -> Mapping[_Key, _Value]:
    """Join parts into one table.  Raises InternalError for a key in two of them."""
    whole: dict[_Key, _Value] = {}
    for part in parts:
        doubled = whole.keys() & part.keys()
        # guard: no message in two modules
        if doubled:
            raise InternalError(f"two modules handle {min(map(str, doubled))}")
        whole.update(part)
    return MappingProxyType(whole)


def complete(
    table: _Table, messages: Callable[[str], tuple[MessageSignature, ...]]
) -> _Table:
    """Return the table.  Raises InternalError unless it has every message once."""
    wanted = {(i, m.name) for i in INTERFACES for m in messages(i)}
    for problem, keys in (
        ("no module has", wanted - table.keys()),
        ("there is no message", table.keys() - wanted),
    ):
        # guard: each message has a row
        if keys:
            raise InternalError(f"{problem} {'.'.join(min(keys))}")
    return table
