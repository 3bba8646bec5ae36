"""The control socket's end of calls that another process answers; see ``forward``.

The owner may have been taken over.  What it may not send ends its connection, and an
answer is one JSON value.

Only the authority runs it.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import msgspec
import trio

from broker.core import limits
from broker.core.errors import PeerError, UpstreamError
from broker.core.escape import printable
from broker.core.stderr_log import log_stderr
from broker.ipc.control.forwarded import (
    FORWARDED_CALL,
    FORWARDED_CALL_WITH_ITEMS,
    FORWARDED_ROWS,
    CallWarrant,
    ForwardedCall,
)
from broker.ipc.control.forwarding import forwarding_carrier, forwarding_habits
from broker.ipc.control.method import Exchange
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.ipc.session.warrant import sign
from broker.wire.peer import Peer
from broker.wire.row import ProcessKind


class Forwarder:
    """Has a process answer calls of the control socket; a ``dispatch.Forward``."""

    def __init__(
        self, owner: ProcessKind, sock: socket.socket, key: bytes = b""
    ) -> None:
        """Set up the calls to an ``owner``; ``key``: of the warrants of calls."""
        self._key = key
        self._peer = Peer(
            forwarding_carrier(sock),
            ProcessKind.AUTHORITY,
            owner,
            FORWARDED_ROWS,
            habits=forwarding_habits(),
            lost_error=lambda: UpstreamError(
                f"the {owner} of this broker has ended",
                hint="look for the reason in the broker's log, and with 'brokerctl audit'",
            ),
        )
        self.ended = self._peer.over
        """Set when the process has closed, or has been given up."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Read answers until the process ends or breaks the protocol; return then.

        Calls that are open then, and later ones, raise UpstreamError.
        """
        try:
            await self._peer.run(task_status=task_status)
        except PeerError as error:
            log_stderr(f"vitrail: {printable(str(error))}; it receives no more calls")

    async def __call__(self, call: Call, exchange: Exchange[Any]) -> VarlinkReply:
        """Have the other process answer a call.  Raises RefusedError, UpstreamError.

        Cancelled, it returns when the process has ended the call.
        """
        more = call.more and not call.oneway
        caller, now = exchange.caller, time.monotonic()
        signed = CallWarrant(
            call.method, call.parameters, more, caller.pid, caller.uid, now
        )
        row = FORWARDED_CALL_WITH_ITEMS if more else FORWARDED_CALL
        request = ForwardedCall(sign(self._key, signed))
        async with self._peer.items(row, request) as items:
            try:
                async for item in items:
                    await exchange.emit(msgspec.Raw(item.parameters))
                reply = await items.answer()
            except trio.Cancelled:
                self._peer.abandon(items.pending)
                with trio.move_on_after(limits.CONTROL_CANCEL_SECONDS, shield=True):
                    await items.pending.ended.wait()
                raise
        return VarlinkReply(msgspec.Raw(reply.parameters), error=reply.error)
