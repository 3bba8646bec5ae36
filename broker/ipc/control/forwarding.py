"""The connection that passes calls of the control socket on.

Authority, host and viewer run this, each at its end.
"""

from __future__ import annotations

import socket

from broker.core import limits
from broker.wire.frame_carrier import Frames
from broker.wire.habits import Habits


def forwarding_habits() -> Habits:
    """Return the habits of both ends."""
    # guard: a process that does not answer leaves room for others' clients
    return Habits(most_calls=limits.CONTROL_FORWARDED, message_bytes=forwarded_bytes())


def forwarded_bytes() -> int:
    """Return the most bytes of a message: one of the control socket and its envelope."""
    return limits.CONTROL_MESSAGE_BYTES + 4096


def forwarding_carrier(sock: socket.socket) -> Frames:
    """Return the carrier of one end; the open calls bound what waits in it."""
    size = forwarded_bytes()
    return Frames(
        sock,
        receive_bytes=size,
        send_bytes=size,
        waiting=(limits.CONTROL_FORWARDED + 1) * 2 * size,
    )
