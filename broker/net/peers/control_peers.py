"""Which programs are served at a socket of the person's own, besides by their user id.

A box, or a container without a user namespace of its own, runs with the person's user id.
Where it sees the directory of our sockets, because a person has mounted it or a directory
above it, its programs could answer its own questions and start other sandboxes.
"""

from __future__ import annotations

import os
import socket
from functools import cache

from broker.core.errors import RefusedError
from broker.net.peers import credentials


def why_not_served(fd: int) -> str:
    """Return why the program at the far end is not served; empty: it is.

    ``fd`` is a connected UNIX socket and stays the caller's.  Kernels before 6.11 do
    not tell the pid namespace of a process.
    """
    conn = socket.socket(fileno=fd)
    try:
        namespaces = _namespaces(conn)
    except RefusedError as error:
        return error.message
    finally:
        conn.detach()
    # guard: a sandbox gives the broker no orders
    if namespaces and namespaces[0] not in _ours():
        return "this broker serves no program of a container or box: call it outside"
    return ""


def _namespaces(conn: socket.socket) -> tuple[int, ...]:
    pidfd = credentials.peer_pidfd(conn)
    if pidfd < 0:
        return ()
    try:
        return credentials.pid_namespaces(pidfd)
    finally:
        os.close(pidfd)


@cache
def _ours() -> tuple[int, ...]:
    return credentials.pid_namespaces_of_self()
