"""Orders about the session's bus and what the desktop shows."""

from __future__ import annotations

from typing import Literal, TypeAlias

from broker.core.decoding import TypedMessage

BusUse: TypeAlias = Literal["notifications", "settings", "screens", "tray"]


class ConnectBus(TypedMessage, frozen=True, tag="connect-bus"):
    """Connect to the session's bus through a filter, which this order's child becomes.

    Answer: the socket, past its authentication, and a pipe, with whose close the filter
    ends; of an icon in the tray, the bus name that it may have.  Notifications, the desktop's settings and icons harm nobody, so only
    ``screens`` needs a warrant: of a permit to share one.
    """

    use: BusUse
    warrant: bytes = b""


BusOrder: TypeAlias = ConnectBus
