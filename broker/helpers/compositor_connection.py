"""A connection to the user's compositor.

The keeper of a worker connects by this.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError


def connect_compositor(path: Path) -> socket.socket:
    """Return a new connection to the compositor, a blocking socket.

    Raises UpstreamError that says what failed, also when the compositor does
    not take the connection within KEEPER_CONNECT_SECONDS.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # connect(2) on a UNIX socket blocks while the backlog is full, for as
        # long as this (socket(7)); Python's own timeout does not cover it.
        seconds = limits.KEEPER_CONNECT_SECONDS
        patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        sock.connect(os.fspath(path))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except OSError as error:
        sock.close()
        raise UpstreamError(
            f"the compositor at {path} does not answer: {error.strerror}",
            hint="check that the compositor is running and that WAYLAND_DISPLAY (or --display) names its socket",
        ) from error
    return sock
