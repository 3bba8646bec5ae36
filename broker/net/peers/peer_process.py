"""The process that connected to a UNIX socket.

Whichever process accepts the connection asks: authority, acceptor, host, viewer,
``vitrail-devices``.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

from broker.core.errors import RefusedError

if TYPE_CHECKING:
    from trio.socket import SocketType

SO_PEERPIDFD = 77  # Linux 6.5, not yet in Python's socket module
_UCRED = struct.Struct("3i")
_ENDED = frozenset({errno.ESRCH, errno.EINVAL, errno.ENODATA})
"""Answers about a process that has ended; which one depends on the kernel's version."""


def peer_numbers(conn: socket.socket | SocketType) -> tuple[int, int, int]:
    """Return pid, uid and gid of the far end's process (unix(7), SO_PEERCRED).

    Of a program that connected to us, or of the program that listens.
    """
    ucred = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(ucred)
    return pid, uid, gid


def peer_pidfd(conn: socket.socket) -> int:
    """Return a pidfd of the process that connected; the caller closes it.

    -1 where the kernel has no SO_PEERPIDFD.  Raises RefusedError when that
    process has ended, OSError when the kernel does not answer: a filter of system calls
    denies it (EPERM), or this process has no descriptor left.
    """
    try:
        return conn.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return -1
        # guard: a denied question is not an ended peer
        if error.errno not in _ENDED:
            raise
        pid = peer_numbers(conn)[0]
        raise RefusedError(f"the peer process {pid} has ended") from error
