"""Connections of one sandbox's programs, and the messages of its worker about them.

Claims of a process that may be hostile: each is bounded, and about this sandbox.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from broker.core.errors import PeerError, RefusedError
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import Ask, GuestCall
from broker.viewer.exchange.pipes import PipeEnd
from broker.viewer.exchange.returns import Return

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

Waiting = TypeVar("Waiting")


@dataclass(eq=False)
class Delivery:
    """Entries that wait in a pipe for a program of the target sandbox.

    ``pipe`` is the end to read from; the task that fetches it or gives it up closes it.
    """

    source: str
    open: bool
    quota: Quota
    pipe: int
    size: int = 0
    """Bytes, as the sender has announced them."""
    back: str = ""
    """The token for a changed file's way back; empty where it has none."""
    moved: int = 0
    """Bytes that the target's worker has passed on so far."""
    taken: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    reason: str = ""
    """Why not all of it arrived; empty when it did."""
    moving: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Of the task that waits for the target's worker; cancelled at the end."""

    def end(self, reason: str) -> None:
        """End the delivery: stop its transfer and close its pipe.

        Keeps the first reason.
        """
        if not self.done.is_set():
            self.reason = reason
            self.done.set()
            self.moving.cancel()
            self.close_pipe()

    @property
    def arrived(self) -> bool:
        """Return whether a process at the target has taken all of it."""
        return self.done.is_set() and not self.reason

    def close_pipe(self) -> None:
        """Close our end, once."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


@dataclass(eq=False)
class Gift:
    """Files that the user has pasted or dropped: where they go, and with which result."""

    target: str
    since: float
    """When the user acted."""
    taken: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    reason: str = ""
    left_out: int = 0
    """Entries that the sandbox did not send, by its own count."""

    def end(self, reason: str) -> None:
        """It is over."""
        self.reason = reason
        self.done.set()


@dataclass(eq=False)
class TransferCount:
    """What a transfer has passed on so far, for the log."""

    size: int = 0
    files: int = 0
    opened_in: str = ""
    """The sandbox that has opened or received it, or the user's name in rules."""


class GuestConnection(TransferCount):
    """One connection of a program of the sandbox."""

    def __init__(self, guest: Guest, opening: Opening, *, call: bool = False) -> None:
        super().__init__()
        self.guest = guest
        self.opening = opening
        self.stream = opening.stream
        self.call = call
        self.scope = trio.CancelScope()
        """Cancelled when the connection is over."""
        self.closed: messages.TransferClosed | None = None
        self.sha256 = b""
        """Of a single file that was passed on, as the worker claims."""
        self.relayed: tuple[int, int] = (0, 0)
        """Bytes of a call that the pump has moved, from and to the program."""
        self.delivery: Delivery | None = None
        """The file that is being passed on to the program."""
        self.turn = trio.Lock()
        """Of a program that serves calls: held until it took one, as its worker has
        one order of a call at a time."""
        self._ask: Ask | None = None
        self._passed: messages.TransferPassed | None = None
        self._said: messages.Said | None = None
        self._changed = trio.Event()

    def take(self, message: messages.FromWorker) -> None:
        """Handle a message of the worker about this connection.  Raises PeerError."""
        match message:
            case messages.TransferAsked() if self._ask is None:
                self._ask = message.ask
            case messages.TransferMoved():
                self._count(message)
            case messages.TransferPassed() if self._passed is None:
                self._passed = message
                self.sha256 = message.sha256
                self._count(message)
            case messages.StreamSaid() if self._said is None:
                self._said = message.message
            case messages.TransferClosed():
                self.close(message)
            case _:
                raise PeerError("the worker reported a step of a transfer twice")
        self._changed.set()
        self._changed = trio.Event()

    def _count(self, message: messages.TransferMoved | messages.TransferPassed) -> None:
        self.size, self.files = message.size, message.files
        if self.delivery is not None:
            self.delivery.moved = message.size

    def pass_again(self) -> None:
        """Bytes go through this connection once more: an edited file comes back."""
        self._passed = None

    def close(self, message: messages.TransferClosed) -> None:
        """The connection is over."""
        self.closed = message
        self.scope.cancel()
        self._changed.set()

    async def asked(self) -> Ask:
        """Wait for the request."""
        while self._ask is None:
            await self._changed.wait()
        return self._ask

    async def passed(self) -> str:
        """Wait for the end of the bytes; returns why they ended early."""
        while self._passed is None:
            await self._changed.wait()
        return printable(self._passed.reason, 400)

    async def wait(self, what: str) -> None:
        """Tell its program what it waits for."""
        await self.guest.order(messages.TransferWait(self.stream, what))

    async def wait_for_user(self) -> None:
        """Tell its program that the user is asked."""
        await self.wait("waiting for the user's answer")

    async def moved(self, order: messages.ToWorker, end: PipeEnd) -> str:
        """Have its worker move bytes by a pipe; returns why they ended early."""
        await self.guest.order(order, [end.fileno()])
        end.close()
        return await self.passed()

    async def said(self) -> messages.Said | None:
        """Wait for the program's next message; None where the connection has ended."""
        await (
            trio.lowlevel.checkpoint()
        )  # where its task was cancelled, it ends by that
        while self._said is None and self.closed is None:
            await self._changed.wait()
        said, self._said = self._said, None
        return said

    async def wait_closed(self) -> None:
        """Wait until the worker says that it is over."""
        while self.closed is None:
            await self._changed.wait()


@dataclass(eq=False)
class Meeting:
    """A place where two connections of two sandboxes become one stream."""

    service: GuestCall
    exchange: GuestConnection | None = None
    """The target's, whose worker keeps the connection: an ssh agent's."""
    far: socket.socket | None = None
    """The target's connection; owned by its stream, which waits for ``over``."""
    arrived: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)


class WaitingTokens(Generic[Waiting]):
    """What waits for programs of a sandbox, each by a token."""

    def __init__(
        self, many: str, unknown: str, over: Callable[[Waiting], None] = lambda _: None
    ) -> None:
        """``many`` and ``unknown``: why none is added, or taken; ``over`` ends one."""
        self._many, self._unknown, self._over = many, unknown, over
        self._waiting: dict[str, Waiting] = {}

    @contextmanager
    def one(self, token: str, waiting: Waiting) -> Iterator[None]:
        """Register something that a program may take by a token, once.

        Raises RefusedError.
        """
        if len(self._waiting) >= limits.OPENED_TOKENS:
            raise RefusedError(self._many)
        self._waiting[token] = waiting
        try:
            yield
        finally:
            self._waiting.pop(token, None)
            self._over(waiting)

    def take(self, untrusted_token: str) -> Waiting:
        """Return what a token leads to, and forget it.  Raises RefusedError."""
        # guard: a token of a gift is used once
        # guard: a token of a return is used once
        # guard: a token of a call is used once
        found = self._waiting.pop(untrusted_token, None)
        if found is None:
            raise RefusedError(self._unknown)
        return found


class GuestConnections:
    """All such connections of a sandbox, and the deliveries on their way to it."""

    def __init__(self) -> None:
        self._exchanges: dict[int, GuestConnection] = {}
        self.deliveries = WaitingTokens[Delivery](
            "too many transfers are waiting for this sandbox to fetch them",
            "no transfer to this sandbox has this token",
            lambda delivery: delivery.end("the transfer was cancelled"),
        )
        self.returns = WaitingTokens[Return](
            "too many files are being edited in this sandbox",
            "no file to return has this token",
            lambda way: way.end("the file is no longer expected"),
        )
        self.gifts = WaitingTokens[Gift](
            "too many files are being copied from this sandbox",
            "no requested files have this token",
        )
        """Files that were pasted or dropped."""
        self.calls = WaitingTokens[Meeting](
            "too many calls are waiting for this sandbox to join them",
            "no call with this token is waiting for this sandbox",
            lambda meeting: meeting.over.set(),
        )
        """Calls of others, which only a program of this sandbox joins."""
        self.server: GuestConnection | None = None
        """The program that serves calls, of a sandbox without an agent."""
        self.served = trio.Event()
        """Set while there is one."""

    @contextmanager
    def one(
        self, guest: Guest, opening: Opening, *, call: bool = False
    ) -> Iterator[GuestConnection]:
        """Register a connection.  Raises RefusedError when there are too many.

        ``call``: it is of a call, which may last as long as the sandbox.
        """
        # guard: files on their way to a sandbox take no place of its own requests
        own = (one for one in self._exchanges.values() if one.delivery is None)
        places = sum(one.call is call for one in own)
        if call and places >= limits.CALLS_PER_SANDBOX:
            raise RefusedError(f"the sandbox already has {places} calls, the limit")
        if not call and places >= limits.TRANSFERS_PER_SANDBOX:
            raise RefusedError(f"the sandbox already has {places} requests, the limit")
        exchange = GuestConnection(guest, opening, call=call)
        self._exchanges[opening.stream] = exchange
        try:
            yield exchange
        finally:
            del self._exchanges[opening.stream]

    def take(self, message: messages.FromWorker) -> None:
        """Take a message of the worker; one about an ended exchange is ignored."""
        exchange = self._exchanges.get(message.stream)
        if exchange is not None:
            exchange.take(message)

    def worker_gone(self) -> None:
        """All of its connections are over."""
        for exchange in self._exchanges.values():
            exchange.close(
                messages.TransferClosed(exchange.stream, 0, 0, "the worker died")
            )

    @contextmanager
    def serving(self, connection: GuestConnection) -> Iterator[None]:
        """Register a connection as that of the program which serves calls.

        Raises RefusedError where another one does.
        """
        # guard: one program of a box serves calls
        if self.server is not None:
            raise RefusedError("another program of this sandbox already serves calls")
        self.server = connection
        self.served.set()
        try:
            yield
        finally:
            self.server = None
            self.served = trio.Event()
