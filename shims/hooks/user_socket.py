"""The connection of a hook, which may be root's, to the broker of a user.

Both hooks connect by it.
"""

from __future__ import annotations

import os
import socket
import stat
import struct

PEER_CREDENTIALS = (socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
"""unix(7): process, user, group."""


class HookError(Exception):
    """No lease; the text says why."""


def connect_to_user(sock: socket.socket, path: str, uid: int) -> None:
    """Connect to a socket of this user's.  Raises HookError, OSError.

    The user may have put a link there, to a socket that only root may use.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(place)
        # guard: root's hook connects to a socket of its user's, whatever leads there
        if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != uid:
            raise HookError(f"{path} is not a socket of user {uid}")
        sock.connect(f"/proc/self/fd/{place}")
    finally:
        os.close(place)


def require_peer(sock: socket.socket, path: str, uid: int) -> None:
    """Raise HookError if another user's process listens at a connected socket."""
    # guard: the hook speaks with its user's broker
    if peer_uid(sock) != uid:
        raise HookError(f"{path} belongs to another user")


def peer_uid(sock: socket.socket) -> int:
    """Return the uid of the process that listens (unix(7), SO_PEERCRED)."""
    return int(struct.unpack("3i", sock.getsockopt(*PEER_CREDENTIALS))[1])
