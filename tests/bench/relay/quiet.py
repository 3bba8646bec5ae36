"""Whether other processes were using the machine.

A shared machine is never silent, and a relay that is one process loses more
to a busy neighbour than one that forks for each connection and so gets a
share of the CPU for each.  So a measurement during which the rest of the
machine took more than a little CPU is made again, whoever it was of and
whatever it said; what had to be kept disturbed is counted and told.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.relay.measure import Values
from tests.bench.relay.peers import Peer

TOLERATED = 0.12  # CPUs that others may use
_TICKS = os.sysconf("SC_CLK_TCK")


def _machine() -> float:
    """CPU seconds spent by all processes since boot, steal included."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS


class Watch:
    """Separates the benchmark's own CPU time from that of other processes."""

    def __init__(self, peers: dict[str, Peer], server: Peer, patience: float) -> None:
        self._peers = [*peers.values(), server]
        self._patience = patience
        self.measured = 0
        self.disturbed = 0

    def _others(self) -> float:
        mine = sum(peer.cpu() for peer in self._peers)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            used = resource.getrusage(who)
            mine += used.ru_utime + used.ru_stime
        return _machine() - mine

    def undisturbed(self, measure: Callable[[Peer], Values], peer: Peer) -> Values:
        """Measure, again if others disturbed it, while patience lasts."""
        self.measured += 1
        while True:
            began, before = time.monotonic(), self._others()
            values = measure(peer)
            took = time.monotonic() - began
            others = (self._others() - before) / took
            if others <= TOLERATED:
                return values
            if self._patience <= 0:
                self.disturbed += 1
                return values
            self._wait()
            self._patience -= time.monotonic() - began

    def _wait(self) -> None:
        """Until the others rest for a moment, or for a while at most."""
        for _ in range(20):
            before = self._others()
            time.sleep(0.3)
            if (self._others() - before) / 0.3 <= TOLERATED:
                return
