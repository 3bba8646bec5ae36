"""Orders about the session's bus and what the desktop shows."""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage


class ConnectBus(TypedMessage, frozen=True, tag="connect-bus"):
    """Connect to the session's bus through a filter.  Answer: the socket."""


BusOrder: TypeAlias = ConnectBus
