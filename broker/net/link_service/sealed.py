"""Sealed records on the link's control connection: a carrier that queues.

Host and viewer run it, each at its end.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
from typing_extensions import override

from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import link as limits
from broker.net.link.epoch import Session
from broker.net.link.sealed_records import SealedRecords
from broker.net.link_service.sockets import receive, send_some
from broker.wire.carrier import QueueingCarrier
from broker.wire.fdpass import Received

_LAST_SECONDS = 1.0
"""Time limit for the last records of a connection that is closed on purpose."""


class Sealed(QueueingCarrier):
    """One end of a control connection; owns the socket until ``finish``."""

    def __init__(self, session: Session, sock: socket.socket, received: bytes) -> None:
        """``received``: bytes that came after the handshake."""
        self._name = session.peer.name
        self._sock = sock
        self._records = SealedRecords(session)
        self._rest = received
        self._received: deque[bytes] = deque()
        self._outbox = bytearray()
        self._more = trio.Event()
        self._is_closed = False
        self._reading = trio.CancelScope()
        """The scope of the read that waits for bytes."""
        self.has_ended = False
        """Whether the other end has closed its connection."""
        self.heard = trio.current_time()
        """When the other end has sent something for the last time."""
        self.news = trio.Event()
        """Set, and replaced, when it sends something."""

    @override
    def put(self, data: bytes) -> None:
        if len(data) > limits.LINK_RECORD_BYTES:
            raise InternalError(f"a message to {self._name} is too large")
        self._outbox += self._records.seal(data)
        self._more.set()

    @override
    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if fds:
            raise InternalError("sealed records carry no descriptors")
        self.put(data)

    @override
    async def run(self) -> None:
        """Send queued records, until cancelled.

        Raises UpstreamError when the other end does not read.
        """
        while True:
            if not self._outbox:
                self._more = trio.Event()
                await self._more.wait()
            with trio.move_on_after(limits.LINK_RECORD_SECONDS) as sending:
                await self._flush()
            if sending.cancelled_caught:
                self._outbox.clear()
                raise UpstreamError(f"{self._name} does not read its messages")

    async def _flush(self) -> None:
        """Send the outbox; sent records leave it, also when cancelled."""
        while self._outbox:
            piece = self._outbox[: limits.LINK_PIECE_BYTES]
            del self._outbox[: await send_some(self._sock, piece)]

    @override
    async def receive(self, fd_limit: int = 0) -> Received:
        """Wait for the next record; empty when the other end, or this one, has closed.

        Raises LinkRefusedError, and UpstreamError for a record that does not end.
        """
        while not self._received and not self._is_closed:
            untrusted, self._rest = self._rest, b""
            if not untrusted:
                untrusted = await self._read()
            if not untrusted:
                return Received(b"", ())
            self.heard = trio.current_time()
            self.news.set()
            self.news = trio.Event()
            self._received.extend(self._records.feed(untrusted))
        # guard: nothing is received after the last message
        if self._is_closed:
            return Received(b"", ())
        return Received(self._received.popleft(), ())

    async def _read(self) -> bytes:
        """Wait for bytes; empty at the end of the connection, or when it is closed here."""
        limit = limits.LINK_RECORD_SECONDS if self._records.in_record else math.inf
        with trio.move_on_after(limit) as self._reading:
            untrusted = await receive(self._sock)
            self.has_ended = not untrusted
            return untrusted
        if self._is_closed:
            return b""
        raise UpstreamError(f"{self._name} did not finish a message in {limit:g} s")

    @override
    def close(self) -> None:
        """Receive nothing more; ``finish`` sends what is queued and closes the socket."""
        self._is_closed = True
        self._reading.cancel()

    async def finish(self, send_last: Callable[[], None]) -> None:
        """Queue the last message, send what can be sent soon, and close the socket."""
        send_last()
        with trio.move_on_after(_LAST_SECONDS):
            with suppress(UpstreamError):  # the other end is gone; this one leaves
                await self._flush()
        self._sock.close()
