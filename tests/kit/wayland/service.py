"""Filtered connections of one sandbox in the test's own process: a worker without its jail."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import PeerError, UpstreamError
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.ports import OperatingSystem
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.wayland.connection import WaylandConnection


@dataclass(frozen=True)
class WaylandService:
    """State that all Wayland connections of one sandbox share.

    ``connect`` opens a new connection to the compositor (UpstreamError if it
    cannot); ``report`` gets the reason of every connection that did not end
    by itself; ``trace`` each line of what passes (VITRAIL_DEBUG=wayland);
    ``make`` is the kind of connection that clients have.
    """

    rules: WindowRules
    sandbox: Sandbox
    machine: OperatingSystem
    connect: Callable[[], socket.socket]
    report: Callable[[Exception], None]
    trace: Callable[[str], None] | None = None
    make: Callable[..., WaylandConnection] = WaylandConnection


async def serve_client(client: socket.socket, service: WaylandService) -> None:
    """Serve one accepted connection to its end; closes the socket."""
    with client:
        try:
            server = service.connect()
        except UpstreamError as error:
            service.report(error)
            return
        with server:
            try:
                connection = service.make(
                    client,
                    server,
                    service.rules,
                    service.sandbox,
                    service.machine,
                    trace=service.trace,
                )
            except PeerError as error:
                service.report(error)
                return
            await connection.run()
            if connection.core.fault is not None:
                service.report(connection.core.fault)
