"""The socket of an X display, and the lock by which X servers avoid each other's.

An X server takes the first number whose lock it can make, and replaces the socket of it,
whoever listens there (Xserver(1), ``/tmp/.Xn-lock``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Tuple

X_SOCKETS = "/tmp/.X11-unix"


def bind_display(directory: str = X_SOCKETS) -> Tuple[socket.socket, int]:
    """Listen as the first free display; returns the socket and the display's number.

    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o1777)
        os.chmod(directory, 0o1777)
    for number in range(100):
        path, lock = _paths(number, directory)
        with contextlib.suppress(OSError):
            _lock(lock)
            listener = socket.socket(socket.AF_UNIX)
            try:
                if _is_dead(path):
                    os.unlink(path)
                listener.bind(path)
                listener.listen(64)
            except OSError:
                listener.close()
                os.unlink(lock)
                raise
            return listener, number
    raise OSError("all 100 X displays are in use")


def remove_display(number: int, directory: str = X_SOCKETS) -> None:
    """Remove a display's socket and lock."""
    for path in _paths(number, directory):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _paths(number: int, directory: str) -> Tuple[str, str]:
    lock = os.path.join(os.path.dirname(directory), f".X{number}-lock")
    return f"{directory}/X{number}", lock


def _lock(path: str) -> None:
    """Make a lock that names this process.  Raises OSError where another one holds it."""
    with contextlib.suppress(FileNotFoundError, ValueError), open(path, "rb") as file:
        try:
            # Process 1 is there for a lock that names none.
            os.kill(max(1, int(file.read(11))), 0)
        except ProcessLookupError:
            os.unlink(path)
    written = f"{path}.{os.getpid()}"
    try:
        with open(written, "x", encoding="ascii") as file:
            file.write(f"{os.getpid():10}\n")
        # Whole from its first moment: servers take one that they cannot read for stale.
        # guard: a display that an X server has locked is not taken
        os.link(written, path)
    finally:
        os.unlink(written)


def _is_dead(path: str) -> bool:
    """Return whether nobody listens on a socket: its program was killed.

    A connection would start a server that waits for one, as Xwayland or another agent's
    bridge, and wait where many do: a stream's socket refuses one of datagrams.
    """
    # guard: looking for a free X display starts no server
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
