"""How fast a connection may go: buckets of messages and of pixels.

The compositor works for all connections of a sandbox, so they share a bucket of
each; messages cost the filter, too, and each connection has a bucket of its own
for them besides.

Buckets that connections share are shared evenly.  A connection that finds a shared
bucket empty waits until all debts are paid, but never longer than if the bucket's rate
were divided among the sandbox's connections and it had only its part: an application
that draws its usual pictures goes on beside one that floods.

Sans-IO: time is passed in; the answer is how long to stop reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core import limits
from broker.core.token_bucket import TokenBucket

if TYPE_CHECKING:
    from broker.wayland.sandbox import Sandbox

_FEW_MESSAGES = 32
_FEW_PIXELS = 1 << 24
"""Below both, messages are counted together with those that follow: a picture is five
messages, and asking the buckets would cost as much as one of them."""


class Shared:
    """A bucket of one sandbox; ``members`` says how many connections draw on it.

    ``at_once`` is what one of them may take before it is asked to wait.
    """

    def __init__(
        self, rate: int, burst: int, at_once: int, members: Callable[[], int]
    ) -> None:
        self.rate = rate
        self.at_once = at_once
        self.members = members
        self.pace = TokenBucket(rate, burst)


class _Share:
    """One connection's part of a shared bucket.

    Counted in the whole bucket's units: what one of eight connections sends
    costs it eightfold, so a part follows the number of connections at once.
    """

    def __init__(self, whole: Shared) -> None:
        self._whole = whole
        self._part: TokenBucket | None = None

    def take(self, now: float, amount: int) -> float:
        """Seconds until there is enough in the bucket, or in this part of it."""
        whole, members = self._whole, max(1, self._whole.members())
        part = self._part
        if part is None:
            # Nothing saved up, and one turn to wait for: else a sandbox that connects
            # again and again would get more and more.
            saved = int(whole.rate * limits.WAYLAND_SHARE_SECONDS)
            part = self._part = TokenBucket(whole.rate, saved)
            # guard: nothing saved up at first
            part.take(now, saved + whole.at_once * members)
        # guard: a part for each connection
        # guard: one budget for a sandbox
        return min(whole.pace.take(now, amount), part.take(now, amount * members))


class Budget:
    """All buckets of one connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._refused = sandbox.refused
        self._messages = TokenBucket(
            limits.WAYLAND_MESSAGES_PER_SECOND, limits.WAYLAND_MESSAGES_BURST
        )
        self._shares = (
            ("rate of all", _Share(sandbox.messages)),
            ("pixel rate", _Share(sandbox.pixels)),
        )
        self._seen = (0, 0)

    def first(self, now: float) -> float:
        """Seconds not to read at first: a turn, where others have spent it all."""
        return self._wait(now, (0, 0))

    def pause(self, messages: int, pixels: int, now: float) -> float:
        """Seconds not to read, given the connection's totals so far."""
        before, drawn = self._seen
        if messages - before < _FEW_MESSAGES and pixels - drawn < _FEW_PIXELS:
            return 0.0
        self._seen = (messages, pixels)
        return self._wait(now, (messages - before, pixels - drawn))

    def _wait(self, now: float, spent: tuple[int, int]) -> float:
        """The longest wait of all buckets, counted under the name of its bucket."""
        longest, what = self._messages.take(now, spent[0]), "rate"
        for (name, share), amount in zip(self._shares, spent, strict=True):
            wait = share.take(now, amount)
            if wait > longest:
                longest, what = wait, name
        if longest > 0:
            self._refused[what] += 1
        return longest
