"""One AF_VSOCK listener for each service, shared by all leases, vsock(7).

The kernel's vsock has one port space for the whole host, so it is the peer's
CID that says whose connection this is.  A CID without a lease gets nothing,
not even a byte.

A port is the first program's that listens on it, whichever user's it is.  The
broker listens on the privileged ports as well where it may, its guests
obey only a broker that proves their launch (``peers.launch_secret``), and a
port that another program has is an event and a notification.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from broker.authority.audit.event_log import EventLog
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import ServiceName
from broker.core.services import CID_ANY, LOW_PORTS, PORTS
from broker.host.admission import FULL_PAUSE, Admission
from broker.ipc.audit import schema
from broker.net.addresses import VsockEndpoint
from broker.net.hangup import hang_up
from broker.net.listeners import Listener, open_listener
from broker.net.peers import credentials
from broker.net.peers.identity import VsockClaim

# The kernel's backlog sets this limit for a machine with listeners of its own.
_FULL = "too many connections are waiting for a decision"


class PortTakenError(SetupError):
    """Another program listens on our AF_VSOCK port."""

    def __init__(self, service: ServiceName, port: int) -> None:
        super().__init__(
            f"another program is listening on vsock port {port} of {service}",
            hint="stop guests without a launch secret, which would trust that program; then run 'sudo ss --vsock -lp' to find the program and stop it",
        )
        self.service = service
        self.port = port


@dataclass(frozen=True)
class VsockPorts:
    """The vsock listeners of this broker."""

    listeners: tuple[tuple[ServiceName, Listener], ...]
    privileged: bool
    """Also on LOW_PORTS, which no other user's program can take."""
    taken: PortTakenError | None = None
    """A port above 1023 that another program has; LOW_PORTS serve instead."""


async def open_vsock_listeners() -> VsockPorts:
    """Listen on every service's vsock port, and on its privileged one if permitted.

    Raises SetupError when the kernel has no vsock, PortTakenError when another
    program listens on a port and no privileged one serves in its place.
    """
    with ExitStack() as undo:
        low = await _open_all(LOW_PORTS, undo, {errno.EACCES})
        skip = {errno.EADDRINUSE} if low else set[int]()
        high = await _open_all(PORTS, undo, skip)
        missing = [service for service in PORTS if service not in dict(high)]
        taken = [PortTakenError(service, PORTS[service]) for service in missing]
        undo.pop_all()
    return VsockPorts((*low, *high), bool(low), taken[0] if taken else None)


async def _open_all(
    ports: Mapping[ServiceName, int], undo: ExitStack, skip: set[int]
) -> list[tuple[ServiceName, Listener]]:
    """Listen on these ports, but for those that end in an error of ``skip``."""
    listeners: list[tuple[ServiceName, Listener]] = []
    for service, port in ports.items():
        place = VsockEndpoint(CID_ANY, port)
        try:
            listener = await open_listener(place, backlog=limits.VSOCK_BACKLOG)
        except SetupError as error:
            cause = error.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            if number in skip:
                continue
            # guard: a taken port is an alarm
            if number == errno.EADDRINUSE:
                raise PortTakenError(service, port) from error
            raise
        undo.callback(listener.close)
        listeners.append((service, listener))
    return listeners


async def serve_vsock(
    listeners: Sequence[tuple[ServiceName, Listener]],
    doors_of: Callable[[VsockClaim], Admission | None],
    log: EventLog,
) -> None:
    """Pass each vsock connection to the lease of its CID, until cancelled."""
    try:
        async with trio.open_nursery() as nursery:
            for service, listener in listeners:
                nursery.start_soon(_serve_one, service, listener, doors_of, log)
    finally:
        for _, listener in listeners:
            listener.close()


async def _serve_one(
    service: ServiceName,
    listener: Listener,
    doors_of: Callable[[VsockClaim], Admission | None],
    log: EventLog,
) -> None:
    """Accept connections of one port; offer each to its lease's doors."""
    async with trio.open_nursery() as nursery:
        while True:
            try:
                # guard: one reading empties the shared backlog
                batch = await listener.accept_batch(limits.VSOCK_BATCH)
            except UpstreamError:
                await trio.sleep(FULL_PAUSE)
                continue
            refused: Counter[tuple[str, str]] = Counter()
            for conn in batch:
                peer, doors = _doors(conn, doors_of)
                if isinstance(doors, str):
                    hang_up(conn)
                    # guard: a flood of refused ones is one record
                    refused[peer, doors] += 1
                else:
                    # A task for each: the backlog is shared by all machines, so
                    # nothing that one connection waits for may hold it up.
                    nursery.start_soon(_offer, service, conn, peer, doors, log)
            if refused:
                nursery.start_soon(_tell, service, refused, log)


def _doors(
    conn: socket.socket, doors_of: Callable[[VsockClaim], Admission | None]
) -> tuple[str, Admission | str]:
    """Return who it is and the doors of its lease, or why it gets nothing."""
    try:
        facts = credentials.vsock_facts(conn)
    except (RefusedError, OSError) as error:
        return "", str(error)
    doors = doors_of(VsockClaim(facts.netns, facts.cid))
    if doors is not None and doors.waiting >= limits.BACKLOG:
        return f"cid {facts.cid}", _FULL
    return f"cid {facts.cid}", doors or "no lease has this CID"


async def _offer(
    service: ServiceName,
    conn: socket.socket,
    peer: str,
    doors: Admission,
    log: EventLog,
) -> None:
    """Offer a connection to a lease's doors, or drop it beyond the backlog."""
    # Again: those of the same batch wait as well.
    if doors.waiting < limits.BACKLOG:
        await doors.offer(service, conn)
    else:
        hang_up(conn)
        await _tell(service, {(peer, _FULL): 1}, log)


async def _tell(
    service: ServiceName, refused: Mapping[tuple[str, str], int], log: EventLog
) -> None:
    """Record refused connections, counted by peer and reason."""
    for (peer, reason), count in refused.items():
        await log.refused(
            schema.StreamRefused(
                service=service,
                peer=peer,
                outcome="refused",
                reason=reason,
                count=count,
            )
        )
