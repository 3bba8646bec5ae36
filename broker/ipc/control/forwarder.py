"""The control socket's end of calls that another process answers; see ``forward``.

``ForwardedCalls`` is it sans-IO.  The owner may have been taken over: an answer to
nothing, two answers, or an item that no call asked for ends the channel, and an answer
is one JSON value.  (A NUL byte in it would end its message at the client, and begin
another one in the name of the broker: the decoder accepts none.)

Only the authority runs it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.framing import encode_frame
from broker.core.stderr_log import log_stderr
from broker.ipc.control.forwarded import (
    FRAME_BYTES,
    Answer,
    Begin,
    CallItemTaken,
    Cancel,
    Done,
    Order,
)
from broker.ipc.control.forwarded_frames import ForwardedFrames
from broker.ipc.control.method import Exchange
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.ipc.session.warrant import sign

_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class ForwardedCalls:
    """The calls that one process has to answer."""

    def __init__(
        self, owner: str, send: Callable[[bytes], None], key: bytes = b""
    ) -> None:
        """Set up the calls.

        ``send`` takes frames and never waits, ``owner`` is for messages.

        ``key``: of the warrants of calls.
        """
        self._owner = owner
        self._key = key
        self._send = send
        self._numbers = itertools.count(1)
        self._open: dict[int, bool] = {}
        """Each call, and whether an item may come."""

    def begin(
        self,
        method: str,
        parameters: msgspec.Raw,
        *,
        more: bool,
        caller: tuple[int, int],
    ) -> int:
        """Pass a call on to its process, and return its number.

        ``caller``: pid and uid.

        Raises RefusedError when too many wait for this process.
        """
        # guard: a process that does not answer leaves room for others' clients
        if len(self._open) >= limits.CONTROL_FORWARDED:
            raise RefusedError(
                f"cannot pass on the call: {limits.CONTROL_FORWARDED} calls are already waiting for the {self._owner}",
                hint="wait for their answers; to see problems of the broker, run 'brokerctl status'",
            )
        number = next(self._numbers)
        pid, uid = caller
        now = time.monotonic()
        self._order(Begin(number, method, parameters, more, pid, uid, now))
        self._open[number] = more
        return number

    def _order(self, order: Order) -> None:
        self._send(encode_frame(sign(self._key, order), FRAME_BYTES))

    def taken(self, number: int) -> None:
        """Ask for the next item of a call."""
        if number in self._open:
            self._open[number] = True
            self._order(CallItemTaken(number))

    def cancel(self, number: int) -> None:
        """Pass on that the client has gone; the call stays until it is done."""
        if number in self._open:
            self._order(Cancel(number))

    def receive(self, untrusted_frame: bytes) -> Answer:
        """Return the answer or item in a frame.

        Raises PeerError for what answers no call, or cannot be passed on.
        """
        try:
            answer = _answers.decode(untrusted_frame)
        except UNREADABLE as error:
            raise PeerError(f"the {self._owner} sent a bad answer: {error}") from error
        # guard: a process answers the calls that it was passed, once
        if answer.call not in self._open:
            raise PeerError(f"the {self._owner} answered unknown call {answer.call}")
        if isinstance(answer, Done):
            del self._open[answer.call]
            return answer
        # guard: items come as they are taken
        if not self._open[answer.call]:
            raise PeerError(f"the {self._owner} sent an item that was not requested")
        self._open[answer.call] = False
        return answer


class Forwarder:
    """Has a process answer calls of the control socket; a ``dispatch.Forward``."""

    def __init__(
        self, owner: str, stream: trio.abc.HalfCloseableStream, key: bytes = b""
    ) -> None:
        """Set up the calls to an ``owner``'s process by ``stream``."""
        self._owner = owner
        self._frames = ForwardedFrames(stream)
        self._stream = stream
        self._calls = ForwardedCalls(owner, self._frames.send, key)
        self._answers: dict[int, trio.MemorySendChannel[Answer]] = {}
        self.ended = trio.Event()
        """Set when the process has closed, or has been given up."""

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Read answers until the process ends or breaks the protocol; return then.

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
                        f"vitrail: {printable(str(error))}; it receives no more calls"
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
        """Have the other process answer a call.  Raises RefusedError, UpstreamError.

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
        """Emit the items of a call; return its reply.

        Raises UpstreamError where the end is lost.
        """
        async for answer in answers:
            if isinstance(answer, Done):
                return VarlinkReply(answer.parameters, error=answer.error)
            await emit(answer.parameters)
            self._calls.taken(number)
        raise self._gone()

    def _gone(self) -> UpstreamError:
        return UpstreamError(
            f"the {self._owner} of this broker has ended",
            hint="look for the reason in the broker's log, and with 'brokerctl audit'",
        )
