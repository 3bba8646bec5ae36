"""One AF_VSOCK listener for each service, shared by all leases, vsock(7).

The kernel's vsock has one port space for the whole host, so it is the peer's
CID that says whose connection this is.  A CID without a lease gets nothing,
not even a byte.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from broker.audit import schema
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.names import ServiceName
from broker.core.services import CID_ANY, PORTS
from broker.host.admission import Admission, accept
from broker.link.addresses import VsockEndpoint
from broker.link.listeners import Listener, open_listener
from broker.peers import credentials
from broker.peers.identity import VsockClaim
from broker.services.event_log import Journal
from broker.services.hangup import hang_up


async def open_vsock_listeners() -> dict[ServiceName, Listener]:
    """Listen on every service's port.

    Raises SetupError when the kernel has no vsock or a port is taken.
    """
    listeners: dict[ServiceName, Listener] = {}
    try:
        for service, port in PORTS.items():
            listeners[service] = await open_listener(VsockEndpoint(CID_ANY, port))
    except BaseException:
        for listener in listeners.values():
            listener.close()
        raise
    return listeners


async def serve_vsock(
    listeners: dict[ServiceName, Listener],
    doors_of: Callable[[VsockClaim], Admission | None],
    log: Journal,
) -> None:
    """Hand each connection to the doors of its CID's lease, until cancelled."""
    try:
        async with trio.open_nursery() as nursery:
            for service, listener in listeners.items():
                nursery.start_soon(_serve_one, service, listener, doors_of, log)
    finally:
        for listener in listeners.values():
            listener.close()


async def _serve_one(
    service: ServiceName,
    listener: Listener,
    doors_of: Callable[[VsockClaim], Admission | None],
    log: Journal,
) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            conn = await accept(listener)
            try:
                facts = credentials.vsock_facts(conn)
            except (RefusedError, OSError) as error:
                await _refuse(service, conn, "", str(error), log)
                continue
            doors = doors_of(VsockClaim(facts.netns, facts.cid))
            if doors is None:
                reason = "no lease names this CID"
                await _refuse(service, conn, f"cid {facts.cid}", reason, log)
            elif doors.waiting >= limits.BACKLOG:
                # What the kernel's backlog does for listeners of their own.
                reason = "too many connections wait for a decision"
                await _refuse(service, conn, f"cid {facts.cid}", reason, log)
            else:
                nursery.start_soon(doors.offer, service, conn)


async def _refuse(
    service: ServiceName, conn: socket.socket, peer: str, reason: str, log: Journal
) -> None:
    hang_up(conn)
    await log.refused(
        schema.StreamRefused(
            service=service, peer=peer, outcome="refused", reason=reason
        )
    )
