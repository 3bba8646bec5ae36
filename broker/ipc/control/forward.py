"""The control socket's methods in another process than the socket's.

``Forwarder`` is the end of the process that has the socket, ``serve_forwarded`` that
of the process that owns the methods.  A call costs one frame each way, and one more
each way for an item of several.  (Messages and their bounds: ``forwarded``.)
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import trio

from broker.core import limits
from broker.core.errors import InternalError, PeerError, UpstreamError
from broker.core.escape import printable
from broker.core.framing import FrameReader
from broker.core.stderr_log import log_stderr
from broker.ipc.control import forwarded as messages
from broker.ipc.control import varlink
from broker.ipc.control.api import Caller
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forwarded import (
    FRAME_BYTES,
    Answer,
    Begin,
    CallItem,
    Calls,
    Done,
)
from broker.ipc.control.methods import Exchange
from broker.ipc.control.varlink import Call, VarlinkReply

_READ_BYTES = 65536
_PIECE = 4096
"""Bytes that a UNIX socket takes whole or not at all, so that they can be sent again."""
_AGAIN_SECONDS = 0.1
_LAST_SECONDS = 1.0
"""A far end that does not read delays the end of its channel no longer than this."""
_T = TypeVar("_T")
_R = TypeVar("_R")


class _Frames:
    """Frames on a stream; sending never waits, one task writes."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._queue, self._waiting = trio.open_memory_channel[bytes](math.inf)
        self._writing = trio.CancelScope(shield=True)

    def send(self, frame: bytes) -> None:
        """Queue a frame; what is queued is bounded by the calls that are open."""
        with contextlib.suppress(trio.ClosedResourceError):  # after end()
            self._queue.send_nowait(frame)

    async def write(self) -> None:
        """Write the queue for as long as the far end takes it, until ``end``.

        No other cancellation ends it.
        """
        with (
            self._writing,
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):  # where it broke, reading ends, too
            async for frame in self._waiting:
                for at in range(0, len(frame), _PIECE):
                    await _patiently(self._stream.send_all, frame[at : at + _PIECE])

    def end(self) -> None:
        """Take no more frames; write those that wait, or what is read in a second."""
        self._queue.close()
        self._writing.deadline = trio.current_time() + _LAST_SECONDS

    async def read(self, take: Callable[[bytes], None]) -> None:
        """Pass each frame on until the far end closes.  Raises PeerError."""
        reader = FrameReader(FRAME_BYTES)
        while True:
            try:
                data = await _patiently(self._stream.receive_some, _READ_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            for frame in reader.feed(bytes(data)):
                take(frame)


async def _patiently(call: Callable[[_T], Awaitable[_R]], argument: _T) -> _R:
    """Call again while the kernel has no memory for it."""
    while True:
        try:
            return await call(argument)
        except trio.BrokenResourceError as error:
            # guard: a moment without memory does not end the control socket's channel
            if getattr(error.__cause__, "errno", 0) not in {
                errno.ENOMEM,
                errno.ENOBUFS,
            }:
                raise
            await trio.sleep(_AGAIN_SECONDS)


class Forwarder:
    """Has a process answer calls of the control socket; a ``dispatch.Forward``."""

    def __init__(self, owner: str, stream: trio.abc.HalfCloseableStream) -> None:
        self._owner = owner
        self._frames = _Frames(stream)
        self._stream = stream
        self._calls = Calls(owner, self._frames.send)
        self._answers: dict[int, trio.MemorySendChannel[Answer]] = {}
        self.ended = trio.Event()
        """Set when the process has closed, or has been given up."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Carry answers until the process ends, or breaks the rules; no error then.

        Calls that are open then, and later ones, raise UpstreamError.
        """
        try:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._frames.write)
                task_status.started()
                try:
                    await self._frames.read(self._take)
                except PeerError as error:
                    log_stderr(
                        f"vitrail: {printable(str(error))}; it is not asked again"
                    )
                finally:
                    self._frames.end()
        finally:
            self.ended.set()
            for answers in self._answers.values():
                answers.close()

    def _take(self, frame: bytes) -> None:
        answer = self._calls.receive(frame)
        answers = self._answers.get(answer.call)
        if answers is not None:  # else its client has gone
            # One item at a time and the end: Calls checks that.
            answers.send_nowait(answer)

    async def __call__(self, call: Call, exchange: Exchange[Any]) -> VarlinkReply:
        """Have a call answered.  Raises RefusedError, UpstreamError.

        Cancelled, it returns when the process has ended the call.
        """
        if self.ended.is_set():
            raise self._gone()
        number = self._calls.begin(
            call.method,
            call.parameters,
            more=call.more and not call.oneway,
            caller=(exchange.caller.pid, exchange.caller.uid),
        )
        self._answers[number], answers = trio.open_memory_channel[Answer](2)
        try:
            return await self._answered(number, answers, exchange.emit)
        except trio.Cancelled:
            self._calls.cancel(number)
            with trio.move_on_after(limits.CONTROL_CANCEL_SECONDS, shield=True):
                async for answer in answers:
                    if isinstance(answer, Done):
                        break
            raise
        finally:
            del self._answers[number]

    async def _answered(
        self,
        number: int,
        answers: trio.MemoryReceiveChannel[Answer],
        emit: Callable[[msgspec.Raw], Awaitable[None]],
    ) -> VarlinkReply:
        async for answer in answers:
            if isinstance(answer, Done):
                return VarlinkReply(answer.parameters, error=answer.error)
            await emit(answer.parameters)
            self._calls.taken(number)
        raise self._gone()

    def _gone(self) -> UpstreamError:
        return UpstreamError(
            f"the {self._owner} of this broker has ended",
            hint="its log and 'brokerctl audit' say why",
        )


async def serve_forwarded(
    stream: trio.abc.HalfCloseableStream,
    dispatcher: Dispatcher,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer forwarded calls until the process with the control socket closes.

    Calls that are open then are cancelled; answers that wait are written, also where
    this is cancelled.  Raises PeerError for what is no order.
    """
    frames = _Frames(stream)
    async with stream, trio.open_nursery() as writing:
        writing.start_soon(frames.write)
        try:
            async with trio.open_nursery() as nursery:
                served = _Served(frames, dispatcher, nursery)
                task_status.started()
                await frames.read(served.take)
                nursery.cancel_scope.cancel()
        finally:
            # The answer to "shutdown" is written though its process ends
            frames.end()


class _Served:
    def __init__(
        self, frames: _Frames, dispatcher: Dispatcher, nursery: trio.Nursery
    ) -> None:
        self._frames = frames
        self._dispatcher = dispatcher
        self._nursery = nursery
        self._open: dict[int, tuple[trio.CancelScope, trio.Semaphore]] = {}

    def take(self, frame: bytes) -> None:
        """Carry out an order; one about a call that is done is late, no error."""
        order = messages.decode_order(frame)
        if isinstance(order, Begin):
            opened = trio.CancelScope(), trio.Semaphore(0)
            self._open[order.call] = opened
            self._nursery.start_soon(self._answer, order, *opened)
        elif order.call in self._open:
            scope, taken = self._open[order.call]
            if isinstance(order, messages.Cancel):
                scope.cancel()
            else:
                taken.release()

    async def _answer(
        self, begin: Begin, scope: trio.CancelScope, taken: trio.Semaphore
    ) -> None:
        sending = trio.Lock()

        async def emit(item: msgspec.Struct) -> None:
            if begin.more:
                async with sending:  # a method may emit from several of its tasks
                    self._send(CallItem(begin.call, varlink.raw(item)))
                    await taken.acquire()

        reply = VarlinkReply()
        try:
            with scope:
                call = Call(begin.method, begin.parameters, more=begin.more)
                caller = Caller(begin.pid, begin.uid)
                exchange = Exchange(caller, begin.more, emit)
                reply = await self._dispatcher.reply(call, exchange)
        finally:
            del self._open[begin.call]
        try:
            self._send(Done(begin.call, reply.parameters, reply.error))
        except InternalError as problem:
            reply = varlink.error_reply(problem)
            self._send(Done(begin.call, reply.parameters, reply.error))

    def _send(self, answer: Answer) -> None:
        """Send an answer.  Raises InternalError when it is too long."""
        try:
            frame = messages.encode(answer)
        except ValueError as error:
            raise InternalError(f"an answer of the control socket: {error}") from error
        self._frames.send(frame)
