"""Whether a server at a UNIX socket's path takes connections."""

from __future__ import annotations

import socket
from pathlib import Path

LISTENS = "00010000"
"""__SO_ACCEPTCON, the flag of a socket that listens (proc(5), ``/proc/net/unix``)."""


def takes_connections(path: Path) -> bool:
    """Whether a socket is there and listens.

    The file is there from bind(2) on, and until listen(2) a connection is refused.  A
    socket that was renamed when it listened has another name in the kernel's list.
    """
    if not path.is_socket():
        return False
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    named = [row for row in rows if row[-1] == str(path)]
    return not named or any(row[3] == LISTENS for row in named)


def can_be_connected(path: Path) -> bool:
    """The same of a socket of any name in the kernel's list, by one connection to it."""
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
