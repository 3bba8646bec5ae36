"""The requests that are open between host and viewer, as both ends note them.

The same rules on both transports: sealed records between two machines (``link.control``),
packets on one (``host_pair.pair_end``).  Sans-IO.

* A request has a higher number than its sender's earlier ones; a limited number of them
  is open in each direction.
* A reply is taken only for a request that is open, and of a type that request has.
* Both ends keep the same book of leases (``lease_book``), moved by the same messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from broker.core.errors import InternalError, RefusedError
from broker.net.link.lease_book import LeaseBook
from broker.net.link.messages import (
    LeaseBegun,
    LeaseEnded,
    LinkReply,
    LinkRequest,
    RequestDone,
)
from broker.net.link.wire_types import LinkRefusedError, RefusalReason

_R = TypeVar("_R", bound=LinkRequest)


class OpenRequests:
    """The requests of one end and of its far end, and the book of leases."""

    def __init__(
        self,
        limit: int,
        replies: Callable[[LinkRequest], tuple[type[LinkReply], ...]],
        leases: LeaseBook,
    ) -> None:
        """Set up without requests; ``limit``: of those open in each direction.

        ``replies`` returns the types that may answer a request.
        """
        self._limit = limit
        self._replies = replies
        self._last_sent = 0
        self._last_received = 0
        self.asked: dict[int, LinkRequest] = {}
        """Ours, without a reply yet."""
        self.owed: dict[int, LinkRequest] = {}
        """The far end's, without a reply yet."""
        self.leases = leases

    def ask(
        self, make: Callable[[int], _R], encode: Callable[[LinkRequest], bytes]
    ) -> tuple[_R, bytes]:
        """Make a request with the next number; return it and its bytes.

        Raises RefusedError when too many are open, InternalError when it contradicts
        earlier messages; ``encode`` raises it for a message that the far end would refuse.
        """
        if len(self.asked) >= self._limit:
            raise RefusedError(f"{self._limit} requests are unanswered")
        try:
            message = make(self._last_sent + 1)
            body = encode(message)
            self._enter(message)
        except ValueError as error:
            raise InternalError(f"cannot send the request: {error}") from error
        self._last_sent += 1
        self.asked[self._last_sent] = message
        return message, body

    def take_reply(self, message: LinkReply) -> LinkRequest:
        """Return the request that a reply answers, which is settled.

        Raises LinkRefusedError for a reply that no request expects.
        """
        request = self.asked.get(message.request)
        # guard: a reply answers our request with a message that fits it
        if request is None or not self._fits(request, message):
            raise LinkRefusedError(
                f"no request expects the reply {type(message).__name__}",
                reason=RefusalReason.MALFORMED,
            )
        del self.asked[message.request]
        self._settle(request, message)
        return request

    def take_request(self, message: LinkRequest) -> None:
        """Note a request of the far end's.

        Raises LinkRefusedError against the rules.
        """
        if message.request <= self._last_received:
            raise LinkRefusedError(
                f"request {message.request} follows request {self._last_received}",
                reason=RefusalReason.MALFORMED,
            )
        # guard: requests of the far end are bounded
        if len(self.owed) >= self._limit:
            raise LinkRefusedError(
                f"more than {self._limit} requests at one time",
                reason=RefusalReason.BUSY,
            )
        try:
            self._enter(message)
        except ValueError as error:
            raise LinkRefusedError(
                f"invalid message of the host: {error}", reason=RefusalReason.MALFORMED
            ) from error
        self._last_received = message.request
        self.owed[message.request] = message

    def was_sent(self, number: int) -> bool:
        """Return whether the far end has sent a request of this number, or a higher."""
        return number <= self._last_received

    def reply(self, message: LinkReply) -> None:
        """Note our reply.  Raises InternalError for a reply that no request expects."""
        request = self.owed.get(message.request)
        if request is None or not self._fits(request, message):
            raise InternalError(f"no open request expects {message}")
        del self.owed[message.request]
        self._settle(request, message)

    def _fits(self, request: LinkRequest, reply: LinkReply) -> bool:
        """Return whether a reply is of a type that the request has."""
        return isinstance(reply, self._replies(request))

    def _enter(self, message: LinkRequest) -> None:
        if isinstance(message, LeaseBegun):
            self.leases.begin(message)
        elif isinstance(message, LeaseEnded):
            self.leases.end(message)

    def _settle(self, request: LinkRequest, reply: LinkReply) -> None:
        if isinstance(request, LeaseBegun) and isinstance(reply, RequestDone):
            self.leases.confirm(request)
