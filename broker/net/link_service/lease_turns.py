"""The order in which messages about leases are served.

Each request is served in a separate task, and trio promises no order among
tasks.  An end that is served before its beginning leaves a sandbox that is in no
table, so a message about one lease, or one sandbox, waits for the earlier
ones.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import trio

from broker.ipc.host_rows import LeaseBegun, LeaseEnded


class Turn:
    """One request's turn: entered when the ones before it have been served."""

    def __init__(self, before: Collection[Turn]) -> None:
        """Set up a turn that waits for the turns ``before`` it."""
        self.over = False
        """It has been served or given up, and so have all before it."""
        self.waits = len(before)
        self.followers: list[Turn] = []
        self.ready = trio.Event()
        self.given_up = False
        for one in before:
            one.followers.append(self)

    async def __aenter__(self) -> None:
        """Wait until the turns before this one have ended."""
        try:
            if self.waits:
                await self.ready.wait()
        except BaseException:
            self.given_up = True
            # guard: a turn that is given up lets none pass those before it
            if not self.waits:
                self._end()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """End this turn: let the next ones in, and end those among them given up."""
        ended = [self]
        for turn in ended:
            turn.over = True
            for one in turn.followers:
                one.waits -= 1
                if not one.waits:
                    one.ready.set()
                    if one.given_up:
                        ended.append(one)


class LeaseTurns:
    """Turns of one epoch, in the order in which its messages were read."""

    def __init__(self) -> None:
        self._last: dict[str, Turn] = {}
        self._sandbox: dict[str, str] = {}

    def take(self, request: msgspec.Struct) -> Turn:
        """Return the turn of a request, which must be entered; called in order."""
        keys = self._keys(request)
        self._last = {k: t for k, t in self._last.items() if not t.over}
        turn = Turn({self._last[key] for key in keys if key in self._last})
        self._last.update(dict.fromkeys(keys, turn))
        return turn

    def _keys(self, request: msgspec.Struct) -> tuple[str, ...]:
        """Return the lease and sandbox that a request names.

        The keys cannot be equal: a lease id is 16 hex digits, a name has a prefix.
        """
        if isinstance(request, LeaseBegun):
            self._sandbox[request.lease] = f"sandbox {request.sandbox}"
            return request.lease, self._sandbox[request.lease]
        if isinstance(request, LeaseEnded):
            sandbox = self._sandbox.pop(request.lease, "")
            return (request.lease, sandbox) if sandbox else (request.lease,)
        return ()
