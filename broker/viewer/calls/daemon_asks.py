"""Requests of a sandbox's daemon of notifications or icons, paced, one at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

from broker.core.errors import PeerError
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import FromDaemon
from broker.viewer.calls.places import CallPaces
from broker.viewer.opening.exchanges import OpenExchange

if TYPE_CHECKING:
    from broker.authority.permit import Request
    from broker.viewer.sandboxes.guest import Guest

    ServeDaemon = Callable[[Guest, OpenExchange, Request], Awaitable[None]]


async def take_asks(
    guest: Guest,
    exchange: OpenExchange,
    paces: CallPaces,
    take: Callable[[FromDaemon], Awaitable[None]],
) -> NoReturn:
    """Permit a daemon's call, and take its requests until its connection ends."""
    await guest.order(messages.TransferServe(exchange.stream, "daemon"))
    while True:
        ask = await exchange.said()
        if not isinstance(ask, FromDaemon):
            raise PeerError("a message that is not a daemon's")
        await paces.wait(guest.lease.record)
        await take(ask)
        await guest.order(messages.DaemonMore(exchange.stream))
