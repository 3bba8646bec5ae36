"""Messages between a broker and the acceptor of one sandbox's UNIX sockets.

One SEQPACKET socket for each listening socket joins the two.  The broker asks
for one connection with ``NEXT``; the acceptor answers with one ``Arrival``
and, by SCM_RIGHTS (unix(7)), a socket of our own and the pidfd of the process
that connected.  The sandbox's own socket stays in the acceptor.

Where a connection must reach the sandbox's worker as it is, because Wayland
passes descriptors, that socket of our own has ``WORKER_END`` in it, with one end
of a socket pair.  The broker gives that end to the worker and answers with ``DELIVER``:
the acceptor sends the connection into the other end.  The broker sends no descriptor,
so that the acceptor needs no system call that receives one.

The broker's process here is the host, which asks; the viewer gives the worker its end.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from broker.core.errors import InternalError, UpstreamError

NEXT = b"n"
"""Accept one more."""
WORKER_END = b"w"
"""The worker's end of the pair is attached."""
DELIVER = b"d"
"""The worker has its end: send the connection into the other one."""
CONNECTION = b"c"
"""The packet sent into it: the connection is attached."""

_ARRIVAL = struct.Struct("<BiII")
ARRIVAL_BYTES = _ARRIVAL.size


class Voucher(enum.IntEnum):
    """The kernel's proof of the process that connected."""

    PIDFD = 0
    """A pidfd, attached."""
    NUMBER = 1
    """Its pid alone: the kernel has no SO_PEERPIDFD."""
    ENDED = 2
    """Nothing that vouches for it: it has ended."""


@dataclass(frozen=True)
class Arrival:
    """One accepted connection: SO_PEERCRED of its far end, and the voucher."""

    voucher: Voucher
    pid: int
    uid: int
    gid: int


def encode(arrival: Arrival) -> bytes:
    """Return the packet of an arrival."""
    return _ARRIVAL.pack(arrival.voucher, arrival.pid, arrival.uid, arrival.gid)


def decode(packet: bytes) -> Arrival:
    """Decode a packet of the acceptor's to the arrival that it announces.

    Raises InternalError for any other packet.
    """
    try:
        voucher, pid, uid, gid = _ARRIVAL.unpack(packet)
        return Arrival(Voucher(voucher), pid, uid, gid)
    except (struct.error, ValueError) as error:
        raise InternalError(f"the acceptor sent {len(packet)} invalid bytes") from error


def ended() -> UpstreamError:
    """The error of a broker whose acceptor has gone."""
    return UpstreamError(
        "the process that accepts this sandbox's connections has ended",
        hint="restart the sandbox",
    )
