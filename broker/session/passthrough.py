"""One Wayland connection: bytes and descriptors in, bytes and descriptors out.

The shell (``run``) moves what a ``Core`` says; this issue's core, ``Forward``,
says "the same, to the other side".  The filter core takes its place without
a change here: it may answer a side itself, hold back, or raise PeerError,
which ends the connection.

Order is kept: what one read gave (bytes, and the descriptors that came with
the first of them) goes out as one write.  Back-pressure is kept: at most one
read of ``limits.WAYLAND_READ_BYTES`` waits in each direction, and the side
that does not read stalls only itself.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from broker.core import fdpass, limits
from broker.core.errors import PeerError


class Side(enum.Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    COMPOSITOR = "compositor"

    @property
    def other(self) -> Side:
        """The opposite end."""
        return Side.COMPOSITOR if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True)
class Packet:
    """Bytes for one side.  ``fds`` belong to the packet: sent, then closed."""

    to: Side
    data: bytes
    fds: tuple[int, ...] = ()


class Core(Protocol):
    """What decides about the bytes.  No IO, no clock."""

    def receive(
        self, side: Side, untrusted_data: bytes, fds: tuple[int, ...]
    ) -> Sequence[Packet]:
        """Take what a side sent (its descriptors too) and say what goes where.

        Raises PeerError when the connection has to end.
        """
        ...


class Forward:
    """The core that lets everything through."""

    def receive(
        self, side: Side, untrusted_data: bytes, fds: tuple[int, ...]
    ) -> Sequence[Packet]:
        """Return the same for the other side."""
        return (Packet(side.other, untrusted_data, fds),)


@dataclass
class Counts:
    """Bytes that went to each side."""

    to: dict[Side, int] = field(
        default_factory=lambda: {Side.CLIENT: 0, Side.COMPOSITOR: 0}
    )


class Connection:
    """A client's and a compositor's socket, joined by a core; owns both."""

    def __init__(
        self, client: socket.socket, compositor: socket.socket, core: Core
    ) -> None:
        client.settimeout(0)
        compositor.settimeout(0)
        self._socks = {Side.CLIENT: client, Side.COMPOSITOR: compositor}
        # A core may answer the side that it reads from, so both directions
        # may want to write to one side; what one began it finishes first.
        self._sending = {side: trio.Lock() for side in Side}
        self._core = core
        self._reason = ""
        self.counts = Counts()
        self.answered = trio.Event()
        """Set when the compositor's first bytes have reached the client."""

    async def run(self) -> str:
        """Move until both ends have closed or one breaks; say why it ended.

        The sockets are closed when this returns or is cancelled.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._direction, Side.CLIENT, nursery)
                nursery.start_soon(self._direction, Side.COMPOSITOR, nursery)
        finally:
            for sock in self._socks.values():
                sock.close()
        return self._reason

    async def _direction(self, side: Side, nursery: trio.Nursery) -> None:
        """Read one side to its end."""
        try:
            await self._pump(side)
        except PeerError as error:
            self._end(nursery, str(error))
        except OSError as error:
            self._end(nursery, f"{side.value}: {error.strerror}")
        else:
            self._note(f"{side.value} closed")
            # The other side may still be sending; not for ever.
            nursery.cancel_scope.deadline = min(
                nursery.cancel_scope.deadline,
                trio.current_time() + limits.WAYLAND_LINGER_SECONDS,
            )

    def _note(self, reason: str) -> None:
        """The first reason counts; what follows is its consequence."""
        self._reason = self._reason or reason

    def _end(self, nursery: trio.Nursery, reason: str) -> None:
        self._note(reason)
        nursery.cancel_scope.cancel()

    async def _pump(self, side: Side) -> None:
        while True:
            got = await _receive(self._socks[side])
            if not got.data:
                fdpass.close_all(got.fds)
                break
            for packet in self._core.receive(side, got.data, got.fds):
                await self._send(packet)
        async with self._sending[side.other]:
            try:
                self._socks[side.other].shutdown(socket.SHUT_WR)
            except OSError:
                return  # it is gone altogether; the other direction says why

    async def _send(self, packet: Packet) -> None:
        try:
            async with self._sending[packet.to]:
                sock = self._socks[packet.to]
                left = memoryview(packet.data)
                fds = packet.fds
                while left:
                    sent = await _send_some(sock, left, fds)
                    self.counts.to[packet.to] += sent
                    if packet.to is Side.CLIENT:
                        self.answered.set()
                    left, fds = left[sent:], ()
        finally:
            fdpass.close_all(packet.fds)


async def _receive(sock: socket.socket) -> fdpass.Received:
    await trio.lowlevel.checkpoint()
    while True:
        try:
            return fdpass.receive(
                sock, limits.WAYLAND_READ_BYTES, limits.WAYLAND_FDS_PER_READ
            )
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def _send_some(
    sock: socket.socket, data: memoryview, fds: tuple[int, ...]
) -> int:
    while True:
        try:
            return fdpass.send(sock, data, fds)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
