"""The first bytes of a display stream: waited for, passed on, never looked at.

A stream costs memory in the worker and a place in the pump for as
long as it lives, and an application that does nothing for hours is a good
one, so a relayed stream has no deadline.  A connection that never was one
must not get so far: until its first bytes are here it is undecided.

The host waits by this before it opens a stream over the link, the viewer before it
hands one to a worker.
"""

from __future__ import annotations

import socket

import trio

from broker.core import limits
from broker.core.errors import PeerError


# A stream that is asked about is taken before it is decided. Both entrances, the local
# one and the link's, wait ten seconds for a verdict; a user takes longer. A longer
# deadline for all streams would let a stuck viewer hold places. So a stream whose rule
# says `ask` is "taken" as soon as that is known, without a byte of it being read, and
# closed if the answer is no.
# A display stream is undecided until its first 16 bytes are here. A relayed stream has
# no deadline: an application may be idle for hours. A connection that never sends
# waypipe's header would hold a place in the pump forever. So the broker waits for 16
# bytes, passes them on without looking at them, and ends a stream that does not send
# them in time. After that, slow streams are bounded by number only, until our own end
# of the wire can detect them.
async def read_header(conn: socket.socket) -> bytes:
    """Read the DISPLAY_HEADER_BYTES that every waypipe server begins with.

    They are untrusted and go to the sandbox's worker as they are.
    Leaves ``conn`` open and non-blocking, in every outcome.

    Raises PeerError when they are not here within DISPLAY_HEADER_SECONDS, or
    the connection ends or breaks before.
    """
    conn.settimeout(0)
    untrusted_head = b""
    with trio.move_on_after(limits.DISPLAY_HEADER_SECONDS) as patience:
        while len(untrusted_head) < limits.DISPLAY_HEADER_BYTES:
            await trio.lowlevel.wait_readable(conn)
            untrusted_head += _read(conn, len(untrusted_head))
    if patience.cancelled_caught:
        raise PeerError(
            f"only {len(untrusted_head)} bytes of the first "
            f"{limits.DISPLAY_HEADER_BYTES} came within "
            f"{limits.DISPLAY_HEADER_SECONDS:g} s"
        )
    return untrusted_head


def _read(conn: socket.socket, have: int) -> bytes:
    """Read what is there of the header; b"" if nothing.

    Raises PeerError at the end.
    """
    try:
        untrusted_more = conn.recv(limits.DISPLAY_HEADER_BYTES - have)
    except BlockingIOError:
        return b""
    except OSError as error:
        raise PeerError(
            f"the connection failed after {have} bytes: {error.strerror}"
        ) from error
    if not untrusted_more:
        raise PeerError(
            f"the connection ended after {have} of the first "
            f"{limits.DISPLAY_HEADER_BYTES} bytes"
        )
    return untrusted_more
