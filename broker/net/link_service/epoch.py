"""One epoch of the link: the far end over a connection of sealed records.

The same code at both ends.  An epoch ends once: by ``end`` (with a Bye), by the other
end's Bye, by a broken protocol, or by silence.  Then every stream of it is cut.

Host and viewer run it.
"""

from __future__ import annotations

import math
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio
from typing_extensions import override

from broker.core.errors import UpstreamError, VitrailError
from broker.core.lease import Opening
from broker.core.limits import link as limits
from broker.core.services import DISPLAY
from broker.core.token_bucket import TokenBucket
from broker.ipc.host_viewer import HeldTask
from broker.net.link import messages as m
from broker.net.link.control import ControlChannel
from broker.net.link.cures import BROKER_ENDS, FORGOTTEN, reason_of_peer
from broker.net.link.epoch import Session
from broker.net.link.keys import Peer
from broker.net.link.lease_book import LeaseBook
from broker.net.link.preamble import Opener
from broker.net.link_service.far_end import (
    FarEnd,
    LinkAnswer,
    SentRequest,
    nothing_held,
)
from broker.net.link_service.lease_turns import Turn
from broker.net.link_service.sockets import receive, send_some

_R = TypeVar("_R", bound=m.LinkRequest)
_SAME_END_SECONDS = 1.0
"""How long before the link a stream may have ended by the same cause."""
_CLOSED_DISPLAYS = 256
_LAST_WORDS_SECONDS = 1.0
_LOOK_SECONDS = 1.0
"""How often a silent end that owes answers is looked at."""

Handle = Callable[["Epoch", m.LinkRequest], Awaitable[m.LinkReply]]


def request_pace() -> TokenBucket:
    """How fast one end takes the other's requests."""
    return TokenBucket(limits.LINK_REQUESTS_PER_SECOND, limits.LINK_REQUESTS_AT_ONCE)


@dataclass(eq=False)
class LinkStream(HeldTask):
    """A data stream of an epoch, at either end."""

    opening: Opening
    began: float
    """Seconds since 1970."""


class Epoch(FarEnd):
    """A control connection with its keys, its book of leases, its streams.

    ``over`` is set when the connection is closed and every stream is cut.
    """

    _INTERNAL = "internal error in the other broker; see its log"

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        handle: Handle,
        *,
        rest: bytes,
        pace: TokenBucket | None = None,
        patience: float = math.inf,
        silence_limit: float = limits.LINK_KEPT_SECONDS,
        pinned: Callable[[Peer], bool] = bool,
        alongside: Callable[[Epoch], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.channel = ControlChannel(session)
        self.opener = Opener(session)
        self.streams: dict[int, LinkStream] = {}
        """By the number in the preamble; all are opened by the host."""
        self.refused = 0
        self.reason = ""
        self.begun = trio.Event()
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
        # One place of the channel's is the ping's.
        self._places = trio.Semaphore(limits.LINK_REQUESTS - 1)
        self._heard = 0.0
        self._received = trio.Event()
        """Set, and replaced, with each record."""
        self._silence_limit = silence_limit
        self.is_silent = False
        """The other end has not answered a ping for LINK_SILENT_SECONDS."""
        self.silence_changed = trio.Event()
        """Set, and replaced, when ``is_silent`` changes."""
        self._unless_silent: set[trio.Event] = set()
        """Set when the other end becomes silent: waits for replies that end then."""
        self._resumed = 0.0
        """When the other end was silent for the last time."""
        self._closed_displays: deque[tuple[float, str]] = deque(maxlen=_CLOSED_DISPLAYS)
        """Times and sandboxes of the streams of windows that ended last."""
        self.ended_programs: Counter[str] = Counter()
        """At the end: the programs with windows whose streams were cut, by sandbox."""
        # A listening end has one pace for all its epochs: else a peer that reconnects
        # without end would have the whole burst each time.
        self._pace = pace or request_pace()
        self._patience = patience

    @property
    def name(self) -> str:
        """The local name of the other broker."""
        return self.session.peer.name

    @property
    @override
    def leases(self) -> LeaseBook:
        return self.channel.leases

    @property
    def digits(self) -> str:
        """The epoch for people and events."""
        return self.session.epoch.hex()

    # -- asking ---------------------------------------------------------------

    @override
    async def _send_request(self, make: Callable[[int], _R], fd: int) -> SentRequest:
        assert fd < 0, "records carry no descriptors"
        # A place is free again when its reply is here, not when the asker has
        # lost interest: the channel counts in the same way.
        await self._places.acquire()
        if not self.live:
            self._places.release()
            raise self._lost()
        try:
            return self._queue(make, self._places.release)
        except BaseException:
            self._places.release()  # nothing was asked
            raise

    def _queue(
        self, make: Callable[[int], _R], release: Callable[[], None] = nothing_held
    ) -> SentRequest:
        """Queue a request to be sent; return its entry."""
        request, record = self.channel.ask(make)
        asked = self._asked[request.request] = SentRequest(request, release)
        self._put(record)
        return asked

    @override
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
            if opening.service == DISPLAY:
                ending = (trio.current_time(), opening.lease.sandbox)
                self._closed_displays.append(ending)
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
            ended_at = trio.current_time()
            self.reason = self.reason or BROKER_ENDS
            with trio.CancelScope(shield=True):
                await self._last_words()
                self._sock.close()
                await self._cut_all(ended_at)
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

    async def _cut_all(self, ended_at: float) -> None:
        streams = list(self.streams.values())
        displays = [s.opening for s in streams if s.opening.service == DISPLAY]
        self.ended_programs.update(opening.lease.sandbox for opening in displays)
        # What carries the link may end its streams before its control connection.
        first = ended_at - _SAME_END_SECONDS
        self.ended_programs.update(
            sandbox for moment, sandbox in self._closed_displays if moment >= first
        )
        for stream in streams:
            stream.end(f"the link was lost: {self.reason}")
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
                self._received.set()
                self._received = trio.Event()
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
            self._asked.pop(message.request).settle(LinkAnswer(message))
        elif isinstance(message, m.LinkRequest):
            nursery.start_soon(self._serve, message, self._turns.take(message))
        elif isinstance(message, m.Bye):
            self.reason = self.reason or reason_of_peer(self.name, message.reason)

    async def _serve(self, request: m.LinkRequest, turn: Turn) -> None:
        """Serve a request in its turn and queue the reply."""

        async def serve() -> LinkAnswer:
            return LinkAnswer(await self._answer(request))

        answered = await self._carry_out(request, turn, serve, trio.CancelScope())
        if answered is not None and self.channel.open:
            self._put(self.channel.reply(answered.reply))

    @override
    def _failure(self, number: int, error: VitrailError) -> m.LinkFailure:
        return m.RequestRefused.of(number, error)

    async def _answer(self, request: m.LinkRequest) -> m.LinkReply:
        """Return the reply to a request: cuts are made here, others by the handler."""
        if not isinstance(request, m.Cut):
            return await self._handle(self, request)
        stream = self.streams.get(request.stream)
        if stream is not None and request.opened_by == "host":
            stream.end(f"cut by {self.name}: {request.reason}")
            await stream.over.wait()
        return m.RequestDone(request.request)

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
        """Ping a silent broker, and wait for it until the limit of silence.

        Raises UpstreamError when it has sent nothing until then.
        """
        while True:
            await trio.sleep_until(self._heard + limits.LINK_SILENCE_SECONDS)
            now, heard = trio.current_time(), self._heard
            if now < heard + limits.LINK_SILENCE_SECONDS:
                continue
            with trio.move_on_after(limits.LINK_SILENT_SECONDS):
                await self.ask_quietly()
            if self._heard != heard:
                continue
            self._note_silence(silent=True)
            # A machine that was suspended finds its own clock far ahead.
            deadline = max(
                heard + self._silence_limit, now + 2 * limits.LINK_SILENT_SECONDS
            )
            with trio.move_on_at(deadline):
                await self._received.wait()
            if self._heard == heard:
                raise UpstreamError(
                    f"{self.name} sent nothing for {trio.current_time() - heard:.0f} s"
                )
            self._note_silence(silent=False)

    def _note_silence(self, *, silent: bool) -> None:
        self.is_silent = silent
        for event in self._unless_silent:
            event.set()
        self._resumed = trio.current_time()
        self.silence_changed.set()
        self.silence_changed = trio.Event()

    @override
    async def ask_unless_silent(self, make: Callable[[int], _R]) -> None:
        with trio.move_on_after(limits.LINK_ANSWER_SECONDS) as scope:
            sent = await self._send_request(make, -1)
        if scope.cancelled_caught:
            self.end(f"{self.name} has too many requests to answer")
            raise self._lost()
        # guard: a silent end holds up no lease of the other one
        if not self.is_silent:
            self._unless_silent.add(sent.there)
            try:
                await sent.there.wait()
            finally:
                self._unless_silent.discard(sent.there)
        if sent.answered is not None or not self.live:
            self._outcome(sent)

    async def wait_silent(self, seconds: float) -> None:
        """Wait until the other end has sent nothing for so long, not even for a ping."""
        while True:
            await trio.sleep_until(self._heard + seconds / 2)
            heard = self._heard
            if trio.current_time() < heard + seconds / 2:
                continue
            with trio.move_on_after(seconds / 2):
                await self.ask_quietly()
            if self._heard == heard:
                return

    @property
    def silent(self) -> str:
        """How long the other end has sent nothing, and what will follow, for people."""
        quiet = trio.current_time() - self._heard
        return (
            f"{self.name} has sent nothing for {quiet:.0f} s: windows wait for it, "
            f"and the link is cut after {self._silence_limit:g} s, and connects again"
        )

    def unanswered(self, asked: float) -> str:
        """Why a request of then has no answer yet, for people: a silent end, or a slow one."""
        if self._heard < asked:
            return self.silent
        return (
            f"{self.name} has not answered within {trio.current_time() - asked:.0f} s, "
            "but sends: it, or what carries the bytes, is overloaded"
        )

    async def _watch_answers(self) -> None:
        """End an epoch whose other end owes an answer for too long.

        Raises UpstreamError.

        Also answers that no task waits for any more: each holds a place, and the
        next request may be impossible to cancel (the end of a lease).
        """
        while True:
            now = trio.current_time()
            oldest = next(iter(self._asked.values()), None)  # they are in order
            since = now if oldest is None else oldest.since
            due = max(since, min(self._resumed, since + self._silence_limit))
            # The time in which it is silent has a limit of its own.
            if now >= due + self._patience and not self.is_silent:
                raise UpstreamError(
                    f"{self.name} did not answer within {now - since:.0f} s"
                )
            await trio.sleep_until(max(due + self._patience, now + _LOOK_SECONDS))

    async def _watch_pinned(self) -> None:
        """A broker that was forgotten is cut, not only kept out next time."""
        while self._pinned(self.session.peer):  # noqa: ASYNC110 -- a file says it
            await trio.sleep(limits.LINK_PINNED_SECONDS)
        self.end(FORGOTTEN)

    async def ask_quietly(self) -> None:
        """Send a ping, without waiting for a place or the reply."""
        if self.channel.asked < limits.LINK_REQUESTS:
            await self._queue(m.LinkPing).there.wait()
        else:
            await trio.sleep_forever()  # there is a request to be answered already


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
