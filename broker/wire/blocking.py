"""One end of a connection in a process without an event loop.

Fork servers, session children, the starter and root's device service run it: they answer
one message after the other.  The rules are those of ``calls.Calls``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from broker.core.errors import VitrailError
from broker.wire import fdpass
from broker.wire.calls import CALLS, MESSAGE_BYTES, Calls, Event
from broker.wire.fdpass import DescriptorsLostError
from broker.wire.memory import call_patiently
from broker.wire.row import AnyRow, Empty, ProcessKind


class ReceivedEvent(NamedTuple):
    """An event, and the descriptors that came with it, the receiver's to close."""

    event: Event
    fds: tuple[int, ...]


class BlockingEnd:
    """One end of a SEQPACKET socket pair; the socket stays the caller's."""

    def __init__(
        self,
        sock: socket.socket,
        me: ProcessKind,
        far: ProcessKind,
        rows: Mapping[str, AnyRow],
        *,
        most_calls: int = CALLS,
        message_bytes: int = MESSAGE_BYTES,
        send_flags: int = 0,
    ) -> None:
        """``send_flags``: of each message, as MSG_DONTWAIT."""
        self._sock = sock
        self._message_bytes = message_bytes
        self._send_flags = send_flags
        self.calls = Calls(
            me, far, rows, most_calls=most_calls, message_bytes=message_bytes
        )

    def receive(self, flags: int = 0) -> ReceivedEvent | None:
        """Wait for the next message; None: the far end has closed.

        Raises PeerError for a message that it may not send, OSError; with MSG_DONTWAIT
        BlockingIOError when there is none.
        """
        fd_limit, is_lost = self.calls.most_descriptors, False
        fds: tuple[int, ...] = ()
        try:
            data, fds = call_patiently(
                lambda: fdpass.receive(self._sock, self._message_bytes, fd_limit, flags)
            )
        except DescriptorsLostError as error:
            # guard: descriptors beyond the limit end a blocking connection
            if error.are_too_many:
                raise
            data, is_lost = error.data, True
        if not data:
            return None
        try:
            event = self.calls.receive(data, len(fds), is_lost=is_lost)
        except BaseException:
            fdpass.close_all(fds)
            raise
        return ReceivedEvent(event, fds)

    def answer(
        self, call: int, answer: msgspec.Struct | None = None, fds: Sequence[int] = ()
    ) -> None:
        """Answer a call.  The caller keeps ``fds``.

        Raises OSError if nobody waits; then the call is still open.
        """
        row = self.calls.row_of(call)
        data = self.calls.answer(call, answer or Empty(), len(fds))
        try:
            self._send(data, fds)
        except OSError:
            self.calls.reopen(call, row)
            raise

    def emit(self, call: int, item: msgspec.Struct) -> None:
        """Send an item of a call.  Raises OSError as ``answer``."""
        self._send(self.calls.item(call, item))

    def fail(self, call: int, error: VitrailError) -> None:
        """Answer a call with its error.  Raises OSError as ``answer``."""
        self._send(self.calls.fail(call, error))

    def notify(
        self, row: AnyRow, request: msgspec.Struct, fds: Sequence[int] = ()
    ) -> None:
        """Send a notice.  Raises OSError as ``answer``."""
        self._send(self.calls.notify(row, request, len(fds)), fds)

    def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        call_patiently(lambda: fdpass.send(self._sock, data, fds, self._send_flags))
