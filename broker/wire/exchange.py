"""One call in progress, as its handler has it.

Processes with and without an event loop run this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from broker.core.errors import InternalError
from broker.wire.fdpass import close_all

_A = TypeVar("_A")


async def _refuse_item(_item: object) -> None:
    raise InternalError("the row has no items")


def _refuse_put(_item: object) -> None:
    raise InternalError("the row has no items that are sent at once")


@dataclass
class ServedCall(Generic[_A]):
    """A call that is being served."""

    call: int
    """The number of the call on the connection; 0: a notice."""
    fds: list[int] = field(default_factory=list)
    """The request's descriptors.  What is still in the list when the handler ends is
    closed: ``take_fd`` removes one."""
    answer_fds: list[int] = field(default_factory=list)
    """The answer's descriptors: sent with it, and closed then."""
    emit: Callable[[Any], Awaitable[None]] = _refuse_item
    """Send an item before the answer; waits for the caller where the row is paced."""
    put_item: Callable[[Any], None] = _refuse_put
    """Send an item before the answer, or queue it, on a carrier that queues."""
    permit: Any = None
    """The verified permit or call, where the row needs one."""

    def take_fd(self) -> int:
        """Return the next descriptor of the request, which is the handler's now."""
        return self.fds.pop(0)

    def take_fds(self) -> list[int]:
        """Return all descriptors that are left, which are the caller's now."""
        fds, self.fds = self.fds, []
        return fds

    def give_fd(self, fd: int) -> None:
        """Send a descriptor with the answer; the exchange closes it."""
        self.answer_fds.append(fd)

    def close(self) -> None:
        """Close all descriptors that nobody has taken."""
        close_all(self.fds)
        close_all(self.answer_fds)
        self.fds, self.answer_fds = [], []
