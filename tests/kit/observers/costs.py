"""Compositor work that a sandbox causes, beside plain requests at the same budget.

The filter lets a sandbox send so many requests a second.  What that may cost is judged
from outside: the compositor's own CPU clock while a client sends one kind of request as
fast as it gets through, compared with commits that change nothing.  The budget is
lowered, so that it is the budget that holds the client back and not the machine: what
the judge compares are then costs, on a fast machine and on a busy one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from broker.core.limits import wayland as limits
from tests.bench.wayland.costs import KINDS, Round
from tests.bench.wayland.peers import cpu_of
from tests.kit.observers.honest import SeenError
from tests.kit.wayland.client import Window

PLAIN = "commit, nothing changed"
BOUND = 4.0
"""How much more a kind may cost than plain commits that use up the same budget."""
_PART = 30
"""By what the budget is divided: 3,000 messages a second are let through."""
_RATES = (
    "WAYLAND_MESSAGES_PER_SECOND", "WAYLAND_MESSAGES_PER_SECOND_OF_ALL",
    "WAYLAND_COMMIT_PIXELS_PER_SECOND", "WAYLAND_TITLES_PER_MINUTE",
)  # fmt: skip
_BURSTS = (
    "WAYLAND_MESSAGES_BURST", "WAYLAND_MESSAGES_BURST_OF_ALL",
    "WAYLAND_COMMIT_PIXELS_BURST",
)  # fmt: skip


def lower(patch: pytest.MonkeyPatch) -> None:
    """Give sandboxes that are made from now on a small budget, and little at once."""
    for name in _RATES:
        patch.setattr(limits, name, getattr(limits, name) // _PART)
    for name in _BURSTS:
        patch.setattr(limits, name, getattr(limits, name) // _PART // 10)
    patch.setattr(limits, "WAYLAND_MAPPINGS_PER_MINUTE", 1 << 20)


def worked(pid: int, once: Round, c: Window, seconds: float) -> float:
    """Which part of a core the compositor needs while these are sent."""
    once()  # its savings are used up
    c.roundtrip()
    began, used = time.monotonic(), cpu_of(pid)
    while time.monotonic() - began < seconds:
        once()
        c.roundtrip()  # else minutes of them may wait in the socket
    return (cpu_of(pid) - used) / (time.monotonic() - began)


class Costs:
    """``client`` makes a started client of a sandbox with the lowered budget."""

    def __init__(
        self, client: Callable[[], Window], pid: int, seconds: float = 1.5
    ) -> None:
        self.client, self.pid, self.seconds = client, pid, seconds
        self.plain = self._of(PLAIN)
        self.shares: dict[str, float] = {}

    def _of(self, kind: str) -> float:
        with self.client() as c:
            return worked(self.pid, KINDS[kind](c), c, self.seconds)

    def judge(self, kind: str, bound: float = BOUND) -> None:
        """Raise SeenError where a kind costs much more than plain commits."""
        share = self.shares[kind] = self._of(kind) / self.plain
        print(f"{kind}: {share:.1f} times what plain commits cost")
        if share > bound:
            raise SeenError(
                f"{kind}: the compositor works {share:.1f} times as much for it as for"
                " plain commits"
            )
