"""One end of a connection between two of our processes: calls out, calls in.

``call`` sends a request and waits for its answer.  A call of the far end runs its handler
(``row.serves``) in a task of its own, and what that returns or raises goes back.  The
rules of a connection are in ``calls.Calls``; this moves bytes and tasks.

The far end may be taken over.  A message that no honest process sends raises PeerError
out of ``run``, which ends this connection.

Host, viewer, authority and workers run it, each for the other.
"""

from __future__ import annotations

import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from broker.core.errors import (
    InternalError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.wire import calls as events
from broker.wire.calls import Calls
from broker.wire.carrier import Carrier
from broker.wire.exchange import ServedCall
from broker.wire.fdpass import DescriptorsLostError
from broker.wire.habits import ORDINARY, Habits
from broker.wire.items import ItemStream
from broker.wire.ledger import Ledger
from broker.wire.pending_call import Answer, PendingCall
from broker.wire.row import AnyRow, ProcessKind, Row
from broker.wire.sender import Sender
from broker.wire.serving import Serving

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
_PACED = (
    events.IncomingCall | events.IncomingNotice | events.ItemReceived | events.Pinged
)


class Peer:
    """One end of a connection.  Owns its carrier."""

    def __init__(
        self,
        carrier: Carrier,
        me: ProcessKind,
        far: ProcessKind,
        rows: Mapping[str, AnyRow],
        parts: Iterable[object] = (),
        *,
        habits: Habits = ORDINARY,
        check: Callable[[events.IncomingCall], Any] | None = None,
        ledger: Ledger | None = None,
        pace: Callable[[], Awaitable[None]] | None = None,
        foreign_error: Callable[[VitrailError], VitrailError] | None = None,
        lost_error: Callable[[], UpstreamError] | None = None,
        closes_carrier: bool = True,
    ) -> None:
        """Set up one end.

        ``parts`` have the handlers of the rows that ``me`` serves.  ``check`` returns the
        verified permit of a call, or raises RefusedError.  ``pace`` is awaited after each
        call, notice, item and ping of the far end.  ``foreign_error`` returns the error to
        raise for one that the far end has sent.  ``lost_error`` returns the error of calls
        whose connection has ended.  ``closes_carrier``: at the end of ``run``; else the
        owner of this end closes it, after a last message.  Raises InternalError unless
        each row has one handler.
        """
        self._carrier = carrier
        self._sender = Sender(
            carrier,
            far,
            lost_error or (lambda: UpstreamError(f"the {far} has ended")),
        )
        self._calls = Calls(
            me,
            far,
            rows,
            most_calls=habits.most_calls,
            message_bytes=habits.message_bytes,
        )
        self._habits = habits
        self._ledger = ledger or Ledger()
        self._serving = Serving(
            self._calls,
            self._sender,
            parts,
            habits=habits,
            check=check,
            ledger=self._ledger,
        )
        self._pace = pace
        self._foreign_error = foreign_error
        self._closes_carrier = closes_carrier
        self._room = trio.Semaphore(habits.most_calls)
        self._pending: dict[int, PendingCall] = {}
        self._nursery: trio.Nursery | None = None
        self._ponged = trio.Event()
        self._pongs = 0
        self.over = trio.Event()
        """Set when the connection is closed."""

    @property
    def live(self) -> bool:
        """Whether calls can be made."""
        return self._sender.live

    # -- calling -----------------------------------------------------------------------

    async def call(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
    ) -> _A:
        """Call a row whose answer has no descriptors, and return the answer's value.

        ``fds`` stay the caller's.  ``warrant``: what the authority has signed for it.
        Raises the far end's error, or UpstreamError when the connection ends before the
        answer.
        """
        return (await self.call_with_fds(row, request, fds, warrant=warrant)).value

    async def call_with_fds(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
        on_item: Callable[[Any], None] | None = None,
    ) -> Answer[_A]:
        """Call a row; return its answer and the descriptors.  Raises as ``call``.

        ``on_item`` is called with each item while the message is read.
        """
        pending = await self.begin(row, request, fds, warrant=warrant, on_item=on_item)
        return await self.finish(pending)

    async def begin(
        self,
        row: Row[_Q, _A],
        request: _Q,
        fds: Sequence[int] = (),
        *,
        warrant: bytes = b"",
        on_item: Callable[[Any], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> PendingCall:
        """Send the request of a call, which ``finish`` waits for.  Raises as ``call``.

        On a carrier that queues, it is sent before anything else can happen.
        """
        waits = self._habits.waits_for_room and not row.at_once
        if waits:
            # A place is free again when the answer is here, not when the caller has lost
            # interest: the far end counts in the same way.
            await self._room.acquire()
        pending = PendingCall(row, request, on_item, on_end, warrant)
        pending.release = self._room.release if waits else None
        try:
            if self._sender.queue is not None:
                self._sender.queue.put(self._enter(pending, 0))
            else:
                async with self._sender.turn:
                    data = self._enter(pending, len(fds))
                    # What both ends note follows the messages that were sent.
                    with trio.CancelScope(shield=row.ordered):
                        await self._sender.send_in_turn(data, fds)
        except BaseException:
            self._pending.pop(pending.number, None)
            self._calls.unsend(pending.number)
            pending.leave_room()
            raise
        return pending

    def _enter(self, pending: PendingCall, descriptors: int) -> bytes:
        """Enter a call from this end, and return its bytes."""
        if not self.live:
            raise self._sender.lost_error()
        row, request = pending.row, pending.request
        pending.number, data = self._calls.call(
            row, request, descriptors, pending.warrant
        )
        self._pending[pending.number] = pending
        if row.ordered:
            try:
                self._ledger.note_call(pending.number, row, request)
            except ValueError as error:
                raise InternalError(f"cannot send {row.name}: {error}") from error
        return data

    async def finish(self, pending: PendingCall) -> Answer[Any]:
        """Wait for the answer of a call that ``begin`` sent.  Raises as ``call``."""
        try:
            with trio.fail_after(pending.row.seconds or math.inf):
                await pending.ended.wait()
        except trio.TooSlowError as error:
            self.abandon(pending)
            raise UpstreamError(
                f"the {self._calls.far} did not answer within {pending.row.seconds:g} s"
            ) from error
        except trio.Cancelled:
            if not (self._habits.follows_cancelled and pending.row.droppable):
                self.abandon(pending)
                raise
            with trio.CancelScope(shield=True):
                # guard: a caller that leaves cancels its call at the far end
                await self._sender.send(self._calls.cancel(pending.number))
                await pending.ended.wait()
            if pending.error is not None:
                raise  # nothing was done that the caller could undo
        if pending.error is not None:
            raise pending.error
        return Answer(pending.value, pending.fds)

    def abandon(self, pending: PendingCall) -> None:
        """Wait no more for a call: its answer is dropped, a droppable one given up."""
        is_droppable = pending.row.droppable and self._habits.sends_cancels
        if pending.drop() and is_droppable:
            self._put(self._calls.cancel(pending.number))

    @asynccontextmanager
    async def items(
        self, row: Row[_Q, _A], request: _Q
    ) -> AsyncIterator[ItemStream[_A]]:
        """Call a row while the block runs, which reads its items one by one.

        Raises as ``call``.
        """
        stream: ItemStream[_A] = ItemStream(self)
        stream.pending = await self.begin(
            row, request, on_item=stream.take, on_end=stream.end
        )
        try:
            yield stream
        finally:
            self.abandon(stream.pending)

    def take_item(self, pending: PendingCall) -> None:
        """Ask for the next item of a paced call."""
        if pending.row.paced and not pending.ended.is_set():
            self._put(self._calls.take_item(pending.number))

    def encode_notice(self, row: Row[_Q, _A], request: _Q) -> bytes:
        """Return the bytes of a notice, for a carrier that sends it in its own time."""
        return self._calls.notify(row, request)

    @property
    def oldest_pending(self) -> PendingCall | None:
        """The oldest call of this end without an answer."""
        return next(iter(self._pending.values()), None)

    async def notify(
        self, row: Row[_Q, _A], request: _Q, fds: Sequence[int] = ()
    ) -> None:
        """Send a notice; waits for room.  The task that reads notices a lost far end."""
        await self._sender.send(self._calls.notify(row, request, len(fds)), fds)

    def put_notice(self, row: Row[_Q, _A], request: _Q) -> None:
        """Send or queue a notice, on a carrier that queues; never waits.

        Raises UpstreamError when the far end has closed, or does not read.
        """
        self._sender.put(self._calls.notify(row, request))

    # -- receiving ---------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the far end has closed.

        Raises PeerError for a message that it may not send.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._sender.queue is not None:
                    nursery.start_soon(self._sender.queue.run)
                task_status.started()
                try:
                    await self._read(nursery)
                finally:
                    # Before our tasks are waited for: one of them may wait, shielded,
                    # for an answer of that end.
                    # guard: a call that waits as the far end is lost is lost with it
                    self.lose()
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise sole(group) from group
        finally:
            self._nursery = None
            self.lose()
            if self._closes_carrier:
                self._carrier.close()
            self.over.set()

    def lose(self) -> None:
        """Make no more calls; those that wait fail."""
        self._sender.live = False
        pending, self._pending = self._pending, {}
        for call in pending.values():
            self._settle(call, self._sender.lost_error())

    async def _read(self, nursery: trio.Nursery) -> None:
        """Receive and handle the far end's messages until it closes."""
        while True:
            is_lost = False
            try:
                data, fds = await self._carrier.receive(self._calls.most_descriptors)
            except DescriptorsLostError as error:
                # guard: descriptors beyond the limit end the connection
                if error.are_too_many:
                    raise
                data, fds, is_lost = error.data, (), True
            except trio.ClosedResourceError:
                return  # the owner of this end has closed it
            if not data:
                return
            exchange: ServedCall[Any] = ServedCall(0, list(fds))
            try:
                event = self._calls.receive(data, len(fds), is_lost=is_lost)
                await self._take(event, exchange, nursery)
            finally:
                exchange.close()
            if self._pace is not None and isinstance(event, _PACED):
                await self._pace()

    async def _take(
        self, event: events.Event, exchange: ServedCall[Any], nursery: trio.Nursery
    ) -> None:
        """Handle a message: begin or cancel a call, settle one, or run a notice."""
        match event:
            case events.IncomingCall():
                self._serving.take_call(event, exchange, nursery)
            case events.IncomingNotice():
                await self._serving.take_notice(event, exchange)
            case events.Cancelled(call):
                self._serving.give_up(call)
            case events.ItemTaken(call):
                self._serving.take_item_taken(call)
            case events.Pinged():
                # guard: pings of a far end that does not read fill no memory
                if not self._pongs:
                    self._pongs += 1
                    nursery.start_soon(self._pong)
            case events.Ponged():
                self._ponged.set()
            case _:
                self._take_reply(event, exchange)

    def _take_reply(
        self,
        event: events.ItemReceived | events.AnswerReceived | events.ErrorReceived,
        exchange: ServedCall[Any],
    ) -> None:
        """Pass an item or the answer of a call from this end to its caller."""
        match event:
            case events.ItemReceived(call, item):
                self._take_item(self._pending[call], item)
            case events.AnswerReceived(call, answer):
                pending = self._pending.pop(call)
                pending.value, pending.fds = answer, exchange.take_fds()
                self._settle(pending, None)
            case events.ErrorReceived(call, error):
                if self._foreign_error is not None:
                    error = self._foreign_error(error)
                self._settle(self._pending.pop(call), error)

    def _take_item(self, pending: PendingCall, item: msgspec.Struct) -> None:
        if pending.on_item is not None and not pending.is_dropped:
            pending.on_item(item)
        else:
            self.take_item(pending)

    def _settle(self, pending: PendingCall, error: VitrailError | None) -> None:
        """Wake the caller of a call that has ended."""
        if pending.row.ordered:
            self._ledger.note_answer(
                pending.number, pending.row, pending.request, is_done=error is None
            )
        pending.settle(error)

    async def _pong(self) -> None:
        await self._sender.send(events.PONG)
        self._pongs -= 1

    def _put(self, data: bytes) -> None:
        """Send a message that no caller waits for, from code that must not wait."""
        if self._nursery is not None and self.live:
            self._nursery.start_soon(self._sender.send, data)

    # -- a far end that hangs ----------------------------------------------------------

    async def watch(self, beat: float, silent: int) -> None:
        """Return when the far end did not answer a ping for ``silent`` seconds, or ended.

        ``beat``: seconds between pings.  Seconds are counted one by one: after a time in
        which this process was stopped as well, the far end has almost as many again.
        """
        while self.live:
            await trio.sleep(beat)
            answered = self.ping()
            for _ in range(silent):
                with trio.move_on_after(1.0):
                    await answered.wait()
                    break
            # guard: a process that does not answer is given up
            if not answered.is_set():
                return

    def ping(self) -> trio.Event:
        """Send a ping; return an event that is set once the far end has answered."""
        if self._ponged.is_set():
            self._ponged = trio.Event()
        self._put(events.PING)
        return self._ponged
