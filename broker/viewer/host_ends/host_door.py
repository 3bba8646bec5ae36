"""The listening side of the link, until a connection has proved whose it is.

A connecting process is first checked by the kernel's facts (one CID, one uid), then
waits, with a deadline and among few, until its first message proves it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.limits import link as limits
from broker.core.stderr_log import log_exception
from broker.net.link.pending_connections import PendingConnections, Ticket
from broker.net.link.wire_types import (
    MAGIC_BYTES,
    ConnectionKind,
    LinkRefusedError,
    RefusalReason,
)
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.link_status import LinkState
from broker.net.link_service.sockets import describe_far_end, receive
from broker.net.listeners import Listener

_FULL_PAUSE = 0.1


Prove: TypeAlias = Callable[
    [ConnectionKind, socket.socket, bytes, Ticket],
    Awaitable[Callable[[], Awaitable[None]]],
]


class Door:
    """Accepts connections, and gives them to ``prove`` with a deadline.

    ``prove`` returns the function that serves the connection from then on, without a
    deadline; ``refused`` is called with the peer and the reason of any other.
    """

    def __init__(
        self,
        config: LinkConfig,
        state: LinkState,
        *,
        prove: Prove,
        refused: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._config = config
        self._state = state
        self._prove = prove
        self._refused = refused
        self._waiting = PendingConnections()
        self._knocking: dict[int, trio.CancelScope] = {}
        """Of connections that wait, by the numbers of their tickets."""

    async def accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Accept one connection of a host, and start its task."""
        try:
            conn = await listener.accept()
        except UpstreamError as error:  # no descriptor left; others' ends make room
            self._state.problem, self._state.hint = str(error), error.hint
            await trio.sleep(_FULL_PAUSE)
            return
        peer = ""
        try:
            peer = describe_far_end(conn, self._config)
        except (RefusedError, OSError) as error:
            conn.close()
            await self._refused(peer, str(error))
        else:
            ticket, pushed = self._waiting.enter(peer, trio.current_time())
            if pushed is not None:
                self._knocking[pushed.number].cancel()
            scope = trio.CancelScope(deadline=ticket.deadline)
            self._knocking[ticket.number] = scope
            nursery.start_soon(self._meet, conn, ticket, scope)
        # So that connections with a complete first message are let in before
        # the next one comes and displaces one of them.
        await trio.lowlevel.checkpoint()

    async def _meet(
        self, conn: socket.socket, ticket: Ticket, scope: trio.CancelScope
    ) -> None:
        """Serve one connection of a host from accept to its end; records a refusal."""
        try:
            with conn:
                await self._greet(conn, ticket, scope)
        except LinkRefusedError as error:
            if error.reason is RefusalReason.VERSION:
                self._state.problem, self._state.hint = str(error), error.hint
            await self._refused(ticket.peer, str(error))
        except (VitrailError, OSError) as error:
            await self._refused(ticket.peer, str(error))
        except Exception as error:  # noqa: BLE001
            # An internal error with one connection must not end the others.
            log_exception(error)
        finally:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self._waiting.leave(ticket)
        self._knocking.pop(ticket.number, None)

    async def _greet(
        self, conn: socket.socket, ticket: Ticket, scope: trio.CancelScope
    ) -> None:
        """Read what a connection is for, have it prove its identity, and run it."""
        proved: Callable[[], Awaitable[None]] | None = None
        with scope:
            untrusted_first = await _first_bytes(conn)
            kind = take_door(untrusted_first)
            proved = await self._prove(kind, conn, untrusted_first, ticket)
        if scope.cancelled_caught:
            raise RefusedError(_why_turned_away(ticket))
        self._leave(ticket)
        if proved is not None:
            await proved()


async def _first_bytes(conn: socket.socket) -> bytes:
    """Read the first bytes, which state the connection's purpose."""
    untrusted_first = b""
    while len(untrusted_first) < MAGIC_BYTES:
        more = await receive(conn, MAGIC_BYTES - len(untrusted_first))
        if not more:
            raise LinkRefusedError(
                "the peer sent no first message", reason=RefusalReason.CLOSED
            )
        untrusted_first += more
    return untrusted_first


def _why_turned_away(ticket: Ticket) -> str:
    """Return why a connection that proved nothing is closed."""
    if ticket.proved:
        return "the peer reconnects too often or has sent too many requests"
    if trio.current_time() < ticket.deadline:
        return "too many unfinished connections: the peer did not authenticate before another needed its place"
    return f"the peer did not authenticate within {limits.LINK_HANDSHAKE_SECONDS:g} s"


def take_door(untrusted_first: bytes) -> ConnectionKind:
    """Return what a connection is for, from its first eight bytes.

    Raises LinkRefusedError when it is nothing of ours.
    """
    try:
        return ConnectionKind(untrusted_first)
    except ValueError as error:
        raise LinkRefusedError(
            "the peer does not use Vitrail's link protocol",
            reason=RefusalReason.MALFORMED,
        ) from error
