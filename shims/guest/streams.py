"""Connections that are carried from a socket in the guest to a port of the broker.

The guest agent itself accepts the connections of waypipe and of programs that play sound,
and copies their bytes to and from the broker's ports.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import selectors
import socket
from typing import TYPE_CHECKING, Callable, Deque, List, Optional

from shims.guest.account import remove
from shims.guest.address import Address
from shims.guest.loop import Loop, Timer
from shims.guest.protocol import PIECE_BYTES, STREAMS

if TYPE_CHECKING:
    from shims.guest.guest import Guest

STREAM_QUEUE = 262144  # bytes of one direction of one display connection
LOST_PINGS = 4  # so many times without a display at the broker: ours are dead
HALF_CLOSED_SECONDS = 10.0


class Direction:
    """Bytes on their way from one socket to the other."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces  # bytes of a read, and so of a write
        self.queue: Deque[bytes] = collections.deque()
        self.size = 0
        self.ended = False  # the source has ended
        self.closed = False  # and we passed it on

    def move(self, source: socket.socket, sink: socket.socket) -> None:
        """Read and write as much as possible without blocking.  Raises OSError."""
        for _ in range(8):  # then it is another connection's turn
            if not self.ended and self.size < STREAM_QUEUE:
                self._fill(source)
            before = self.size
            self._drain(sink)
            if self.size or not before:
                break

    def _fill(self, source: socket.socket) -> None:
        """Read from a socket into the queue."""
        try:
            data = source.recv(self._pieces)
        except BlockingIOError:
            return
        if data:
            self.queue.append(data)
            self.size += len(data)
        else:
            self.ended = True

    def _drain(self, sink: socket.socket) -> None:
        """Write from the queue to a socket."""
        try:
            while self.queue:
                sent = sink.send(self.queue[0])
                self.size -= sent
                rest = self.queue.popleft()[sent:]
                if rest:
                    self.queue.appendleft(rest)
        except BlockingIOError:
            return
        if self.ended and not self.closed and not self.queue:
            self.closed = True
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise


class Pair:
    """A connection of a program in the guest, and its connection to the broker.

    ``near`` is the program's (waypipe, or a program with sound); ``far`` is None until
    ``join``.
    """

    def __init__(
        self,
        loop: Loop,
        near: socket.socket,
        closed: "Callable[[Pair], None]",
        pieces: int,
    ) -> None:
        """Set up a pair without the broker's side; nothing is read yet.

        ``closed`` is called once both sockets are closed; ``pieces``: the most bytes of a
        write to the broker.
        """
        self._loop = loop
        self._near = near
        self._far: Optional[socket.socket] = None
        self._closed = closed
        self._out = Direction(pieces)
        self._back = Direction(PIECE_BYTES)
        self._patience: Optional[Timer] = None
        self.unseen = 0  # pings in a row in which the broker had no display

    @property
    def joined(self) -> bool:
        """Return whether the broker's side is there."""
        return self._far is not None

    def join(self, far: socket.socket) -> None:
        """Copy between the program and this connection to the broker from now on."""
        self._far = far
        self._watch()

    def close(self) -> None:
        """Close both sockets and report the pair as closed."""
        if self._patience is not None:
            self._patience.cancel()
        for sock in (self._near, self._far):
            if sock is not None and sock.fileno() >= 0:
                self._loop.forget(sock.fileno())
                sock.close()
        self._closed(self)

    def _ready(self, _events: int) -> None:
        """Move bytes both ways; close when a side has gone."""
        assert self._far is not None
        try:
            self._out.move(self._near, self._far)
            self._back.move(self._far, self._near)
        except OSError:
            # One side has gone; the other learns it from the close.
            self.close()
            return
        if self._out.closed and self._back.closed:
            self.close()
            return
        if self._patience is None and (self._out.closed or self._back.closed):
            # Hybrid vsock makes a half-close a full one, so no end may follow.
            self._patience = self._loop.later(HALF_CLOSED_SECONDS, self.close)
        self._watch()

    def _watch(self) -> None:
        """Await what each side can do now."""
        assert self._far is not None
        sides = (
            (self._near, self._out, self._back),
            (self._far, self._back, self._out),
        )
        for sock, reads, writes in sides:
            events = 0
            if not reads.ended and reads.size < STREAM_QUEUE:
                events |= selectors.EVENT_READ
            if writes.queue:
                events |= selectors.EVENT_WRITE
            self._loop.watch(sock.fileno(), events, self._ready)


class StreamCarrier:
    """Accepts connections at a socket and carries each to a port of the broker."""

    def __init__(
        self,
        guest: "Guest",
        hop: str,
        path: str,
        address: Address,
        *,
        theirs: bool = False,
    ) -> None:
        """Set up; ``theirs``: the socket's directory is the user's, else root's."""
        self._hop = hop
        self._guest = guest
        self._loop = guest.loop
        self._address = address
        self._pairs: List[Pair] = []
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with guest.account.rights() if theirs else contextlib.nullcontext():
            remove(path)
            mask = os.umask(0o177)
            try:
                self._listener.bind(path)
            finally:
                os.umask(mask)
        if not theirs:
            os.chown(path, guest.account.uid, guest.account.gid)
        self._listener.listen(64)
        self._listener.settimeout(0)
        self._watch()

    def _watch(self) -> None:
        # At the limit the next connection waits in the backlog.
        events = selectors.EVENT_READ if len(self._pairs) < STREAMS else 0
        self._loop.watch(self._listener.fileno(), events, self._accept)

    def _accept(self, _events: int) -> None:
        """Accept a program and connect to the broker for it."""
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        near.settimeout(0)
        pair = Pair(self._loop, near, self._gone, self._guest.settings.pieces)
        self._pairs.append(pair)
        self._watch()
        self._address.connect(
            self._loop, lambda far, code: self._connected(pair, far, code)
        )

    def _connected(self, pair: Pair, far: Optional[socket.socket], code: int) -> None:
        """Carry a program's bytes, or report a failed connection."""
        if far is None:
            why = os.strerror(code)
            what = f"cannot connect to the broker's {self._hop} port: {why}"
            self._guest.hop(self._hop, what, ok=False)
            pair.close()
            return
        self._guest.hop(self._hop, ok=True)
        pair.join(far)

    def lead_to(self, address: Address) -> Address:
        """Carry new connections there; returns where they went before."""
        before, self._address = self._address, address
        return before

    def counted(self, number: int) -> None:
        """The broker has so many of them."""
        for pair in [pair for pair in self._pairs if pair.joined]:
            pair.unseen = 0 if number else pair.unseen + 1
            if pair.unseen >= LOST_PINGS:
                pair.close()

    def cut_all(self) -> None:
        """End every connection that is carried; new ones may come."""
        for pair in [pair for pair in self._pairs if pair.joined]:
            pair.close()

    def _gone(self, pair: Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
            self._watch()
