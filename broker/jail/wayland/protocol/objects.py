"""Objects as the filter sees them: one value with an id on each side.

The ids of the two sides are independent.  Our object has no client id
(``cid`` 0), an object that only the client has has no server id (``sid`` 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

Handler = Callable[["ClientState", Any, bytes, int, int], None]
"""A message handler: takes filter, object, data, and the message's start and size."""


class ProtocolObject:
    """One protocol object.

    ``requests`` and ``events`` are its handlers by opcode; a destroyed object
    gets other tables, so the hot path asks nothing about its state.  ``inert``: the
    client may use it, and the compositor has nothing behind it any more, such as a
    pointer whose device is gone; no request that names it is sent.
    """

    __slots__ = (
        "cid", "dead", "events", "inert", "interface", "requests", "sid", "version",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        self.interface = interface
        self.version = version
        self.cid = 0
        self.sid = 0
        self.dead = False
        self.inert = False
        self.requests: tuple[Handler, ...] = ()
        self.events: tuple[Handler, ...] = ()

    @override
    def __repr__(self) -> str:
        return f"{self.interface}#{self.cid}/{self.sid}"
