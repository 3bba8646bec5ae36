"""In the worker: the messages of a connection of the sandbox, read and written in time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import trio

from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.ipc import transfer as messages

_READ_BYTES = 1 << 14


class FramedStream:
    """A socket that is read, and written, by one task at a time."""

    def __init__(
        self,
        sock: trio.socket.SocketType,
        frames: FrameReader,
        seconds: float,
        moved: Callable[[int, int], None],
    ) -> None:
        """Wrap a socket; ``seconds``: within which a message is completed, or read.

        ``moved`` counts bytes in and out.
        """
        self._sock = sock
        self._frames = frames
        self._seconds = seconds
        self._moved = moved
        self._ready: list[bytes] = []

    async def receive(self) -> bytes:
        """Return the next message.  Raises PeerError at the end, or where it stalls."""
        while not self._ready:
            # guard: a message of a sandbox's program is sent whole in time
            within = self._seconds if self._frames.in_frame else math.inf
            with trio.move_on_after(within) as patience:
                untrusted_data = await self._sock.recv(_READ_BYTES)
            if patience.cancelled_caught:
                raise PeerError("the program did not finish a message in time")
            if not untrusted_data:
                raise PeerError("the program closed the connection")
            self._moved(len(untrusted_data), 0)
            self._ready = self._frames.feed(untrusted_data)
        return self._ready.pop(0)

    async def send(self, data: bytes) -> None:
        """Write a message.  Raises PeerError where the program does not read it."""
        left = memoryview(data)
        with trio.move_on_after(self._seconds) as patience:
            while left:
                sent = await self._sock.send(left)
                self._moved(0, sent)
                left = left[sent:]
        if patience.cancelled_caught:
            raise PeerError("the program does not read from the connection")


class ServedStream(ABC):
    """A connection whose messages are passed on to the broker, and those to it written."""

    def __init__(
        self,
        number: int,
        stream: FramedStream,
        say: Callable[[messages.FromWorker], Awaitable[None]],
        order: Callable[[], Awaitable[messages.ToWorker]],
    ) -> None:
        self._number = number
        self._stream = stream
        self._say = say
        self._order = order
        self._reason = ""
        self._refused = ""
        """Why a message was not passed on, which ends nothing."""

    async def run(self) -> str:
        """Serve the stream until the viewer or the program ends it; return why."""
        async with trio.open_nursery() as nursery:

            async def guarded(step: Callable[[], Awaitable[None]]) -> None:
                try:
                    await step()
                except (PeerError, OSError) as error:
                    self._reason = self._reason or printable(str(error), 900)
                nursery.cancel_scope.cancel()

            for step in (self._obey, *self.steps()):
                nursery.start_soon(guarded, step)
        return self._reason or self._refused or "done"

    @abstractmethod
    def steps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return what runs beside the orders; the first that ends ends all."""

    @abstractmethod
    async def take(self, order: messages.StreamTell | messages.DaemonMore) -> None:
        """Follow an order.  Raises PeerError."""

    async def pass_on(self, message: messages.Said) -> None:
        """Tell the broker a message of the program."""
        await self._say(messages.StreamSaid(self._number, message))

    async def _obey(self) -> None:
        """Carry out the viewer's orders until it ends the stream."""
        while True:
            match await self._order():
                case messages.TransferFinish(reason=why):
                    self._reason = printable(why, 900)
                    return
                case messages.StreamTell() | messages.DaemonMore() as order:
                    await self.take(order)
                case _:
                    pass  # of an exchange of files; the broker sends none
