"""Orders about the session's bus and what the desktop shows, and to go on."""

from __future__ import annotations

from typing import Literal, TypeAlias

from broker.core.services import SCREEN_SHARE
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, NeededPermit, Row

BusUse: TypeAlias = Literal["notifications", "settings", "tray"]


class ConnectBus(OrderMessage, frozen=True):
    """Connect to the session's bus through a filter, which this order's child becomes.

    Descriptors of the answer: the authenticated socket, and a pipe, whose close ends the
    filter.

    No permit: notifications, the desktop's settings and icons harm nobody.
    """

    use: BusUse


class BusConnection(OrderMessage, frozen=True):
    """A connection to the session's bus."""

    item: str = ""
    """The bus name that the icon of ``tray`` may have."""


class ConnectScreens(OrderMessage, frozen=True):
    """Connect to the portal that shares screens, through a filter that ends with the permit.

    Descriptor of the answer: the authenticated socket.
    """


class HoldPermit(OrderMessage, frozen=True):
    """Let what a permit has begun go on: screens, a camera, a service.

    A further call on the connection of theirs, with the warrant of the permit, renewed.
    Without one within ``read_warrant.SECONDS`` of the one before, and with its
    connection, it ends.

    No permit: its own renewal is compared with it (``session.warrant_check``).
    """


CONNECT_BUS = Row("ConnectBus", ConnectBus, BusConnection, *ENDS, gives=2)
# guard: the desktop's dialog about screens comes when a share is permitted
CONNECT_SCREENS = Row(
    "ConnectScreens",
    ConnectScreens,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({SCREEN_SHARE})),
    gives=1,
)
HOLD_PERMIT = Row("HoldPermit", HoldPermit, Empty, *ENDS)
