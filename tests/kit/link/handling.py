"""One function that serves all calls of an end of the link, in a test's epoch."""

from __future__ import annotations

from broker.ipc.host_rows import DEVICES, DevicesReply
from broker.net.link.link_rows import (
    BYE,
    CUT,
    LINK_ROWS,
    STATUS,
    WITNESS,
    Witnessed,
)
from broker.net.link_service.link_status import own_status
from broker.wire.row import Empty, serves


async def obey(epoch, row, request, exchange):
    """Whatever is asked is done."""
    del request, exchange
    match row.name:
        case STATUS.name:
            return own_status(epoch, 0.0, [])
        case WITNESS.name:
            return Witnessed([])
        case DEVICES.name:
            return DevicesReply([])
    return None


def parts_of(handle):
    """The parts of an epoch: each call goes to
    ``handle(epoch, row, request, exchange)``."""

    def parts(epoch):
        class Handling:
            """Serves the rows of both roles."""

        for row in LINK_ROWS.values():
            if row in (BYE, CUT):  # the epoch serves them
                continue

            async def serve(self, exchange, request, row=row):
                del self
                return await handle(epoch, row, request, exchange)

            setattr(Handling, f"serve_{row.name}", serves(row)(serve))
        return [Handling()]

    return parts


async def look(epoch):
    """A call that any end of the link answers."""
    return await epoch.call(STATUS, Empty())


async def pong(epoch):
    """Wait for a sign of life of the other end."""
    await epoch.peer.ping().wait()
