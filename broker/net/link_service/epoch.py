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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec
import trio
from typing_extensions import override

from broker.core.errors import (
    InternalError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import fit
from broker.core.lease import Opening
from broker.core.limits import link as limits
from broker.core.services import DISPLAY
from broker.core.token_bucket import TokenBucket
from broker.ipc.host_viewer import HeldTask, first_of
from broker.net.link.cures import BROKER_ENDS, FORGOTTEN, reason_of_peer
from broker.net.link.epoch import Session
from broker.net.link.keys import PinnedPeer
from broker.net.link.link_rows import BYE, CUT, LINK_ROWS, Bye, Cut
from broker.net.link.preamble import Opener
from broker.net.link.wire_types import LinkRefusedError, RefusalReason
from broker.net.link_service.far_end import FarEnd
from broker.net.link_service.pair_end import PROCESSES
from broker.net.link_service.sealed import Sealed
from broker.wire.exchange import ServedCall
from broker.wire.habits import Habits
from broker.wire.peer import Peer
from broker.wire.row import Empty, Row, serves

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
_SAME_END_SECONDS = 1.0
"""How long before the link a stream may have ended by the same cause."""
_CLOSED_DISPLAYS = 256
_LOOK_SECONDS = 1.0
"""How often a silent end that owes answers is looked at."""
_HABITS = Habits(
    most_calls=limits.LINK_REQUESTS,
    message_bytes=limits.LINK_RECORD_BYTES,
    sends_cancels=False,
    waits_for_room=True,
)

_FOREIGN_ERRORS = {RefusedError, SetupError, UpstreamError, InternalError}
"""Kinds of errors that keep their kind on the way from another machine."""

Parts: TypeAlias = "Callable[[Epoch], Sequence[object]]"
"""Returns the objects that serve the rows of one epoch."""


def request_pace() -> TokenBucket:
    """How fast one end takes the other's requests."""
    return TokenBucket(limits.LINK_REQUESTS_PER_SECOND, limits.LINK_REQUESTS_AT_ONCE)


def _foreign_error(error: VitrailError) -> VitrailError:
    """Return an error of the other broker, as it is raised here."""
    # guard: another machine's error breaks no protocol of ours
    kind = type(error) if type(error) in _FOREIGN_ERRORS else InternalError
    # guard: the text of another machine's error is one printable line
    message, hint = (
        fit(text, limits.LINK_TEXT_CHARACTERS) for text in (error.message, error.hint)
    )
    return kind(message, hint=hint, where="the other broker")


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

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        parts: Parts,
        *,
        rest: bytes,
        pace: TokenBucket | None = None,
        patience: float = math.inf,
        silence_limit: float = limits.LINK_KEPT_SECONDS,
        pinned: Callable[[PinnedPeer], bool] = bool,
        alongside: Callable[[Epoch], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(reconnects=True)
        self.session = session
        self.opener = Opener(session)
        self.streams: dict[int, LinkStream] = {}
        """By the number in the preamble; all are opened by the host."""
        self.refused = 0
        self.reason = ""
        self.begun = trio.Event()
        self.gone = trio.Event()
        """For the owner: set when also all that hung on it has ended."""
        self._sock = sock
        self._pinned = pinned
        self._alongside = alongside
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._said_bye = False
        """Whether the other end has closed on purpose."""
        self._silence_limit = silence_limit
        self.is_silent = False
        """The other end has not answered a ping for LINK_SILENT_SECONDS."""
        self.silence_changed = trio.Event()
        """Set, and replaced, when ``is_silent`` changes."""
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
        self._carrier = Sealed(session, sock, rest)
        self.peer = Peer(
            self._carrier,
            PROCESSES[session.role],
            PROCESSES[session.role.other],
            LINK_ROWS,
            [self, *parts(self)],
            habits=_HABITS,
            ledger=self.ledger,
            pace=self._keep_pace,
            foreign_error=_foreign_error,
            lost_error=self._lost,
        )

    @property
    def name(self) -> str:
        """The local name of the other broker."""
        return self.session.peer.name

    @property
    @override
    def live(self) -> bool:
        return self.begun.is_set() and self.peer.live

    @property
    @override
    def over(self) -> trio.Event:
        return self._over

    @property
    def digits(self) -> str:
        """The epoch for people and events."""
        return self.session.epoch.hex()

    # -- calling --------------------------------------------------------------

    @override
    async def call_unless_silent(self, row: Row[_Q, _A], request: _Q) -> None:
        with trio.move_on_after(limits.LINK_ANSWER_SECONDS) as scope:
            pending = await self.peer.begin(row, request)
        if scope.cancelled_caught:
            self.end(f"{self.name} has too many requests to answer")
            raise self._lost()
        # guard: a silent end holds up no lease of the other one
        while not pending.ended.is_set() and not self.is_silent:
            await first_of(pending.ended, self.silence_changed)
        if pending.ended.is_set():
            await self.peer.finish(pending)

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
        self._carrier.heard = trio.current_time()
        self.begun.set()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until, self._watch)
                    # guard: a peer that owes answers is given up
                    nursery.start_soon(self._until, self._watch_answers)
                    nursery.start_soon(self._watch_pinned)
                    if self._alongside is not None:
                        nursery.start_soon(self._alongside, self)
                    task_status.started()
                    await self._until(self._serve_calls)
                    nursery.cancel_scope.cancel()
        except* VitrailError as group:
            self.reason = self.reason or str(_first(group))
        finally:
            self.peer.lose()
            ended_at = trio.current_time()
            self.reason = self.reason or BROKER_ENDS
            with trio.CancelScope(shield=True):
                await self._carrier.finish(self._say_bye)
                await self._cut_all(ended_at)
            self._over.set()
        return self.reason

    async def _serve_calls(self) -> None:
        """Serve calls until the other broker leaves.

        Raises LinkRefusedError if it has not said Bye.
        """
        await self.peer.run()
        if not self._said_bye:
            raise LinkRefusedError(
                "the control connection ended without Bye", reason=RefusalReason.CLOSED
            )

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

    def _say_bye(self) -> None:
        """Queue a Bye, unless the other end has left: it learns why this one leaves."""
        if not self._said_bye and not self._carrier.has_ended:
            reason = fit(self.reason, limits.LINK_TEXT_CHARACTERS)
            self._carrier.put(self.peer.encode_notice(BYE, Bye(reason)))

    async def _keep_pace(self) -> None:
        """Wait until one more message of the other end may be read."""
        await trio.sleep(self._pace.take(trio.current_time()))

    @serves(BYE)
    async def take_bye(self, _: ServedCall[Any], bye: Bye) -> None:
        """Note why the other end leaves; nothing after that is read."""
        self.reason = self.reason or reason_of_peer(self.name, bye.reason)
        self._said_bye = True
        self._carrier.close()

    @serves(CUT)
    async def cut(self, _: ServedCall[Empty], request: Cut) -> Empty:
        """Cut a stream that the other end does not want any more."""
        stream = self.streams.get(request.stream)
        if stream is not None and request.opened_by == "host":
            stream.end(f"cut by {self.name}: {request.reason}")
            await stream.over.wait()
        return Empty()

    async def _watch(self) -> None:
        """Ping a silent broker, and wait for it until the limit of silence.

        Raises UpstreamError when it has sent nothing until then.
        """
        while True:
            await trio.sleep_until(self._carrier.heard + limits.LINK_SILENCE_SECONDS)
            now, heard = trio.current_time(), self._carrier.heard
            if now < heard + limits.LINK_SILENCE_SECONDS:
                continue
            with trio.move_on_after(limits.LINK_SILENT_SECONDS):
                await self.peer.ping().wait()
            if self._carrier.heard != heard:
                continue
            self._note_silence(silent=True)
            # A machine that was suspended finds its own clock far ahead.
            deadline = max(
                heard + self._silence_limit, now + 2 * limits.LINK_SILENT_SECONDS
            )
            with trio.move_on_at(deadline):
                await self._carrier.news.wait()
            if self._carrier.heard == heard:
                raise UpstreamError(
                    f"{self.name} sent nothing for {trio.current_time() - heard:.0f} s"
                )
            self._note_silence(silent=False)

    def _note_silence(self, *, silent: bool) -> None:
        self.is_silent = silent
        self._resumed = trio.current_time()
        self.silence_changed.set()
        self.silence_changed = trio.Event()

    async def wait_silent(self, seconds: float) -> None:
        """Wait until the other end has sent nothing for so long, not even for a ping."""
        while True:
            await trio.sleep_until(self._carrier.heard + seconds / 2)
            heard = self._carrier.heard
            if trio.current_time() < heard + seconds / 2:
                continue
            with trio.move_on_after(seconds / 2):
                await self.peer.ping().wait()
            if self._carrier.heard == heard:
                return

    @property
    def silent(self) -> str:
        """How long the other end has sent nothing, and what will follow, for people."""
        quiet = trio.current_time() - self._carrier.heard
        return (
            f"{self.name} has sent nothing for {quiet:.0f} s: windows wait for it, "
            f"and the link is cut after {self._silence_limit:g} s, and connects again"
        )

    def unanswered(self, asked: float) -> str:
        """Why a request of then has no answer yet, for people: a silent end, or a slow one."""
        if self._carrier.heard < asked:
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
            oldest = self.peer.oldest_pending
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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
