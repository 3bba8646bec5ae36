"""Closing a connection that was not taken, so that its far end notices.

close(2) with bytes unread gives a UNIX socket's far end ECONNRESET.
vhost-device-vsock (0.3) drops a connection on that and does not notify its guest,
whose program then waits forever; an end of file is passed on.

The host and the viewer close refused connections by this.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

_READ_BYTES = 65536
# Reads that cover the far end's send buffer (212,992 bytes by default) twice.
_READS = 8


def hang_up(conn: socket.socket) -> None:
    """Close a connection so that the far end reads an end.

    The bytes that it has sent so far are discarded; it can send no more.
    """
    with contextlib.suppress(OSError):
        conn.shutdown(socket.SHUT_RDWR)
        for _ in range(_READS):
            if not conn.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                break
    conn.close()


@contextlib.contextmanager
def given(conn: socket.socket) -> Iterator[None]:
    """Close our descriptor when it has been given on; hang up on an error."""
    try:
        yield
    except BaseException:
        hang_up(conn)
        raise
    finally:
        conn.close()
