"""Connections to the user's services."""

from __future__ import annotations

import socket
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.net.addresses import UnixEndpoint, explain_connect


def connect_path(path: Path) -> socket.socket:
    """Connect to a socket's path and return the socket.  Raises UpstreamError."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(limits.ADMIT_SECONDS)
    try:
        sock.connect(str(path))
    except TimeoutError as error:
        sock.close()
        raise UpstreamError(
            f"cannot connect to {path}: no answer within {limits.ADMIT_SECONDS:g} s",
            hint="check whether the program that listens there is stopped",
        ) from error
    except OSError as error:
        sock.close()
        raise explain_connect(UnixEndpoint(path), error) from error
    return sock
