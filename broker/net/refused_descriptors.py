"""Sockets to which nobody sends descriptors."""

from __future__ import annotations

import socket

_SO_PASSRIGHTS = 83  # Linux 6.16, asm-generic/socket.h


def refuse_descriptors(sock: socket.socket) -> bool:
    """Have the kernel refuse messages to this UNIX socket with descriptors.

    The sender's sendmsg(2) fails with EPERM.  A listening socket's connections
    inherit it, so it is called before listen(2).  A descriptor that is dropped
    is closed by the process that reads or drops the message, which can take as long
    as its maker likes.  False before Linux 6.16 (SO_PASSRIGHTS), and nothing
    is refused then.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True
