"""A client of the control socket, for verbs of ``brokerctl`` with an event loop.

One call at a time on a connection.  Errors of the broker are raised as what
they were there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from broker.core.errors import InternalError, VitrailError
from broker.ipc.control import varlink
from broker.ipc.control.answers import answer_in, reply_in
from broker.ipc.control.blocking_connection import (
    ANSWER_SECONDS,
    STARTED_BY,
    gone,
    late,
    require_own,
    unreachable,
)
from broker.ipc.control.method import Method
from broker.ipc.control.shared_methods import GET_VERSION
from broker.ipc.control.types.base import Nothing
from broker.ipc.control.varlink import VarlinkReader, VarlinkReply

_READ_BYTES = 65536
_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class Client:
    """A connection to a broker; made by ``open_client``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = VarlinkReader()
        self._replies: list[bytes] = []
        self._in_call = self._answered = False

    async def call(
        self,
        method: Method[_Request, _Answer],
        request: _Request,
        on_item: Callable[[_Answer], Awaitable[None]] | None = None,
    ) -> _Answer:
        """Call a method of the broker; ``on_item`` gets the items before the answer.

        Raises what the broker refuses with, or UpstreamError when it does not
        answer in time.  A method with items has no deadline.
        """
        timeless = method.waits or on_item is not None
        if timeless and not self._answered:
            # guard: a silent broker is not waited for without an end
            await self._wait_answer()
        with trio.move_on_after(float("inf") if timeless else ANSWER_SECONDS):
            await self._send(
                varlink.request(method.name, request, more=on_item is not None)
            )
            while True:
                reply = await self._reply()
                answer = answer_in(reply, method.answer)
                if on_item is None or not reply.continues:
                    return answer
                await on_item(answer)
        raise late()

    async def _wait_answer(self) -> None:
        """Return when the broker has answered, whatever it says.  Raises UpstreamError."""
        try:
            await self.call(GET_VERSION, Nothing())
        except VitrailError:
            if not self._answered:
                raise

    async def hang_up(self) -> None:
        """Shut down sending, which gives the call up.

        Return when the broker has closed.

        The broker ends what the call has started before it closes.
        """
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when the broker has closed the connection."""
        while await self._receive():
            pass

    async def _send(self, message: bytes) -> None:
        """Begin a call: send its message.  Raises InternalError in another call."""
        if self._in_call:
            raise InternalError("this connection already has an unfinished call")
        self._in_call = True
        try:
            await self._stream.send_all(message + b"\0")
        except trio.BrokenResourceError:
            # It may have refused us and hung up before we asked: the reply
            # is there to be read, and if it is not, reading says so.
            return

    async def _reply(self) -> VarlinkReply:
        """Receive the next reply.

        Raises UpstreamError at the end of the connection.
        """
        while not self._replies:
            data = await self._receive()
            if not data:
                raise gone()
            self._replies += self._reader.feed(data)
        reply = reply_in(self._replies.pop(0))
        self._answered = True
        self._in_call = reply.continues and not reply.error
        return reply

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            return b""


@asynccontextmanager
async def open_client(path: Path, *, start: str = STARTED_BY) -> AsyncIterator[Client]:
    """Connect to the broker that serves at ``path``.

    Raises SetupError when none does, which says ``start``, when it may not be
    reached, or is another user's.
    """
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        raise unreachable(path, error, start) from error
    async with stream:
        require_own(stream.socket, path)
        yield Client(stream)
