"""How fast a connection may go."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count

import pytest

from broker.core import limits
from broker.core.limits import wayland as wayland_limits
from broker.core.token_bucket import TokenBucket
from broker.jail.wayland.budget import Budget
from broker.jail.wayland.sandbox import Sandbox

_TURN = wayland_limits.WAYLAND_CLIENT_READ_BYTES // 8
_ALL = wayland_limits.WAYLAND_MESSAGES_PER_SECOND_OF_ALL


@pytest.mark.parametrize(("spent", "pause"), [(100, 0.0), (101, 0.1), (110, 1.0)])
def test_a_bucket_pauses_for_its_debt(spent, pause):
    assert TokenBucket(10, 100).take(0.0, spent) == pytest.approx(pause)


def test_a_bucket_fills_with_time_and_never_above_its_burst():
    bucket = TokenBucket(10, 100)
    bucket.take(0.0, 100)
    assert bucket.take(1.0, 10) == 0.0
    assert bucket.take(1000.0, 101) == pytest.approx(0.1)


def connected(sandbox: Sandbox) -> Budget:
    """The budget of one more connection."""
    sandbox.totals["clients"] += 1
    return Budget(sandbox)


@pytest.mark.parametrize("extra", [0, 60_000])
def test_messages_and_pixels_each_have_a_budget(extra):
    sandbox = Sandbox("work")
    budget = connected(sandbox)
    assert budget.pause(
        wayland_limits.WAYLAND_MESSAGES_BURST + extra, 0, 0.0
    ) == pytest.approx(extra / wayland_limits.WAYLAND_MESSAGES_PER_SECOND)
    assert sandbox.refused["rate"] == (extra > 0)
    sandbox = Sandbox("work")
    budget = connected(sandbox)
    pixels = wayland_limits.WAYLAND_COMMIT_PIXELS_BURST + extra
    assert budget.pause(0, pixels, 0.0) == pytest.approx(
        extra / wayland_limits.WAYLAND_COMMIT_PIXELS_PER_SECOND
    )
    assert sandbox.refused["pixel rate"] == (extra > 0)


@pytest.mark.parametrize("extra", [0, 1])
def test_all_connections_of_a_sandbox_have_one_bucket_of_messages(extra):
    sandbox = Sandbox("work")
    one, other = connected(sandbox), connected(sandbox)
    half = wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL // 2
    assert one.pause(half, 0, 0.0) == 0.0
    assert other.pause(half + extra, 0, 0.0) == pytest.approx(extra / _ALL)
    assert sandbox.refused["rate of all"] == extra
    assert connected(Sandbox("other")).pause(half, 0, 0.0) == 0.0


@pytest.mark.parametrize("extra", [0, 1])
def test_who_has_had_less_than_its_part_waits_for_no_debt_of_others(extra):
    sandbox = Sandbox("work")
    greedy, modest = connected(sandbox), connected(sandbox)
    modest.first(0.0)
    greedy.pause(
        wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL + _ALL, 0, 0.0
    )  # owes a second
    # After its first turn, and then some time, it has saved up all that it may.
    later = 2 * _TURN / _ALL + wayland_limits.WAYLAND_SHARE_SECONDS
    part = int(_ALL * wayland_limits.WAYLAND_SHARE_SECONDS) // 2
    assert modest.pause(part + extra, 0, later) == pytest.approx(2 * extra / _ALL)


@pytest.mark.parametrize("spent", [0, 1])
def test_the_first_read_waits_only_where_all_is_spent(spent):
    sandbox = Sandbox("work")
    greedy, new = connected(sandbox), connected(sandbox)
    greedy.pause(wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL + spent, 0, 0.0)
    assert new.first(0.0) == pytest.approx(spent / _ALL)


class Play:
    """Connections that send and wait as they are told, in a separate time."""

    def __init__(self, seconds: float) -> None:
        self.sandbox = Sandbox("work")
        self.seconds = seconds
        self.sent: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self._turns: list[tuple[float, int, object]] = []
        self._order = count()

    def add(
        self, who: str, amount: int, every: float = 0.0, *, reconnects: bool = False
    ):
        """One that sends ``amount`` each time it may, or ``every`` so often."""
        budget = connected(self.sandbox)
        self._at(budget.first(0.0), (who, amount, every, reconnects, budget, 0))

    def _at(self, when: float, what: object) -> None:
        heapq.heappush(self._turns, (when, next(self._order), what))

    def run(self) -> None:
        while self._turns and self._turns[0][0] < self.seconds:
            now, _, (who, amount, every, reconnects, budget, total) = heapq.heappop(
                self._turns
            )
            total += amount
            self.sent[who] += amount
            wait = budget.pause(total, 0, now)
            if reconnects:  # it has not waited: its messages count
                budget, total = Budget(self.sandbox), 0
                wait = budget.first(now)
            self.waited[who] += wait
            self._at(
                now + max(wait, every), (who, amount, every, reconnects, budget, total)
            )


@pytest.mark.parametrize("clients", [2, 8, limits.WAYLAND_CLIENTS_PER_SANDBOX])
def test_many_that_flood_are_no_faster_together_than_the_bucket(clients):
    play = Play(20.0)
    for _ in range(clients):
        play.add("greedy", _TURN)
    play.run()
    most = wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL + 20 * _ALL + clients * _TURN
    assert most * 0.8 < play.sent["greedy"] <= most * 1.05


@pytest.mark.parametrize("clients", [8, limits.WAYLAND_CLIENTS_PER_SANDBOX])
def test_a_client_that_reconnects_has_no_more(clients):
    play = Play(20.0)
    for _ in range(clients):
        play.add("greedy", _TURN, reconnects=True)
    play.run()
    most = wayland_limits.WAYLAND_MESSAGES_BURST_OF_ALL + 20 * _ALL + clients * _TURN
    assert play.sent["greedy"] <= most * 1.05


def test_an_application_that_draws_is_not_held_up_by_eight_that_flood():
    play = Play(20.0)
    for _ in range(8):
        play.add("greedy", _TURN)
    play.add("video", 20, every=1 / 60)
    play.run()
    assert play.sent["video"] == pytest.approx(20 * 60 * 20, rel=0.02)
    assert play.waited["video"] < 0.5  # its first turn


def test_one_alone_may_have_what_a_connection_may():
    play = Play(20.0)
    play.add("greedy", _TURN)
    for _ in range(7):
        play.add("idle", 1, every=1.0)
    play.run()
    assert play.sent["greedy"] >= 20 * wayland_limits.WAYLAND_MESSAGES_PER_SECOND
