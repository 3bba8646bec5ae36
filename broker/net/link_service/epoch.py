"""One epoch of the link: its control connection, run until it is over.

The same code at both ends.  ``ask`` sends a request and waits for its reply;
requests of the other end are given to ``handle``, each in a separate task,
and what that returns or raises goes back.  An epoch ends once: by ``end``
(with a Bye), by the other end's Bye, by a broken protocol, or by silence.
Then every stream of it is cut.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from broker.core.errors import InternalError, UpstreamError, VitrailError
from broker.core.lease import Opening
from broker.core.limits import link as limits
from broker.core.stderr_log import log_exception
from broker.core.token_bucket import TokenBucket
from broker.net.link import messages as m
from broker.net.link.control import ControlChannel
from broker.net.link.epoch import Session
from broker.net.link.keys import Peer
from broker.net.link.lease_book import LeaseBook
from broker.net.link.preamble import Opener
from broker.net.link_service.lease_turns import LeaseTurns, Turn
from broker.net.link_service.sockets import receive, send_some

_R = TypeVar("_R", bound=m.LinkRequest)
_LAST_WORDS_SECONDS = 1.0

Handle = Callable[["Epoch", m.LinkRequest], Awaitable[m.LinkReply]]


def request_pace() -> TokenBucket:
    """How fast one end takes the other's requests."""
    return TokenBucket(limits.LINK_REQUESTS_PER_SECOND, limits.LINK_REQUESTS_AT_ONCE)


@dataclass(eq=False)
class LinkStream:
    """A data stream of an epoch, at either end."""

    opening: Opening
    began: float
    """Seconds since 1970."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)
    reason: str = ""
    """Why it was cut."""

    def cut(self, reason: str) -> None:
        """Cut it; ``over`` is set when that has happened."""
        self.reason = self.reason or reason
        self.scope.cancel()


class Epoch:
    """A control connection with its keys, its book of leases, its streams."""

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        handle: Handle,
        *,
        rest: bytes,
        pace: TokenBucket | None = None,
        patience: float = math.inf,
        pinned: Callable[[Peer], bool] = bool,
        alongside: Callable[[Epoch], Awaitable[None]] | None = None,
    ) -> None:
        self.session = session
        self.channel = ControlChannel(session)
        self.opener = Opener(session)
        self.streams: dict[int, LinkStream] = {}
        """By the number in the preamble; all are opened by the host."""
        self.refused = 0
        self.reason = ""
        self.live = False
        self.begun = trio.Event()
        self.over = trio.Event()
        """Set when the connection is closed and every stream is cut."""
        self.gone = trio.Event()
        """For the owner: set when also all that hung on it has ended."""
        self._sock = sock
        self._handle = handle
        self._rest = rest
        self._pinned = pinned
        self._alongside = alongside
        self._scope = trio.CancelScope()
        self._outbox = bytearray()
        self._more = trio.Event()
        self._answers: dict[int, _Answer] = {}
        self._lease_turns = LeaseTurns()
        # One place of the channel's is the ping's.
        self._places = trio.Semaphore(limits.LINK_REQUESTS - 1)
        self._heard = 0.0
        # A listening end has one pace for all its epochs: else a peer that reconnects
        # without end would have the whole burst each time.
        self._pace = pace or request_pace()
        self._patience = patience

    @property
    def name(self) -> str:
        """The local name of the other broker."""
        return self.session.peer.name

    @property
    def leases(self) -> LeaseBook:
        """The leases that the host has announced in this epoch."""
        return self.channel.leases

    @property
    def digits(self) -> str:
        """The epoch for people and events."""
        return self.session.epoch.hex()

    # -- asking ---------------------------------------------------------------

    async def ask(self, make: Callable[[int], _R]) -> m.LinkReply:
        """Send a request to the other broker and return its reply.

        Raises the other end's error, or UpstreamError when the epoch ends
        before the reply.
        """
        # A place is free again when its reply is here, not when the asker has
        # lost interest: the channel counts in the same way.
        await self._places.acquire()
        if not self.live:
            self._places.release()
            raise self._lost()
        try:
            request, record = self.channel.ask(make)
        except BaseException:
            self._places.release()  # nothing was asked
            raise
        answer = self._answers[request.request] = _Answer(self._places)
        self._put(record)
        await answer.there.wait()
        if answer.reply is None:
            raise self._lost()
        if isinstance(answer.reply, m.RequestRefused):
            raise answer.reply.to_error()
        return answer.reply

    def _lost(self) -> UpstreamError:
        return UpstreamError(
            f"the link to {self.name} was lost: {self.reason or 'it has ended'}",
            hint="wait until the link reconnects; to see its state, run 'brokerctl status'",
        )

    def end(self, reason: str) -> None:
        """End the epoch from this side, with a Bye; ``over`` is set when that is done."""
        self.reason = self.reason or reason
        self._scope.cancel()

    def discard(self) -> None:
        """Close the connection of an epoch that never ran, and will not."""
        self._sock.close()

    @contextmanager
    def stream(self, number: int, opening: Opening) -> Iterator[LinkStream]:
        """Register a stream with this epoch while the block runs; there it can be cut.

        When it is cut the block ends early and quietly.  Raises UpstreamError
        when the epoch is over already.
        """
        if not self.live:
            raise self._lost()
        stream = self.streams[number] = LinkStream(opening, time.time())
        try:
            with stream.scope:
                yield stream
        finally:
            del self.streams[number]
            stream.over.set()

    # -- running ----------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> str:
        """Run the control connection until it ends; return the reason, for people.

        When this returns the socket is closed and every stream is cut.
        """
        self._heard = trio.current_time()
        self.live = True
        self.begun.set()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until, self._write)
                    nursery.start_soon(self._until, self._watch)
                    # guard: a peer that owes answers is given up
                    nursery.start_soon(self._until, self._watch_answers)
                    nursery.start_soon(self._watch_pinned)
                    if self._alongside is not None:
                        nursery.start_soon(self._alongside, self)
                    task_status.started()
                    # guard: the end of a link is announced before its tasks are awaited
                    try:
                        await self._until(self._read, nursery)
                    finally:
                        # Before our tasks are waited for: what one of them does
                        # for the other end may wait for an answer of that end,
                        # and not be cancelled (a lease that is announced).
                        self._lose()
                    nursery.cancel_scope.cancel()
        except* VitrailError as group:
            self.reason = self.reason or str(_first(group))
        finally:
            self._lose()
            self.reason = self.reason or "this broker ends"
            with trio.CancelScope(shield=True):
                await self._last_words()
                self._sock.close()
                await self._cut_all()
            self.over.set()
        return self.reason

    async def _until(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a step of the epoch; its error becomes the reason of the end."""
        try:
            await step(*args)
        except VitrailError as error:
            # guard: an end has a reason
            self.reason = self.reason or str(error)
            raise

    def _lose(self) -> None:
        """No answer will come, and nothing more can be asked."""
        self.live = False
        for answer in self._answers.values():
            answer.settle(None)
        self._answers.clear()

    async def _cut_all(self) -> None:
        streams = list(self.streams.values())
        for stream in streams:
            stream.cut(f"the link was lost: {self.reason}")
        for stream in streams:
            await stream.over.wait()

    async def _last_words(self) -> None:
        """Send the remaining messages and a Bye, if they can be sent soon."""
        if self.channel.open or self.channel.may_leave:
            self._outbox += self.channel.bye(self.reason)
        with trio.move_on_after(_LAST_WORDS_SECONDS):
            try:
                await self._flush()
            except UpstreamError:
                return  # the other end is gone; we are leaving anyway

    async def _read(self, nursery: trio.Nursery) -> None:
        """Receive records until the other broker leaves; handle their messages."""
        untrusted, self._rest = self._rest, b""
        while True:
            if untrusted:
                self._heard = trio.current_time()
                taken = self.channel.feed(untrusted)
                for message, request in taken:
                    self._take(nursery, message, request)
                if not self.channel.open:
                    return
                asked = sum(isinstance(message, m.LinkRequest) for message, _ in taken)
                await trio.sleep(self._pace.take(trio.current_time(), asked))
            limit = limits.LINK_RECORD_SECONDS if self.channel.in_record else 1e9
            with trio.move_on_after(limit) as patience:
                untrusted = await receive(self._sock)
            if patience.cancelled_caught:
                raise UpstreamError(
                    f"{self.name} did not finish a message in {limit:g} s"
                )
            if not untrusted:
                self.channel.eof()

    def _take(
        self, nursery: trio.Nursery, message: m.Message, request: m.LinkRequest | None
    ) -> None:
        """Handle a message: settle a request, begin one in a task, or note a Bye."""
        if isinstance(message, m.LinkReply):
            assert request is not None
            self._answers.pop(message.request).settle(message)
        elif isinstance(message, m.LinkRequest):
            nursery.start_soon(self._serve, message, self._lease_turns.take(message))
        elif isinstance(message, m.Bye):
            self.reason = self.reason or f"{self.name} left: {message.reason}"

    async def _serve(self, request: m.LinkRequest, turn: Turn) -> None:
        """Serve a request in its turn and queue the reply, or the error of it."""
        reply: m.LinkReply
        try:
            # guard: messages about a lease are served in order
            async with turn:
                reply = await self._answer(request)
        except VitrailError as error:
            reply = m.RequestRefused.of(request.request, error)
        except Exception as error:  # noqa: BLE001
            # An internal error in one request ends neither link nor broker.
            log_exception(error)
            failed = InternalError("internal error in the other broker; see its log")
            reply = m.RequestRefused.of(request.request, failed)
        if self.channel.open:
            self._put(self.channel.reply(reply))

    async def _answer(self, request: m.LinkRequest) -> m.LinkReply:
        """Return the reply to a request: ping and cut here, others by the handler."""
        match request:
            case m.LinkPing():
                return m.RequestDone(request.request)
            case m.Cut():
                stream = self.streams.get(request.stream)
                if stream is not None and request.opened_by == "host":
                    stream.cut(f"cut by {self.name}: {request.reason}")
                    await stream.over.wait()
                return m.RequestDone(request.request)
            case _:
                return await self._handle(self, request)

    def _put(self, record: bytes) -> None:
        self._outbox += record
        self._more.set()

    async def _write(self) -> None:
        """Send queued records.

        Raises UpstreamError when the other broker does not read.
        """
        while True:
            if not self._outbox:
                self._more = trio.Event()
                await self._more.wait()
            with trio.move_on_after(limits.LINK_RECORD_SECONDS) as patience:
                await self._flush()
            if patience.cancelled_caught:
                self._outbox.clear()
                raise UpstreamError(f"{self.name} does not read its messages")

    async def _flush(self) -> None:
        """Send the outbox; sent messages leave it, also when cancelled."""
        while self._outbox:
            piece = self._outbox[: limits.LINK_PIECE_BYTES]
            del self._outbox[: await send_some(self._sock, piece)]

    async def _watch(self) -> None:
        """Ping a silent broker.  Raises UpstreamError when it does not answer."""
        while True:
            quiet = trio.current_time() - self._heard
            await trio.sleep(max(0.0, limits.LINK_SILENCE_SECONDS - quiet))
            heard = self._heard
            if trio.current_time() - heard < limits.LINK_SILENCE_SECONDS:
                continue
            with trio.move_on_after(limits.LINK_SILENCE_SECONDS):
                await self.ask_quietly()
            if self._heard == heard:
                raise UpstreamError(
                    f"{self.name} sent nothing for {2 * limits.LINK_SILENCE_SECONDS:g} s"
                )

    async def _watch_answers(self) -> None:
        """End an epoch whose other end owes an answer for too long.

        Raises UpstreamError.

        Also answers that no task waits for any more: each holds a place, and the
        next request may be one that cannot be cancelled (the end of a lease).
        """
        while True:
            now = trio.current_time()
            oldest = next(iter(self._answers.values()), None)  # they are in order
            since = now if oldest is None else oldest.since
            if now >= since + self._patience:
                raise UpstreamError(
                    f"{self.name} did not answer within {self._patience:g} s"
                )
            await trio.sleep_until(since + self._patience)

    async def _watch_pinned(self) -> None:
        """A broker that was forgotten is cut, not only kept out next time."""
        while self._pinned(self.session.peer):  # noqa: ASYNC110 -- a file says it
            await trio.sleep(limits.LINK_PINNED_SECONDS)
        self.end("this broker forgot the peer's key")

    async def ask_quietly(self) -> None:
        """Send a ping, without waiting for a place or the reply."""
        if self.channel.asked < limits.LINK_REQUESTS:
            request, record = self.channel.ask(m.LinkPing)
            answer = self._answers[request.request] = _Answer()
            self._put(record)
            await answer.there.wait()
        else:
            await trio.sleep_forever()  # there is a request to be answered already


@dataclass(eq=False)
class _Answer:
    place: trio.Semaphore | None = None
    there: trio.Event = field(default_factory=trio.Event)
    reply: m.LinkReply | None = None
    since: float = field(default_factory=trio.current_time)

    def settle(self, reply: m.LinkReply | None) -> None:
        """The reply is here, or will never come."""
        self.reply = reply
        self.there.set()
        if self.place is not None:
            self.place.release()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
