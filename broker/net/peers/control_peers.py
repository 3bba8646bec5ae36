"""Which programs are served at a socket of the user's own, besides by their user id.

A box, or a container without a user namespace of its own, runs with the user's user id.
Where it sees the directory of our sockets, because a user has mounted it or a directory
above it, its programs could answer its own questions and start other sandboxes.
"""

from __future__ import annotations

import socket

from broker.core.errors import RefusedError
from broker.net.peers import peer_process


def why_not_served(fd: int) -> str:
    """Return why the program at the far end is not served; empty: it is.

    ``fd`` is a connected UNIX socket and stays the caller's.
    """
    conn = socket.socket(fileno=fd)
    try:
        ours = peer_process.in_our_pid_namespace(conn)
    except RefusedError as error:
        return error.message
    finally:
        conn.detach()
    # guard: a sandbox gives the broker no orders
    if ours is False:
        return "this broker serves no program of a container or box: call it outside"
    # guard: no answer of the kernel is a no
    if ours is None:
        return "the kernel does not tell in which pid namespace the program is"
    return ""
