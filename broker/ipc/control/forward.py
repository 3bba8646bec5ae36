"""The control socket's methods in another process than the socket's.

``serve_forwarded`` is the end of the process that owns the methods, ``Forwarder`` of
``forwarder`` that of the process that has the socket.  A call costs one frame each way,
and one more each way for an item of several.  (Messages and their bounds: ``forwarded``.)

The process with the socket is the authority; host and viewer own the methods and run
this module.
"""

from __future__ import annotations

import msgspec
import trio

from broker.core.errors import InternalError
from broker.ipc.control import forwarded as messages
from broker.ipc.control import varlink
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forwarded import (
    Answer,
    Begin,
    CallItem,
    Done,
)
from broker.ipc.control.forwarded_frames import ForwardedFrames
from broker.ipc.control.method import Exchange
from broker.ipc.control.types.base import Caller
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.ipc.session.warrant import SIGNATURE_BYTES


async def serve_forwarded(
    stream: trio.abc.HalfCloseableStream,
    dispatcher: Dispatcher,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer forwarded calls until the process with the control socket closes.

    Calls that are open then are cancelled; answers that wait are written, also where
    this is cancelled.  Raises PeerError unless it is an order.
    """
    frames = ForwardedFrames(stream)
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
        self, frames: ForwardedFrames, dispatcher: Dispatcher, nursery: trio.Nursery
    ) -> None:
        """Set up the answering end; ``nursery`` runs the calls."""
        self._frames = frames
        self._dispatcher = dispatcher
        self._nursery = nursery
        self._open: dict[int, tuple[trio.CancelScope, trio.Semaphore]] = {}

    def take(self, frame: bytes) -> None:
        """Begin, cancel or continue a call by an order.

        Ignore an order about a finished call.
        """
        order = messages.decode_order(frame[SIGNATURE_BYTES:])
        if isinstance(order, Begin):
            opened = trio.CancelScope(), trio.Semaphore(1)
            self._open[order.call] = opened
            self._nursery.start_soon(self._answer, order, frame, *opened)
        elif order.call in self._open:
            scope, taken = self._open[order.call]
            if isinstance(order, messages.Cancel):
                scope.cancel()
            else:
                taken.release()

    async def _answer(
        self,
        begin: Begin,
        warrant: bytes,
        scope: trio.CancelScope,
        taken: trio.Semaphore,
    ) -> None:
        """Answer one forwarded call: run its handler, send its items and its reply."""

        async def emit(item: msgspec.Struct) -> None:
            if begin.more:
                # guard: an item that is given up was not sent, or the next one may come
                await taken.acquire()
                self._send(CallItem(begin.call, varlink.raw(item)))

        reply = VarlinkReply()
        try:
            with scope:
                call = Call(begin.method, begin.parameters, more=begin.more)
                caller = Caller(begin.pid, begin.uid)
                exchange = Exchange(caller, begin.more, emit, warrant)
                reply = await self._dispatcher.reply(call, exchange)
        finally:
            del self._open[begin.call]
        try:
            self._send(Done(begin.call, reply.parameters, reply.error))
        except InternalError as problem:
            reply = varlink.error_reply(problem)
            self._send(Done(begin.call, reply.parameters, reply.error))

    def _send(self, answer: Answer) -> None:
        """Send an answer to the control socket's process.

        Raises InternalError if too long.
        """
        try:
            frame = messages.encode_answer(answer)
        except ValueError as error:
            raise InternalError(f"cannot encode a control answer: {error}") from error
        self._frames.send(frame)
