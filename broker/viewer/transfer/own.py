"""The user's own files and programs, as orders to children of the starter.

This module opens and looks up no path of the user; see ``ipc.session.file_orders``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import trio

from broker.core.errors import InternalError, RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.transfer.entries import SENDER_LEFT
from broker.core.transfer.urls import Url
from broker.ipc import sealed_memfd
from broker.ipc.guest.file_requests import ChooseFiles
from broker.ipc.session import file_orders as m
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.exchange.pipes import PipeEnd
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.wire import fdpass
from broker.wire.row import Row

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)

_PRINT_SECONDS = 60.0
_SENDER_SECONDS = 5.0
"""For the end of a process of the user's that has left its pipe."""


@dataclass(frozen=True)
class UserFiles:
    """Files that the user has named or chosen."""

    found: m.FoundFiles
    ticket: bytes
    """The permission to use them."""


@dataclass
class ToolResult:
    """What the program for files has written, once it has ended."""

    answer: m.FilesProgramEnded | m.KeptPages | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def written(self) -> bytes:
        """The standard error of the program."""
        return (
            self.answer.written if isinstance(self.answer, m.FilesProgramEnded) else b""
        )

    async def left_out(self) -> str:
        """Return what was not sent, as text, once all else has arrived."""
        with trio.move_on_after(_SENDER_SECONDS):
            await self.ended.wait()
        # Names of the user's files, in a line of their own.
        lines = self.written.strip().splitlines()
        return "\n".join(printable(line, 1800) for line in lines)

    @property
    def before(self) -> bytes:
        """SHA-256 of a file before its edit, or of what was saved."""
        digest, _, _ = self.written.partition(b"\n")
        return bytes.fromhex(digest.removeprefix(b"sha256 ").decode())

    @property
    def text(self) -> str:
        """The outcome of an edit, for the user."""
        return printable(self.written.partition(b"\n")[2].strip(), 400)

    @property
    def kept(self) -> m.KeptPages:
        """The document that was made."""
        if not isinstance(self.answer, m.KeptPages):
            raise InternalError("the order has made no document")
        return self.answer


class Own:
    """The user's files, and programs for addresses, documents and printing."""

    def __init__(self, session: UserSession) -> None:
        self._session = session

    async def open_url(self, url: Url, warrant: bytes, *, called: bool = False) -> None:
        """Have a session child open an address by a program of the user's session.

        ``called``: the warrant is that of a call.  Raises SetupError without a program
        for it, UpstreamError where that fails at once.
        """
        if called:
            order = m.OpenNamedAddress(url.canonical)
            await self._session.carry_out(m.OPEN_NAMED_ADDRESS, order, warrant=warrant)
        else:
            address = m.OpenAddress(url.canonical)
            await self._session.carry_out(m.OPEN_ADDRESS, address, warrant=warrant)

    # -- which files -------------------------------------------------------------------

    async def named(
        self, warrant: bytes, writable: Sequence[os.PathLike[str]]
    ) -> UserFiles:
        """Return the files that a call names.  Raises RefusedError."""
        order = m.FindNamedFiles(tuple(map(os.fsencode, writable)))
        with ExitStack() as stack:
            fds = [_in_memory(stack, warrant)]
            return await self._found(m.FIND_NAMED_FILES, order, fds)

    async def choose(
        self, ask: ChooseFiles, warrant: bytes, writable: Sequence[os.PathLike[str]]
    ) -> UserFiles:
        """Show a file dialog until the user has answered; return what was chosen.

        It is closed when this is cancelled.  Raises VitrailError.
        """
        order = m.ChooseOnDesktop(ask, tuple(map(os.fsencode, writable)))
        return await self._found(m.CHOOSE_ON_DESKTOP, order, warrant=warrant)

    async def _found(
        self,
        row: Row[_Q, m.FoundFiles],
        order: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> UserFiles:
        """Carry out an order that finds files; return these with their ticket."""
        answer = await self._session.carry_out(row, order, fds, warrant=warrant)
        with ExitStack() as stack:
            stack.callback(fdpass.close_all, answer.fds)
            return UserFiles(answer.value, b"".join(map(m.from_memory, answer.fds)))

    async def dropped(
        self, key: str, sandbox: str, writable: Sequence[os.PathLike[str]]
    ) -> UserFiles:
        """Return the files that the user has dropped on a sandbox's window.

        ``key``: by which the desktop's document portal knows them.  Raises VitrailError.
        """
        places = tuple(map(os.fsencode, writable))
        order = m.FindDroppedFiles(key, sandbox, places)
        return await self._found(m.FIND_DROPPED_FILES, order)

    # -- their bytes -------------------------------------------------------------------

    @asynccontextmanager
    async def storing(self, delivery: Delivery, warrant: bytes) -> AsyncIterator[None]:
        """Keep a delivery below ``~/Incoming/SOURCE`` while the block runs."""
        async with trio.open_nursery() as nursery:
            # The delivery closes its own when it ends.
            nursery.start_soon(self._store, delivery, os.dup(delivery.pipe), warrant)
            delivery.taken.set()
            try:
                yield
            except BaseException:
                delivery.end(SENDER_LEFT)
                nursery.cancel_scope.cancel()
                raise

    async def _store(self, delivery: Delivery, pipe: int, warrant: bytes) -> None:
        """Store a delivery among the user's files, read from a pipe."""
        order = m.StoreFiles()
        try:
            with ExitStack() as stack:
                stack.callback(os.close, pipe)
                async with self._session.carrying_out(
                    m.STORE_FILES, order, [pipe], warrant=warrant
                ) as begun:
                    await begun.outcome()
        except (RefusedError, SetupError, UpstreamError) as error:
            delivery.end(str(error))
        else:
            delivery.end("")

    def sending(
        self, ticket: bytes, write: PipeEnd, warrant: bytes = b""
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Write the entries of files into a pipe while the block runs.

        ``warrant``: of the permit, for files that were dropped.
        """
        if not warrant:
            order = m.SendFiles()
            return self._beside(m.SEND_FILES, order, [write], ticket, awaited=False)
        return self._beside(
            m.SEND_DROPPED_FILES,
            m.SendDroppedFiles(),
            [write],
            ticket,
            warrant=warrant,
            awaited=False,
        )

    async def send(
        self,
        files: UserFiles,
        write: PipeEnd,
        delivery: Delivery,
        follow: Callable[[], Awaitable[object]],
        warrant: bytes = b"",
    ) -> str:
        """Write the entries of files into the pipe of a delivery until it has ended.

        ``follow`` returns at its end; ``warrant`` is as of ``sending``.  Returns what was
        left out, as text.  Raises VitrailError.
        """
        left_out = ""
        async with self.sending(files.ticket, write, warrant) as result:
            await follow()
            if not delivery.reason:
                left_out = await result.left_out()
            if delivery.reason == SENDER_LEFT:
                # Its own error has the file and the reason; it ends this block.
                with trio.move_on_after(_SENDER_SECONDS):
                    await trio.sleep_forever()
        if delivery.reason:
            raise RefusedError(delivery.reason)
        return left_out

    def saving(
        self, ticket: bytes, number: int, read: PipeEnd, before: str
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Save the one entry of a pipe into a chosen file, while the block runs.

        ``before``: the SHA-256 of what was saved before, in hex; empty at the first time.
        """
        return self._beside(m.SAVE_FILE, m.SaveFile(number, before), [read], ticket)

    def editing(
        self, ticket: bytes, origin: str, write: PipeEnd, back: PipeEnd
    ) -> AbstractAsyncContextManager[ToolResult]:
        """Write a file's entries into a pipe; replace it by what another one has.

        The block has to close the other end of ``back``.
        """
        return self._beside(m.EDIT_FILE, m.EditFile(origin), [write, back], ticket)

    @asynccontextmanager
    async def _beside(
        self,
        row: Row[_Q, m.FilesProgramEnded],
        order: _Q,
        ends: Sequence[PipeEnd],
        ticket: bytes,
        *,
        warrant: bytes = b"",
        awaited: bool = True,
    ) -> AsyncIterator[ToolResult]:
        """Carry out an order beside the block, on ends of pipes, which it takes over.

        The result is complete once the block has ended, which ``awaited`` waits for.
        """
        with ExitStack() as stack:
            fds = [_in_memory(stack, ticket), *(end.fileno() for end in ends)]
            async with self._session.carrying_out(
                row, order, fds, warrant=warrant
            ) as begun:
                for end in ends:
                    end.close()  # the process has its own, whose end is the pipe's
                async with _followed(begun, awaited=awaited) as result:
                    yield result

    # -- printing ----------------------------------------------------------------------

    @asynccontextmanager
    async def keeping_pages(
        self, name: str, read: PipeEnd
    ) -> AsyncIterator[AbstractAsyncContextManager[ToolResult]]:
        """Make a document of the pages in a pipe; it is there while the block runs.

        The result of what is yielded is complete once a block of it has ended.
        """
        order = m.KeepPages(name)
        fds = [read.fileno()]
        async with self._session.carrying_out(m.KEEP_PAGES, order, fds) as begun:
            read.close()
            yield _followed(begun)

    async def usual_printer(self) -> str:
        """Return the name of the desktop's usual printer.  Raises SetupError."""
        order = m.FindUsualPrinter()
        return (await self._patiently(m.FIND_USUAL_PRINTER, order, "lpstat")).name

    async def print_document(
        self, document: str, printer: str, title: str, warrant: bytes
    ) -> None:
        """Send a document to a printer.  Raises UpstreamError, SetupError."""
        order = m.PrintDocument(document, printer, title)
        await self._patiently(m.PRINT_DOCUMENT, order, "lp", warrant)

    async def _patiently(
        self, row: Row[_Q, _A], order: _Q, program: str, warrant: bytes = b""
    ) -> _A:
        """Carry out an order that may take long; return its answer.

        Raises UpstreamError when it takes too long.
        """
        with trio.move_on_after(_PRINT_SECONDS):
            answer = await self._session.carry_out(row, order, warrant=warrant)
            return answer.value
        raise UpstreamError(
            f"{program} did not finish within {_PRINT_SECONDS:g} s",
            hint="to check the print server, run 'lpstat -t'",
        )


@asynccontextmanager
async def _followed(
    begun: Begun[m.FilesProgramEnded] | Begun[m.KeptPages], *, awaited: bool = True
) -> AsyncIterator[ToolResult]:
    """Wait for the answer of an order that has begun while the block runs."""
    result = ToolResult()

    async def follow() -> None:
        result.answer = await begun.outcome()
        result.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        yield result
        if not awaited:
            nursery.cancel_scope.cancel()


def _in_memory(stack: ExitStack, data: bytes) -> int:
    fd = sealed_memfd.sealed([data])
    stack.callback(os.close, fd)
    return fd
