"""Host or viewer as the other one has it, over either transport.

``ask`` sends a request and waits for its reply.  A request of the far end is carried out
in a separate task, in turn where it is about a lease, and what that returns or raises
goes back.  The transports: sealed records between two machines (``epoch``), packets with
descriptors on one (``host_pair.pair_end``).

Host and viewer run it, each for the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar

import trio

from broker.core.errors import InternalError, UpstreamError, VitrailError, sole
from broker.core.stderr_log import log_exception
from broker.net.link import messages as m
from broker.net.link.lease_book import LeaseBook
from broker.net.link_service.lease_turns import LeaseTurns, Turn

_R = TypeVar("_R", bound=m.LinkRequest)


class LinkAnswer(NamedTuple):
    """A reply, and the descriptor that came with it, the receiver's to close; or -1."""

    reply: m.LinkReply
    fd: int = -1


def nothing_held() -> None:
    """The request has no place among others."""


@dataclass(eq=False)
class SentRequest:
    """A request of this end."""

    request: m.LinkRequest
    release: Callable[[], None] = nothing_held
    """Called once, when the reply is here, or will never come."""
    there: trio.Event = field(default_factory=trio.Event)
    answered: LinkAnswer | None = None
    since: float = field(default_factory=trio.current_time)

    def settle(self, answered: LinkAnswer | None) -> None:
        """The reply is here, or will never come."""
        self.answered = answered
        self.there.set()
        self.release()


class FarEnd(ABC):
    """A live connection to the other part of the broker."""

    _INTERNAL: ClassVar[str]
    """What the far end is told of an internal error here."""

    def __init__(self) -> None:
        self.live = False
        self.over = trio.Event()
        """Set when the connection is closed."""
        self._asked: dict[int, SentRequest] = {}
        self._turns = LeaseTurns()

    @property
    @abstractmethod
    def leases(self) -> LeaseBook:
        """The leases that the host has announced on it."""

    # -- asking ---------------------------------------------------------------

    async def ask(self, make: Callable[[int], _R], fd: int = -1) -> m.LinkReply:
        """Send a request and return its reply.

        ``fd`` stays the caller's; only packets carry one.  Raises the far end's error,
        or UpstreamError when the connection ends before the reply.
        """
        return (await self.exchange(make, fd)).reply

    async def exchange(self, make: Callable[[int], _R], fd: int = -1) -> LinkAnswer:
        """Send a request; return its reply and a descriptor.  Raises as ``ask``."""
        asked = await self._send_request(make, fd)
        await self._await_reply(asked)
        return self._outcome(asked)

    def _outcome(self, request: SentRequest) -> LinkAnswer:
        """Return the answer to a request.  Raises as ``ask``."""
        if request.answered is None:
            raise self._lost()
        if isinstance(request.answered.reply, m.LinkFailure):
            raise request.answered.reply.to_error()
        return request.answered

    async def ask_unless_silent(self, make: Callable[[int], _R]) -> None:
        """Send a request, and wait for its reply, but not for that of a silent end.

        A silent end carries the request out when it is back.  Raises as ``ask``.
        """
        await self.ask(make)

    @abstractmethod
    async def _send_request(self, make: Callable[[int], _R], fd: int) -> SentRequest:
        """Send a request, after checking it as the far end will; return its entry."""

    async def _await_reply(self, asked: SentRequest) -> None:
        """Wait until the request has a reply, or will never have one."""
        await asked.there.wait()

    @abstractmethod
    def _lost(self) -> UpstreamError:
        """Return the error of a request whose connection has ended."""

    def _lose(self) -> None:
        """No reply will come, and nothing more can be asked."""
        self.live = False
        for asked in self._asked.values():
            asked.settle(None)
        self._asked.clear()

    # -- serving --------------------------------------------------------------

    async def _carry_out(
        self,
        request: m.LinkRequest,
        turn: Turn,
        serve: Callable[[], Awaitable[LinkAnswer]],
        scope: trio.CancelScope,
    ) -> LinkAnswer | None:
        """Serve a request in its turn; return the reply, or the error of it.

        None: ``scope`` was cancelled before it was carried out.
        """
        answered: LinkAnswer | None = None
        try:
            with scope:
                # guard: messages about a lease are served in order
                async with turn:
                    if isinstance(request, m.LinkPing):
                        return LinkAnswer(m.RequestDone(request.request))
                    answered = await serve()
        except Exception as error:  # noqa: BLE001 -- the reply, whatever it is
            first = sole(error)
            if not isinstance(first, VitrailError):
                # An internal error in one request ends no other.
                log_exception(error)
                first = InternalError(self._INTERNAL)
            answered = LinkAnswer(self._failure(request.request, first))
        return answered

    @abstractmethod
    def _failure(self, number: int, error: VitrailError) -> m.LinkFailure:
        """Return the reply that carries an error of ours to the far end."""
