"""Closing a connection that was not taken, so that its far end notices.

close(2) with bytes unread gives a UNIX socket's far end ECONNRESET.
vhost-device-vsock (0.3) drops a connection on that and does not notify its guest,
whose program then waits forever; an end of file is passed on.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator

import trio

_LOOK_SECONDS = 0.5
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


async def when_hung_up(
    conn: socket.socket,
    over: trio.Event,
    tell: Callable[[], None],
    *,
    sending: bool = False,
) -> None:
    """Call ``tell`` when the far end has closed both ways; ends when ``over`` is set.

    Reads nothing, so a look now and then: what waits to be read would make the
    event loop's own wait return at once.  A far end that only ceased to send
    is there still, unless ``sending``.  ``over`` must be set before the socket is closed here.
    """
    poll = select.poll()
    ends = select.POLLHUP | select.POLLERR
    poll.register(conn, ends | select.POLLRDHUP if sending else ends)
    while not over.is_set():
        if poll.poll(0):
            tell()
            return
        with trio.move_on_after(_LOOK_SECONDS):
            await over.wait()


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
