"""The process that connected to a UNIX socket."""

from __future__ import annotations

import errno
import socket
import struct

from broker.core.errors import RefusedError

SO_PEERPIDFD = 77  # Linux 6.5, not yet in Python's socket module
_UCRED = struct.Struct("3i")


def peer_numbers(conn: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that connected (SO_PEERCRED)."""
    ucred = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(ucred)
    return pid, uid, gid


def peer_pidfd(conn: socket.socket) -> int:
    """Return a pidfd of the process that connected; the caller closes it.

    -1 where the kernel has no SO_PEERPIDFD.  Raises RefusedError when that
    process has ended.
    """
    try:
        return conn.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return -1
        pid = peer_numbers(conn)[0]
        raise RefusedError(f"the peer process {pid} has ended") from error
