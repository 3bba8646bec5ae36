"""A connection to the user's sound server, which a session child makes and ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.authority.permit import Permit
from broker.ipc.session.media_orders import ConnectSound
from broker.viewer.orders.session_orders import UserSession


@asynccontextmanager
async def sound_connection(
    session: UserSession, permit: Permit
) -> AsyncIterator[socket.socket]:
    """Open a connection, which ends with the block, or with its permit for sound.

    Raises SetupError or UpstreamError when no sound server is to be had, RefusedError
    where the permit is not for it.
    """
    async with session.carrying_out(ConnectSound(permit.warrant)) as begun:
        with socket.socket(fileno=begun.fds[0]) as server:
            server.setblocking(False)  # noqa: FBT003 -- socket's own
            async with begun.held(permit.renewed):
                yield server
