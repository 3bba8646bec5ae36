"""Calls to containers and boxes: a program of theirs takes them.

Nothing is started in such a sandbox from outside.  So its program reports that it
serves calls (``vitrail-services``, ``shims/files/serving.py``), and starts for each call
what a guest's agent starts: a program that joins the call by its token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.ipc import transfer as messages
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest


_END_SECONDS = 2.0
"""For the order to end a service, in a box whose program may not read orders."""


def is_box(guest: Guest) -> bool:
    """Return whether a sandbox has no agent that starts programs in it."""
    return guest.valid_record().host.launch.kind.box


async def offer_services(exchange: GuestConnection) -> None:
    """Keep a connection as the box's server of calls, until it closes.

    Raises RefusedError for a guest with an agent, and where another program does.
    """
    # guard: services of a machine are started by its agent
    if not is_box(exchange.guest):
        raise RefusedError(
            "a program cannot serve the calls of this sandbox: its guest agent does"
        )
    with exchange.guest.transfers.serving(exchange):
        await exchange.wait_closed()


async def require_server(target: Guest) -> GuestConnection:
    """Return the program of a container or box that serves its calls.

    Raises UpstreamError without one.
    """
    with trio.move_on_after(limits.CALL_JOIN_SECONDS):
        await target.transfers.served.wait()  # its program may have just begun
    name, server = target.lease.sandbox, target.transfers.server
    if server is None:
        raise UpstreamError(
            f"no program of {name} serves calls",
            hint=f"run 'vitrail-services' in {name}; see docs/calls.md",
        )
    return server


@asynccontextmanager
async def joined_in_box(
    target: Guest, token: str, user: str, arrived: trio.Event
) -> AsyncIterator[None]:
    """Have a program of a container or box join a call; run the block once it has.

    Raises RefusedError for a ``user``: its programs have one.  Raises UpstreamError
    where no program takes it.
    """
    name = target.lease.sandbox
    if user:
        raise ShareableError(
            f"cannot call {name} as user '{user}': it is a container or box with one user"
        )
    server = await require_server(target)
    async with server.turn:
        # It has ended, or another one has its place, while others had their turn.
        if target.transfers.server is not server:
            raise UpstreamError(f"no program of {name} serves calls any longer")
        await target.order(messages.TransferCalled(server.stream, token))
        with trio.move_on_after(limits.CALL_JOIN_SECONDS):
            await arrived.wait()
    try:
        if arrived.is_set():
            yield
            return
    except BaseException:
        # guard: a service in a box that does not read ends with its call
        with trio.move_on_after(_END_SECONDS, shield=True):
            async with server.turn:
                if target.transfers.server is server:
                    over = messages.TransferCalled(server.stream, token, over=True)
                    await target.order(over)
        raise
    raise UpstreamError(f"no program of {name} accepted the call")
