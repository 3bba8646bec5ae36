"""The pump's end of the socket between a broker and its pump.

Sending never waits: bytes that the socket does not take stay in a queue, and the
epoll set reports when there is room.  The queue is bounded by what the
broker asked for: one ``Done`` for each stream, one answer for each question.
"""

from __future__ import annotations

import select
import socket
from collections import deque

from broker.helpers.pump.channel_messages import decode_to_pump, encode_from_pump
from broker.ipc.pump import MESSAGE_BYTES, FromPump, ToPump


class PumpChannel:
    """Messages to and from the broker; ``alive`` until it has gone."""

    def __init__(self, control: socket.socket, epoll: select.epoll) -> None:
        control.settimeout(0)
        self._control = control
        self._epoll = epoll
        self._queue: deque[bytes] = deque()
        self._blocked = False
        self.alive = True
        self.fd = control.fileno()
        epoll.register(control, select.EPOLLIN)

    def receive(self) -> tuple[ToPump, list[int]] | None:
        """Receive the next message and its descriptors, None when there is none.

        Raises InternalError for a message outside the contract.
        """
        try:
            packet, fds, _, _ = socket.recv_fds(
                self._control, MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            packet, fds = b"", []
        if not packet:
            self.alive = False
            return None
        return decode_to_pump(packet), fds

    def send(self, message: FromPump) -> None:
        """Send a message now or, in order, later."""
        self._queue.append(encode_from_pump(message))
        if not self._blocked:
            self.flush()

    def flush(self) -> None:
        """Send what the socket takes; watch EPOLLOUT while more is left."""
        queue = self._queue
        try:
            while queue:
                self._control.send(queue[0])
                queue.popleft()
        except BlockingIOError:
            self._blocked = True
            self._epoll.modify(self._control, select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            # The broker is gone, and the loop is about to read that too.
            self.alive = False
            return
        if self._blocked:
            self._blocked = False
            self._epoll.modify(self._control, select.EPOLLIN)

    def close(self) -> None:
        """Close the socket; queued messages are lost."""
        self._control.close()
