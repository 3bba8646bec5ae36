"""Remote ids: numbers for files and pipes that both ends know.

The application's side counts up from 1, ours down from -1; no id is used
twice.  One batch of the sender may open its files newest first, so a new id
need not be the next one, only near it.
"""

from __future__ import annotations

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits


class RemoteIds:
    """Which of the other side's ids have been used."""

    def __init__(self) -> None:
        self._lowest = 1
        """The lowest id that has not been used."""
        self._ahead: set[int] = set()

    def use(self, untrusted_rid: int) -> None:
        """Register a new id.  Raises PeerError when it cannot be one."""
        rid = untrusted_rid
        # guard: ids of its side
        if rid < 1:
            raise PeerError(f"the sender must not use the id {rid} for a new object")
        # guard: no id twice
        if self.known(rid):
            raise PeerError(f"the id {rid} was already used")
        # guard: ids near the last
        if rid >= self._lowest + waypipe_limits.WAYPIPE_ID_WINDOW:
            raise PeerError(f"the id {rid} of a new object is too high")
        self._ahead.add(rid)
        while self._lowest in self._ahead:
            self._ahead.discard(self._lowest)
            self._lowest += 1

    def known(self, rid: int) -> bool:
        """Return whether an id has been used, whatever became of it."""
        return 0 < rid < self._lowest or rid in self._ahead


class OwnIds:
    """Our side's ids."""

    def __init__(self) -> None:
        self._next = -1

    def new(self) -> int:
        """The next one."""
        rid, self._next = self._next, self._next - 1
        return rid

    def known(self, rid: int) -> bool:
        """Return whether we have given out an id."""
        return self._next < rid < 0
