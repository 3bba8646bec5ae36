"""One accepted connection of the sound filter that runs alone.

A broker counts and opens the connections of a worker itself.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from broker.core.errors import RefusedError, UpstreamError
from broker.jail.worker.sound.connection import PulseConnection, PulseService
from broker.net.connection_quota import SoundPlaces


async def serve_client(
    client: socket.socket, service: PulseService, places: SoundPlaces
) -> None:
    """Serve one accepted connection of a program to its end; close the socket."""
    with client, ExitStack() as held:
        try:
            # guard: clients at one time
            held.enter_context(places.one())
            server = held.enter_context(await service.connect())
        except (RefusedError, UpstreamError) as error:
            service.report(error)
            return
        connection = PulseConnection(client, server, service.sandbox, service.cookie)
        service.connections.add(connection)
        try:
            await connection.run()
        finally:
            service.connections.discard(connection)
        if connection.core.fault is not None:
            service.report(connection.core.fault)
