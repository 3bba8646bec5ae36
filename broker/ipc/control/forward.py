"""The control socket's methods in another process than the socket's.

``serve_forwarded`` is the end of the process that owns the methods, ``Forwarder`` of
``forwarder`` that of the process that has the socket.  (The rows: ``forwarded``.)

The process with the socket is the authority; host and viewer own the methods and run
this module.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import msgspec
import trio

from broker.ipc.control import varlink
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forwarded import (
    FORWARDED_CALL,
    FORWARDED_CALL_WITH_ITEMS,
    FORWARDED_ROWS,
    ForwardedCall,
    ForwardedItem,
    ForwardedReply,
    call_of,
)
from broker.ipc.control.forwarding import forwarding_carrier, forwarding_habits
from broker.ipc.control.method import Exchange
from broker.ipc.control.types.base import Caller
from broker.ipc.control.varlink import Call
from broker.wire.exchange import ServedCall
from broker.wire.peer import Peer
from broker.wire.row import ProcessKind, serves

_LAST_SECONDS = 1.0
"""The time limit for the last answers, where the far end does not read."""


async def serve_forwarded(
    sock: socket.socket,
    owner: ProcessKind,
    dispatcher: Dispatcher,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer forwarded calls until the process with the control socket closes.

    Calls that are open then are cancelled; answers that wait are written, also where
    this is cancelled.  Raises PeerError for what is not a call.
    """
    carrier = forwarding_carrier(sock)
    peer = Peer(
        carrier,
        owner,
        ProcessKind.AUTHORITY,
        FORWARDED_ROWS,
        (_Methods(dispatcher),),
        habits=forwarding_habits(),
        closes_carrier=False,
    )
    try:
        await peer.run(task_status=task_status)
    finally:
        # The answer to "shutdown" is written though its process ends.
        await carrier.finish(_LAST_SECONDS)


class _Methods:
    """Serves the methods of a process by its dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @serves(FORWARDED_CALL)
    async def _answer(
        self, _: ServedCall[ForwardedReply], request: ForwardedCall
    ) -> ForwardedReply:
        async def emit(_item: msgspec.Struct) -> None:
            """Send nothing: the client takes one answer."""

        return await self._reply(request, emit)

    @serves(FORWARDED_CALL_WITH_ITEMS)
    async def _answer_with_items(
        self, exchange: ServedCall[ForwardedReply], request: ForwardedCall
    ) -> ForwardedReply:
        async def emit(item: msgspec.Struct) -> None:
            await exchange.emit(ForwardedItem(bytes(varlink.raw(item))))

        return await self._reply(request, emit)

    async def _reply(
        self,
        request: ForwardedCall,
        emit: Callable[[msgspec.Struct], Awaitable[None]],
    ) -> ForwardedReply:
        """Run the handler of a method, and return its reply."""
        begun = call_of(request)
        call = Call(begun.method, begun.parameters, more=begun.more)
        caller = Caller(begun.pid, begun.uid)
        exchange = Exchange(caller, begun.more, emit, request.signed)
        reply = await self._dispatcher.reply(call, exchange)
        return ForwardedReply(bytes(reply.parameters), reply.error)
