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
from typing import Protocol, TypeAlias

import trio

from broker.core import limits
from broker.core.errors import UpstreamError, sole
from broker.helpers.process.fork_client import (
    ForkedProcess,
    ForkServer,
    ForkServerProgram,
    end_of,
)
from broker.helpers.process.fork_handle import ForkServerHandle, ServerProcess
from broker.helpers.process.spawn import send_signal
from broker.ipc.captured_stderr import FirstWords
from broker.ipc.fork_server import ForkServerKind, ForkSession
from broker.ipc.session import order_messages as messages
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.order_messages import SessionOrder
from broker.ipc.session.program_orders import StartForkServer
from broker.viewer.orders.order_places import OrderPlaces, caused_by
from broker.wire.packets import Packets, pair

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


@dataclass
class Begun:
    """An order that is carried out, while its block runs."""

    result: bytes
    fds: Sequence[int]
    """The block's to close."""
    process: ForkedProcess
    channel: Packets
    _turn: trio.Lock = field(default_factory=trio.Lock)
    """One exchange at a time: a renewal comes between others."""

    async def more(
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> tuple[bytes, Sequence[int]]:
        """Have the same child carry out a further order; as ``UserSession.carry_out``."""
        async with self._turn:
            return await _exchange(self.process, self.channel, order, fds)

    async def hold(self, renewed: Renewed) -> None:
        """Send renewed warrants to the order's child until the permit ends.

        Raises RefusedError.
        """
        while True:
            await trio.sleep(HOLD_SECONDS)
            try:
                await self.more(HoldPermit(renewed()))
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

    async def outcome(self) -> bytes:
        """Wait for the order's second answer, and return it.

        Raises what the order does: VitrailError.
        """
        result, _ = await _receive(self.process, self.channel)
        return result

    async def wait(self) -> int | None:
        """Wait until it has ended; return its exit code, None if that is not known."""
        await self.process.wait()
        return await end_of(self.process.end)


class UserSession(Protocol):
    """Carries out orders with the user's rights."""

    def carrying_out(
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> AbstractAsyncContextManager[Begun]:
        """Have a session child carry out an order while the block runs.

        The block begins when it was answered, and ends its child.  ``fds`` stay the
        caller's.  Raises what the order does: VitrailError.
        """
        ...

    async def carry_out(
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> tuple[bytes, Sequence[int]]:
        """Have a session child carry out an order; return its result and descriptors.

        Raises as ``carrying_out``.
        """
        ...


async def answered_file(session: UserSession, order: SessionOrder) -> bytes:
    """Return the content of the file that answers an order.  Raises VitrailError."""
    _, (fd,) = await session.carry_out(order)
    with os.fdopen(fd, "rb") as file:
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
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> AsyncIterator[Begun]:
        """Fork a session child for an order.  See ``UserSession``."""
        with self._places.one():
            async with self._carrying_out(order, fds) as begun:
                yield begun

    @asynccontextmanager
    async def _carrying_out(
        self, order: SessionOrder, fds: Sequence[int]
    ) -> AsyncIterator[Begun]:
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
            got = await _exchange(child, ours, order, fds)
            yield Begun(*got, child, ours)
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
                    ForkSession, [theirs.fileno(), words.fd]
                )
            child.words = words
            undo.pop_all()
        return child, ours

    async def carry_out(
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> tuple[bytes, Sequence[int]]:
        """See ``UserSession``."""
        async with self.carrying_out(order, fds) as begun:
            return begun.result, begun.fds


@dataclass(eq=False)
class OrderedServer:
    """A fork server that was ordered: ``fork_client.ServerProcess``."""

    pid: int
    _begun: Begun
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
    async with AsyncExitStack() as stack:
        carrying_out = session.carrying_out(order, [theirs.fileno(), _STDERR])
        # It serves all sandboxes, whichever of them has it started again.
        with caused_by(""):
            begun = await stack.enter_async_context(carrying_out)
        return OrderedServer(begun.process.pid, begun, stack.pop_all())


async def _exchange(
    child: ForkedProcess, channel: Packets, order: SessionOrder, fds: Sequence[int]
) -> tuple[bytes, Sequence[int]]:
    """Send the order to its child; return the answer and descriptors.

    Raises UpstreamError with the child's standard error if it has ended.
    """
    try:
        await channel.send(messages.encode(order), fds)
    except OSError as error:
        raise _died(child) from error
    return await _receive(child, channel)


async def _receive(
    child: ForkedProcess, channel: Packets
) -> tuple[bytes, Sequence[int]]:
    """Receive an answer of the child.  Raises the error that it is."""
    try:
        got = await channel.receive(messages.DESCRIPTORS)
    except OSError as error:
        raise _died(child) from error
    if not got.data:
        raise _died(child)
    answer = messages.decode_answer(got.data)
    if isinstance(answer, messages.NotCarried):
        raise answer.error()
    return answer.result, got.fds


def _died(child: ForkedProcess) -> UpstreamError:
    words = "" if child.words is None else child.words.text(400)
    return UpstreamError(
        "the process for an operation with your user's rights ended before it replied"
        f"{words and ': '}{words}",
        hint="look for the reason in the broker's log",
    )


async def _end(child: ForkedProcess) -> None:
    """Send SIGTERM to the child, and SIGKILL when it does not end."""
    send_signal(child.fileno(), signal.SIGTERM)
    with trio.move_on_after(_END_SECONDS):
        await child.wait()
        return
    child.kill()
    await child.wait()
