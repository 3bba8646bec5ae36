"""Orders about the session's bus and what the desktop shows, and to go on."""

from __future__ import annotations

from typing import Literal, TypeAlias

from broker.core.decoding import TypedMessage

BusUse: TypeAlias = Literal["notifications", "settings", "screens", "tray"]


class ConnectBus(TypedMessage, frozen=True, tag="connect-bus"):
    """Connect to the session's bus through a filter, which this order's child becomes.

    Answer: the authenticated socket, and a pipe, whose close ends the filter; for
    ``tray`` also the bus name that the icon may have.

    Only ``screens`` needs a warrant, of a permit to share one: notifications, the
    desktop's settings and icons harm nobody.  It has no pipe: its permit is held.
    """

    use: BusUse
    warrant: bytes = b""


class HoldPermit(TypedMessage, frozen=True, tag="hold-permit"):
    """Let what a permit has begun go on: screens, a camera, a service.

    A further order of theirs.  ``warrant``: that of the permit, renewed.  Without one
    within ``read_warrant.SECONDS`` of the one before, and with its channel, it ends.
    """

    warrant: bytes


BusOrder: TypeAlias = ConnectBus | HoldPermit
