"""A connection to the user's sound server, which a session child makes."""

from __future__ import annotations

import socket

from broker.ipc.session.media_orders import ConnectSound
from broker.viewer.orders.session_orders import UserSession


async def connect_sound(session: UserSession, warrant: bytes) -> socket.socket:
    """Return a connection, which is the caller's; ``warrant``: of a permit for sound.

    Raises SetupError or UpstreamError when no sound server is to be had, RefusedError
    where the permit is not for it.
    """
    _, (fd,) = await session.carry_out(ConnectSound(warrant))
    server = socket.socket(fileno=fd)
    server.setblocking(False)  # noqa: FBT003 -- socket's own
    return server
