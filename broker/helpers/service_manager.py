"""Reports to the service manager, sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import select
import socket

ADDRESS = "VITRAIL_NOTIFY_SOCKET"
"""The variable that has the manager's address: programs of the user know another one."""
_SECONDS = 5.0


def take_address() -> None:
    """Rename the variable of the service manager, for this process and its children."""
    if address := os.environ.pop("NOTIFY_SOCKET", ""):
        os.environ[ADDRESS] = address


def report(text: str, *, wait: bool = False) -> None:
    """Send a report.  Does nothing without a manager, or where it does not answer.

    ``wait``: until it has read it (sd_notify_barrier(3)).  It looks for the unit of the
    process that sends, which may end then.
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
        sock.settimeout(_SECONDS)
        sock.connect(address)
        sock.send(f"{text}\n".encode())
        if wait:
            _wait_read(sock)


def _wait_read(sock: socket.socket) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        socket.send_fds(sock, [b"BARRIER=1"], [write])
    finally:
        os.close(write)
        waiting = select.poll()
        waiting.register(read, 0)  # its other end is closed with the message
        waiting.poll(1000 * _SECONDS)
        os.close(read)
