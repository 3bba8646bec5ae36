"""Connections to the user's services.

A session child connects to a UNIX socket by this, with a deadline.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.net.addresses import UnixEndpoint, explain_connect


def connect_path(path: Path) -> socket.socket:
    """Connect to a socket's path and return the socket.  Raises UpstreamError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        connect_patiently(sock, str(path))
    except BlockingIOError as error:
        sock.close()
        raise UpstreamError(
            f"cannot connect to {path}: no answer within {limits.ADMIT_SECONDS:g} s",
            hint="check whether the program that listens there is stopped",
        ) from error
    except OSError as error:
        sock.close()
        raise explain_connect(UnixEndpoint(path), error) from error
    return sock


def connect_patiently(sock: socket.socket, address: str) -> None:
    """Connect a UNIX socket that blocks; wait up to ADMIT_SECONDS for a busy program.

    With settimeout it would not wait: a socket that does not block cannot be connected
    while the queue is full.  Raises OSError, BlockingIOError after that time.
    """
    _set_patience(sock, int(limits.ADMIT_SECONDS))
    sock.connect(address)
    _set_patience(sock, 0)


def _set_patience(sock: socket.socket, seconds: int) -> None:
    """Set for how long the socket waits to connect or send; 0: without an end."""
    limit = struct.pack("@ll", seconds, 0)  # struct timeval
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
