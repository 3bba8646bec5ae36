"""Make a box's interface, and carry its frames to the end.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import SetupError
from broker.host.network.frameguard.frameguard import Addresses, confined_run
from broker.host.network.frameguard.veth import (
    PASST_CARD,
    Card,
    PacketGuard,
    lay_cable,
)


@dataclass(frozen=True)
class SandboxInterface:
    """The interface of a box that is to be made."""

    namespace: int
    """The descriptor of the network namespace that gets it."""
    ready: int
    """The pipe that gets a byte when the interface is up."""
    card: Card = PASST_CARD


def guard_interface(passt: int, ready: int, namespace: int) -> int:
    """Judge each frame of an interface."""
    side = socket.socket(fileno=passt)
    return carry(
        SandboxInterface(namespace, ready),
        lambda packets, addresses: PacketGuard(packets, side, addresses),
    )


def carry(
    interface: SandboxInterface,
    guard_of: Callable[[socket.socket, Addresses], PacketGuard],
    *,
    ipv6: bool | None = None,
) -> int:
    """Make an interface, report it, confine this process and carry to the end.

    ``guard_of`` gets the socket of its frames, and this machine's addresses.  ``ipv6``:
    whether a box's has an address of that; None: if this machine has a route of it.

    Returns 1 with the reason on standard error if the interface cannot be made.
    """
    try:
        addresses = Addresses()  # of the host's namespace, before this leaves it
        ipv6 = addresses.ipv6 if ipv6 is None else ipv6
        packets = lay_cable(interface.namespace, ipv6=ipv6, card=interface.card)
    except OSError as error:
        return not_made(error)
    guard = guard_of(packets, addresses)
    os.write(interface.ready, b"r")
    os.close(interface.ready)
    return confined_run(guard)


def not_made(error: OSError | SetupError) -> int:
    """Write why an interface cannot be made to standard error; return 1."""
    text = error.strerror if isinstance(error, OSError) else error
    sys.stderr.write(f"{text}\n")
    return 1
