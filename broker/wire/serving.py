"""The far end's calls of this end, from the request to the answer.

Each process with a ``peer.Peer`` runs this.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NoReturn

import msgspec
import trio

from broker.core.errors import (
    InternalError,
    PeerError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.core.stderr_log import log_exception
from broker.wire import calls as events
from broker.wire.calls import Calls
from broker.wire.exchange import ServedCall
from broker.wire.habits import Habits
from broker.wire.ledger import Ledger
from broker.wire.row import AnyRow, Empty, handlers
from broker.wire.sender import Sender

CANCELLED = "the call was cancelled"
"""The error of a call that was given up before it was carried out."""


class Serving:
    """Serves the rows of this end, each call in a task."""

    def __init__(
        self,
        calls: Calls,
        sender: Sender,
        parts: Iterable[object],
        *,
        habits: Habits,
        check: Callable[[events.IncomingCall], Any] | None,
        ledger: Ledger,
    ) -> None:
        """Set up without calls; see ``peer.Peer``.

        Raises InternalError unless each row has one handler.
        """
        self._calls = calls
        self._sender = sender
        served = calls.served.values()
        self._handlers = handlers(served, parts)
        guarded = [row.name for row in served if row.permit or row.calls]
        # guard: a row with a permit is served only with a check of it
        if guarded and check is None:
            raise InternalError(f"nobody checks the permits of {', '.join(guarded)}")
        self._immediate = {
            name
            for name, handler in self._handlers.items()
            if not inspect.iscoroutinefunction(handler)
        }
        # guard: no handler runs before the permit and the turn of its call
        if wrong := [r.name for r in served if r.name in self._immediate and _waits(r)]:
            raise InternalError(f"the handler of {', '.join(wrong)} has to wait")
        self._habits = habits
        self._check = check
        self._ledger = ledger
        self._scopes: dict[int, trio.CancelScope] = {}
        """The scopes of calls, by number."""
        self._items: dict[int, trio.Event] = {}
        """Events of paced calls: set when the caller has taken the item."""

    async def take_notice(
        self, notice: events.IncomingNotice, exchange: ServedCall[Any]
    ) -> None:
        """Run the handler of a notice."""
        await self._handlers[notice.row.name](exchange, notice.request)

    def take_item_taken(self, call: int) -> None:
        """Let the next item of a paced call be sent."""
        if call in self._items:
            self._items.pop(call).set()

    def give_up(self, call: int) -> None:
        """End a call whose caller waits no more.  Raises PeerError."""
        # guard: a far end gives no call up where this one gives none up
        if not self._habits.sends_cancels:
            raise PeerError("the far end cancels a call; here none is cancelled")
        if call in self._scopes:
            self._scopes[call].cancel()

    def take_call(
        self,
        incoming: events.IncomingCall,
        exchange: ServedCall[Any],
        nursery: trio.Nursery,
    ) -> None:
        """Begin a call in a task.  Raises PeerError against the ledger."""
        turn: AbstractAsyncContextManager[object] = nullcontext()
        if incoming.row.ordered:
            try:
                self._ledger.note_call(incoming.call, incoming.row, incoming.request)
            except ValueError as error:
                raise PeerError(
                    f"invalid {incoming.row.name} of the {self._calls.far}: {error}"
                ) from error
            turn = self._ledger.turn(incoming.request)
        own_exchange: ServedCall[Any] = ServedCall(incoming.call, exchange.take_fds())
        if incoming.row.item is not None:
            own_exchange.emit = lambda item: self._emit(incoming, item)
            own_exchange.put_item = lambda item: self._put_item(incoming, item)
        self._scopes[incoming.call] = trio.CancelScope()
        work = self._begin_work(incoming, own_exchange)
        nursery.start_soon(self._serve, incoming, own_exchange, turn, work)

    def _begin_work(
        self, incoming: events.IncomingCall, exchange: ServedCall[Any]
    ) -> Awaitable[Any] | None:
        """Run the first part of an immediate handler; return the rest, None for others.

        Raises PeerError of the handler where that ends the connection.
        """
        if incoming.row.name not in self._immediate:
            return None
        try:
            return self._handlers[incoming.row.name](exchange, incoming.request)
        except Exception as error:
            if self._habits.ends_by_handler and isinstance(error, PeerError):
                exchange.close()
                raise
            return _fail_with(error)

    async def _serve(
        self,
        incoming: events.IncomingCall,
        exchange: ServedCall[Any],
        turn: AbstractAsyncContextManager[object],
        work: Awaitable[Any] | None,
    ) -> None:
        """Serve a call in its turn, and send the answer or its error."""
        try:
            try:
                answer, error = await self._handle(incoming, exchange, turn, work)
            finally:
                del self._scopes[incoming.call]
                self._items.pop(incoming.call, None)
            if incoming.row.ordered:
                self._ledger.note_answer(
                    incoming.call, incoming.row, incoming.request, is_done=error is None
                )
            with trio.CancelScope(shield=True):
                await self._answer(incoming, answer, exchange.answer_fds, error)
        finally:
            exchange.close()

    async def _handle(
        self,
        incoming: events.IncomingCall,
        exchange: ServedCall[Any],
        turn: AbstractAsyncContextManager[object],
        work: Awaitable[Any] | None,
    ) -> tuple[msgspec.Struct | None, VitrailError | None]:
        """Check a call's permit, and run its handler; return the answer or the error."""
        row = incoming.row
        try:
            # guard: a call that its caller has given up is ended
            with self._scopes[incoming.call]:
                # guard: ordered calls are served in order
                async with turn:
                    # guard: a process that may open no more files refuses this call
                    if not incoming.has_descriptors:
                        return None, events.lost_descriptors()
                    if self._check is not None and (row.permit or row.calls):
                        exchange.permit = self._check(incoming)
                    if work is None:
                        work = self._handlers[row.name](exchange, incoming.request)
                    return await work, None
        except Exception as problem:
            if self._habits.ends_by_handler and isinstance(sole(problem), PeerError):
                raise
            return None, self._explain(problem)
        return None, UpstreamError(CANCELLED)

    def _explain(self, problem: Exception) -> VitrailError:
        """Return the error that the caller receives."""
        first = sole(problem)
        if isinstance(first, VitrailError) and not isinstance(first, InternalError):
            return first
        # An internal error in one call ends no other.
        log_exception(problem)
        return InternalError(
            f"an internal error occurred in the {self._calls.me}; see the broker's log"
        )

    async def _emit(self, incoming: events.IncomingCall, item: msgspec.Struct) -> None:
        """Send an item of a call; of a paced row, return when it was taken."""
        if not self._sender.live:
            raise self._sender.lost_error()
        # guard: an item that is given up was not sent, or the next one may come
        while incoming.row.paced and incoming.call in self._items:
            await self._items[incoming.call].wait()
        is_taken = self._items[incoming.call] = trio.Event()
        await self._sender.send_or_fail(self._calls.item(incoming.call, item))
        if incoming.row.paced:
            await is_taken.wait()

    def _put_item(self, incoming: events.IncomingCall, item: msgspec.Struct) -> None:
        """Send or queue an item of a call, on a carrier that queues."""
        try:
            self._sender.put(self._calls.item(incoming.call, item))
        except UpstreamError:
            self._sender.give_up_far_end()

    async def _answer(
        self,
        incoming: events.IncomingCall,
        answer: msgspec.Struct | None,
        fds: Sequence[int],
        error: VitrailError | None,
    ) -> None:
        """Send a call's answer and its descriptors, or that it failed."""
        if not self._sender.live:
            return
        if error is None:
            try:
                data = self._calls.answer(incoming.call, answer or Empty(), len(fds))
                await self._sender.send_or_fail(data, fds)
            except InternalError as problem:  # no such answer can be sent
                error = self._explain(problem)
            except OSError as problem:
                # guard: an answer whose descriptor is not taken has an error in its place
                if problem.errno == errno.ETOOMANYREFS:
                    error = self._sender.unsent(problem)
            except UpstreamError:
                self._sender.give_up_far_end()
                return
        if error is not None:
            await self._sender.send(self._calls.fail(incoming.call, error))


def _waits(row: AnyRow) -> bool:
    """Return whether a call of the row waits for a check or its turn."""
    return bool(row.permit or row.calls or row.ordered or row.takes)


async def _fail_with(error: Exception) -> NoReturn:
    raise error
