"""Noticing that the far end of a connection that is read elsewhere has closed."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import trio

from broker.helpers.process.polled import happened

_LOOK_SECONDS = 0.5


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
    ends = select.POLLHUP | select.POLLERR | (select.POLLRDHUP if sending else 0)
    while not over.is_set():
        if happened(conn.fileno(), ends):
            tell()
            return
        with trio.move_on_after(_LOOK_SECONDS):
            await over.wait()
