"""Accepting connections on a listening socket: one task for each client."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from broker.wire.memory import SHORT_OF_DESCRIPTORS, SHORT_OF_MEMORY

_AGAIN_SECONDS = 0.1
"""Until descriptors are looked for again; no event says that there are some."""


async def serve(
    listener: socket.socket,
    client: Callable[[socket.socket], Awaitable[None]],
) -> None:
    """Accept until cancelled and run ``client`` for each connection.

    ``client`` owns the socket it is given: it closes it, and it raises nothing
    for what the far end does, because that would end all the others.  While no
    descriptors are left, connections wait in the backlog.
    Raises OSError when the listener itself is broken.
    """
    listener.settimeout(0)
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in SHORT_OF_MEMORY | SHORT_OF_DESCRIPTORS:
                    raise
                await trio.sleep(_AGAIN_SECONDS)
                continue
            nursery.start_soon(client, accepted)
