"""A protocol filter between two sockets: its tasks, its writer and its end.

The filter, here called the core, is sans-IO: bytes go in, and bytes to be sent
waits in its queues.  A connection of Wayland or of PulseAudio reads the sockets in its
own way (``readiness``) and sends at once what the sockets take; the rest is the same
for both and is here.
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, Generic, Protocol, TypeVar

import trio

from broker.core.errors import UpstreamError, VitrailError

LAST_WORDS_SECONDS = 1.0
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
"""Errors of a socket whose other end has closed it."""


class DuplexCore(Protocol):
    """Interface of a filter to every kind of connection."""

    @property
    def fault(self) -> Exception | None:
        """The error that ended it; nothing is parsed after that."""
        ...

    def fail(self, error: VitrailError) -> None:
        """End for that reason."""
        ...

    def close(self) -> None:
        """Let go of all that the sandbox shares."""
        ...


_Core = TypeVar("_Core", bound=DuplexCore)


class DuplexConnection(ABC, Generic[_Core]):
    """One client, one server, one core.  ``reason`` says why it ended, once it has."""

    KIND: ClassVar[str]
    """The kind of its sockets, for messages: ``a KIND socket failed``."""

    core: _Core

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        client.settimeout(0)
        server.settimeout(0)
        self.reason = ""
        self._work = trio.Event()
        """Something waits that a socket did not take at once."""
        self._over = trio.Event()

    async def run(self) -> None:
        """Serve until either side ends; never raises for their actions.

        The caller owns the sockets and looks at ``core.fault``.
        """
        try:
            async with trio.open_nursery() as nursery:
                for task in self._tasks():
                    nursery.start_soon(task)
                nursery.start_soon(self._write)
                await self._begin()
                await self._over.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self._close()

    @abstractmethod
    def _tasks(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """The tasks beside the writer: they read, and keep the time."""

    @abstractmethod
    async def _begin(self) -> None:
        """Do a connection's first step; its tasks run already."""

    @abstractmethod
    async def _close(self) -> None:
        """Send the last words, and close the core, in the order that it needs."""

    @abstractmethod
    def _send(self, *, to_client: bool) -> bool:
        """Send what one socket takes now; True when nothing is left.

        Raises OSError when the other side has gone.
        """

    @abstractmethod
    async def _drain(self, *, to_client: bool) -> None:
        """Send all that waits for one socket, which takes it when it can."""

    def _sent(self) -> None:
        """Resume what waited for room: the writer has sent it."""

    def _end(self, error: VitrailError | None = None, reason: str = "") -> None:
        """Start the end of the connection; keeps the first reason."""
        if error is not None and self.core.fault is None:
            self.core.fail(error)
        if not self.reason:
            fault = self.core.fault
            self.reason = reason if fault is None else _message(fault)
        self._over.set()

    def _lost(self, error: OSError) -> None:
        """End because a socket failed; not an error when the far end closed it."""
        if error.errno in GONE:
            self._end(reason="one end closed the connection")
        else:
            self._end(UpstreamError(f"a {self.KIND} socket failed: {error.strerror}"))

    async def _write(self) -> None:
        """Send the bytes that a socket did not take at once, until cancelled."""
        while not self._over.is_set():
            await self._work.wait()
            self._work = trio.Event()
            if self.core.fault is not None:
                self._end()  # another ended it: a user, another task
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._drain, to_client=True))
                nursery.start_soon(partial(self._drain, to_client=False))
            self._sent()

    async def _last_words(self, *, to_client: bool) -> None:
        """Send what still waits for one end, for a moment, before the sockets close."""
        sock = self._client if to_client else self._server
        with trio.CancelScope(shield=True), trio.move_on_after(LAST_WORDS_SECONDS):
            try:
                while not self._send(to_client=to_client):
                    await trio.lowlevel.wait_writable(sock)
            except OSError:
                return  # it has gone without listening


def _message(error: Exception) -> str:
    return error.message if isinstance(error, VitrailError) else str(error)
