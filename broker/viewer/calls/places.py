"""How many calls run at one time, of a service and of a target, and how often.

And the requests of a sandbox's daemon of notifications or icons, one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from broker.core.errors import PeerError
from broker.core.fair_share import may_take
from broker.core.names import LeaseId
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import FromDaemon
from broker.net.caller_paces import CallPaces
from broker.viewer.exchange.failures import ShareableError

if TYPE_CHECKING:
    from broker.viewer.exchange.guest_connection import GuestConnection

Service = tuple[LeaseId | str, str]
"""A target and a service of it; empty: the desktop, and all services."""


class CallPlaces:
    """Limits how many calls of one viewer's sandboxes run at one time."""

    def __init__(self) -> None:
        self._taken: Counter[Service] = Counter()
        self._callers: Counter[tuple[Service, str]] = Counter()

    @contextmanager
    def one(
        self, target: LeaseId | str, service: str, most: int, caller: str
    ) -> Iterator[None]:
        """Hold a place for a call of ``caller``, a record, while the block runs.

        Raises ShareableError if there is none for it: the text does not tell what other
        callers have.
        """
        place = (target, service)
        own = self._callers[place, caller]
        # guard: calls of a service at one time
        if not may_take(own, self._taken[place], most):
            what = f"calls of {service}" if service else "calls"
            raise ShareableError(
                f"too many {what} are already running in the target",
                hint="try again later",
            )
        self._taken[place] += 1
        self._callers[place, caller] += 1
        try:
            yield
        finally:
            self._taken[place] -= 1
            self._callers[place, caller] -= 1
            self._taken += Counter()  # without those of which none runs
            self._callers += Counter()


async def take_asks(
    exchange: GuestConnection,
    paces: CallPaces,
    take: Callable[[FromDaemon], Awaitable[None]],
) -> NoReturn:
    """Permit a daemon's connection, and handle its requests until it ends."""
    guest = exchange.guest
    await guest.order(messages.TransferServe(exchange.stream, "daemon"))
    while True:
        ask = await exchange.said()
        if not isinstance(ask, FromDaemon):
            raise PeerError("the daemon sent an unexpected message")
        await paces.wait(guest.lease.record)
        await take(ask)
        await guest.order(messages.DaemonMore(exchange.stream))
