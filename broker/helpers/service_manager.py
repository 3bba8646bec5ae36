"""Reports to the service manager, sd_notify(3).

A broker's program and its host report directly; a session child does so for the
confined viewer.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

ADDRESS = "VITRAIL_NOTIFY_SOCKET"
"""The variable that has the manager's address: programs of the user know another one."""
SECONDS = 5.0


def take_address() -> None:
    """Rename the variable of the service manager, for this process and its children."""
    if address := os.environ.pop("NOTIFY_SOCKET", ""):
        os.environ[ADDRESS] = address


def report(text: str, then: Callable[[socket.socket], object] = bool) -> None:
    """Send a report, and call ``then`` with the socket.

    Does nothing without a manager, or where it does not answer.
    """
    address = os.environ.get(ADDRESS, "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(SECONDS)
        sock.connect(address)
        sock.send(f"{text}\n".encode())
        then(sock)
