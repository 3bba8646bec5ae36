"""The viewer's way to what needs the user's rights: orders to children of the starter.

See ``ipc.session``.  The viewer itself is confined.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec
import trio

from broker.core import limits
from broker.core.errors import InternalError, PeerError, UpstreamError, sole
from broker.helpers.process.fork_client import (
    ForkedProcess,
    ForkServer,
    ForkServerProgram,
    end_of,
)
from broker.helpers.process.fork_handle import ForkServerHandle, ServerProcess
from broker.helpers.process.spawn import send_signal
from broker.ipc.captured_stderr import FirstWords
from broker.ipc.fork_server import FORK_SESSION, ForkServerKind, ForkSession
from broker.ipc.session.bus_orders import HOLD_PERMIT, HoldPermit
from broker.ipc.session.order_rows import MESSAGE_BYTES, ROWS
from broker.ipc.session.program_orders import START_FORK_SERVER, StartForkServer
from broker.viewer.orders.order_places import OrderPlaces, caused_by
from broker.wire import fdpass
from broker.wire.calls import AnswerReceived, Calls, ErrorReceived, ItemReceived
from broker.wire.fdpass import DescriptorsLostError
from broker.wire.packets import Packets, pair
from broker.wire.pending_call import Answer
from broker.wire.row import Empty, ProcessKind, Row

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
_B = TypeVar("_B", bound=msgspec.Struct)

Renewed: TypeAlias = Callable[[], bytes]
"""Return the last warrant of a permit, and have the authority send another one."""
HOLD_SECONDS = 20.0
"""A third of the time for which a warrant is good."""
_END_SECONDS = 3.0
"""For a child that was asked to end."""
_STDERR = 2
_PROGRAM = ForkServerProgram(
    ForkServerKind.HELPERS,
    "an operation with your user's rights",
    lambda: limits.FORK_SERVER_START_SECONDS,
)
"""The starter, a child of that server, which nobody starts again."""


class OrderConnection:
    """The viewer's end of the connection to a session child: one call after the other."""

    def __init__(self, process: ForkedProcess, channel: Packets) -> None:
        self._process = process
        self.channel = channel
        self._number = 0
        """Of the last call."""
        self._calls = Calls(
            ProcessKind.VIEWER,
            ProcessKind.SESSION_CHILD,
            ROWS,
            message_bytes=MESSAGE_BYTES,
        )

    async def call(
        self, row: Row[_Q, _A], request: _Q, fds: Sequence[int], warrant: bytes
    ) -> Answer[_A] | None:
        """Call a row; return the answer, or None at an item, which precedes it.

        Raises UpstreamError with the child's standard error if it has ended.
        """
        self._number, data = self._calls.call(row, request, len(fds), warrant)
        try:
            await self.channel.send(data, fds)
        except OSError as error:
            raise self._died() from error
        return await self.receive()

    async def receive(self) -> Answer[Any] | None:
        """Receive an item or the answer of the last call.  Raises the error that it is."""
        while True:
            event, fds = await self._event()
            if event.call != self._number:
                fdpass.close_all(fds)  # whose caller has been cancelled
                continue
            match event:
                case AnswerReceived(_, answer):
                    return Answer(answer, fds)
                case ErrorReceived(_, failure):
                    raise failure
                case ItemReceived():
                    return None

    async def _event(
        self,
    ) -> tuple[AnswerReceived | ErrorReceived | ItemReceived, list[int]]:
        """Receive the next message about a call, and its descriptors.

        Raises UpstreamError, InternalError.
        """
        calls = self._calls
        try:
            received = await self.channel.receive(calls.most_descriptors)
        except OSError as error:
            raise self._died() from error
        except DescriptorsLostError as error:
            if not error.are_too_many:
                calls.receive(error.data, is_lost=True)  # which ends the call
            raise
        if not received.data:
            raise self._died()
        fds = list(received.fds)
        try:
            event = calls.receive(received.data, len(fds))
        except PeerError as error:
            fdpass.close_all(fds)
            raise InternalError(str(error)) from error
        if isinstance(event, AnswerReceived | ErrorReceived | ItemReceived):
            return event, fds
        raise InternalError("a session child sent a message that is no answer")

    def _died(self) -> UpstreamError:
        first_words = self._process.words
        text = "" if first_words is None else first_words.text(400)
        return UpstreamError(
            "the process for an operation with your user's rights ended before it replied"
            f"{text and ': '}{text}",
            hint="look for the reason in the broker's log",
        )


@dataclass
class Begun(Generic[_A]):
    """An order that is carried out, while its block runs."""

    answered: Answer[_A] | None
    """The answer; None: an item has come, and the answer follows (``outcome``)."""
    process: ForkedProcess
    connection: OrderConnection
    _turn: trio.Lock = field(default_factory=trio.Lock)
    """One exchange at a time: a renewal comes between others."""

    @property
    def value(self) -> _A:
        """The order's answer."""
        return self._answer.value

    @property
    def fds(self) -> Sequence[int]:
        """The answer's descriptors, the block's to close."""
        return self._answer.fds

    @property
    def _answer(self) -> Answer[_A]:
        if self.answered is None:
            raise InternalError("the order has no answer yet")
        return self.answered

    async def more(
        self,
        row: Row[_Q, _B],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> Answer[_B]:
        """Have the same child serve a further call; as ``UserSession.carry_out``."""
        async with self._turn:
            answer = await self.connection.call(row, request, fds, warrant)
        if answer is None:
            raise InternalError(f"{row.name} has items")
        return answer

    async def hold(self, renewed: Renewed) -> None:
        """Send renewed warrants to the order's child until the permit ends.

        Raises RefusedError.
        """
        while True:
            await trio.sleep(HOLD_SECONDS)
            try:
                await self.more(HOLD_PERMIT, HoldPermit(), warrant=renewed())
            except UpstreamError:
                return  # it has ended, and who waits for it notices

    @asynccontextmanager
    async def held(self, renewed: Renewed) -> AsyncIterator[None]:
        """Hold the order's permit while the block runs.  Raises as ``hold``."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.hold, renewed)
                yield
                nursery.cancel_scope.cancel()
        except ExceptionGroup as error:
            raise sole(error) from error  # as the block's

    async def end(self) -> None:
        """Have the child end now; returns when it has.  Not cancellable."""
        with trio.CancelScope(shield=True):
            await _end(self.process)

    async def outcome(self) -> _A:
        """Wait for the answer of an order whose item has come, and return it.

        Raises what the order does: VitrailError.
        """
        while self.answered is None:
            self.answered = await self.connection.receive()
        return self.value

    async def wait(self) -> int | None:
        """Wait until it has ended; return its exit code, None if that is not known."""
        await self.process.wait()
        return await end_of(self.process.end)


class UserSession(Protocol):
    """Carries out orders with the user's rights."""

    def carrying_out(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> AbstractAsyncContextManager[Begun[_A]]:
        """Have a session child carry out an order while the block runs.

        The block begins when it was answered, or has an item, and ends its child.
        ``fds`` stay the caller's.  ``warrant``: what the authority has signed for it.
        Raises what the order does: VitrailError.
        """
        ...

    async def carry_out(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> Answer[_A]:
        """Have a session child carry out an order; return its answer with descriptors.

        Raises as ``carrying_out``.
        """
        ...


async def answered_file(
    session: UserSession, row: Row[_Q, Empty], request: _Q
) -> bytes:
    """Return the content of the file that answers an order.  Raises VitrailError."""
    answer = await session.carry_out(row, request)
    with os.fdopen(answer.fds[0], "rb") as file:
        return file.read()


async def _start_no_other(
    program: ForkServerProgram, _: socket.socket
) -> ServerProcess:
    """Refuse to start another fork server.  Raises UpstreamError."""
    await trio.lowlevel.checkpoint()
    raise UpstreamError(
        f"cannot start a process for {program.what}: its parent process has ended",
        hint="to restart the broker, run 'brokerctl restart'",
    )


class SessionOrders:
    """Has orders carried out by children of the starter; a ``UserSession``."""

    def __init__(self, starter: ForkServerHandle) -> None:
        self._server = ForkServer(_PROGRAM, _start_no_other, first=starter)
        self._places = OrderPlaces()

    @asynccontextmanager
    async def carrying_out(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> AsyncIterator[Begun[_A]]:
        """Fork a session child for an order.  See ``UserSession``."""
        with self._places.one():
            async with self._carrying_out(row, request, fds, warrant) as begun:
                yield begun

    @asynccontextmanager
    async def _carrying_out(
        self, row: Row[_Q, _A], request: _Q, fds: Sequence[int], warrant: bytes
    ) -> AsyncIterator[Begun[_A]]:
        """Fork a session child for an order that has a place."""
        try:
            child, ours = await self._fork()
        except OSError as error:
            raise UpstreamError(
                "cannot open a file descriptor for an operation with your user's rights: "
                f"{error.strerror}",
                hint="raise the limit on open files with 'ulimit -n', and run 'brokerctl restart'",
            ) from error
        try:
            connection = OrderConnection(child, ours)
            answer = await connection.call(row, request, fds, warrant)
            yield Begun(answer, child, connection)
        finally:
            ours.close()
            with trio.CancelScope(shield=True):
                try:
                    # guard: what an order has begun ends with its block
                    await _end(child)
                finally:
                    child.close()

    async def _fork(self) -> tuple[ForkedProcess, Packets]:
        """Fork a child that waits for its order; return it and its channel.

        Raises OSError without descriptors, and as ``ForkServer.fork``.
        """
        with ExitStack() as undo:
            ours, theirs = pair()
            undo.callback(ours.close)
            with theirs:
                words = FirstWords()
                undo.callback(words.close)
                child = await self._server.fork(
                    FORK_SESSION, ForkSession(), [theirs.fileno(), words.fd]
                )
            child.words = words
            undo.pop_all()
        return child, ours

    async def carry_out(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> Answer[_A]:
        """See ``UserSession``."""
        async with self.carrying_out(row, request, fds, warrant=warrant) as begun:
            return Answer(begun.value, list(begun.fds))


@dataclass(eq=False)
class OrderedServer:
    """A fork server that was ordered: ``fork_client.ServerProcess``."""

    pid: int
    _begun: Begun[Empty]
    _order: AsyncExitStack
    _ended: bool = False
    _code: int | None = None
    _turn: trio.Lock = field(default_factory=trio.Lock)

    def kill(self) -> None:
        """See ``ServerProcess``."""
        if not self._ended:
            self._begun.process.kill()

    async def wait(self) -> int | None:
        """Wait for the server's end.  See ``ServerProcess``."""
        async with self._turn:
            if not self._ended:
                self._code = await self._begun.wait()
                self._ended = True
                await self._order.aclose()
        return self._code


async def order_server(
    session: UserSession, program: ForkServerProgram, theirs: socket.socket
) -> OrderedServer:
    """Start a fork server by an order.

    With a session, a ``fork_client.StartServer``.
    """
    order = StartForkServer(program.kind)
    fds = [theirs.fileno(), _STDERR]
    async with AsyncExitStack() as stack:
        carrying_out = session.carrying_out(START_FORK_SERVER, order, fds)
        # It serves all sandboxes, whichever of them has it started again.
        with caused_by(""):
            begun = await stack.enter_async_context(carrying_out)
        return OrderedServer(begun.process.pid, begun, stack.pop_all())


async def _end(child: ForkedProcess) -> None:
    """Send SIGTERM to the child, and SIGKILL when it does not end."""
    send_signal(child.fileno(), signal.SIGTERM)
    with trio.move_on_after(_END_SECONDS):
        await child.wait()
        return
    child.kill()
    await child.wait()
