"""A call that waits for its answer, as its caller has it.

Each process with a ``peer.Peer`` runs this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import trio

from broker.core.errors import VitrailError
from broker.wire.fdpass import close_all
from broker.wire.row import AnyRow

_A = TypeVar("_A")


@dataclass
class Answer(Generic[_A]):
    """The answer to a call, with its descriptors, which are the caller's to close."""

    value: _A
    fds: list[int]


@dataclass(eq=False)
class PendingCall:
    """A call of this end, until its answer."""

    row: AnyRow
    request: Any
    on_item: Callable[[Any], None] | None
    on_end: Callable[[], None] | None
    warrant: bytes
    number: int = 0
    """On its connection; 0 until it is sent."""
    ended: trio.Event = field(default_factory=trio.Event)
    value: Any = None
    fds: list[int] = field(default_factory=list)
    error: VitrailError | None = None
    is_dropped: bool = False
    """Whether the caller has left: nobody takes the answer."""
    since: float = field(default_factory=trio.current_time)
    """When it began, by the clock of the event loop."""
    release: Callable[[], None] | None = None
    """Frees its place among the calls of the connection."""

    def leave_room(self) -> None:
        """Free its place; once."""
        release, self.release = self.release, None
        if release is not None:
            release()

    def settle(self, error: VitrailError | None) -> None:
        """Wake the caller; the descriptors of an answer that nobody takes are closed."""
        self.error = error
        self.leave_room()
        self.ended.set()
        if self.is_dropped:
            self._close_fds()
        if self.on_end is not None:
            self.on_end()

    def drop(self) -> bool:
        """Note that the caller has left; return whether the answer is still to come."""
        self.is_dropped = True
        self._close_fds()
        return not self.ended.is_set()

    def _close_fds(self) -> None:
        close_all(self.fds)
        self.fds = []
