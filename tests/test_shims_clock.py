"""A guest's clock follows the time in the broker's pings."""

from __future__ import annotations

import time

import pytest

from shims.guest import clock
from shims.guest.clock import GuestClock

SECOND = 10**9


class Machine:
    """A machine's clocks, in seconds: ``real`` may be set, ``monotonic`` may not."""

    def __init__(self, monkeypatch):
        self.real, self.monotonic, self.steps = 1000.0, 50.0, []
        monkeypatch.setattr(time, "time_ns", lambda: round(self.real * SECOND))
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)
        monkeypatch.setattr(time, "clock_settime_ns", self._set)
        self.clock = GuestClock()
        self.refusal = None

    def _set(self, which, value):
        assert which == time.CLOCK_REALTIME
        if self.refusal is not None:
            raise self.refusal
        self.steps.append(value / SECOND - self.real)
        self.real = value / SECOND

    def ping(self, broker, after=2.0):
        self.real += after
        self.monotonic += after
        self.clock.follow(round(broker * SECOND))


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_late_clock_is_set_at_the_first_ping(machine):
    machine.ping(1002)
    machine.ping(1003)
    assert machine.steps == []
    machine.ping(1066)
    assert machine.steps == [pytest.approx(60)]
    machine.ping(1068)
    assert len(machine.steps) == 1


def test_clock_ahead_is_set_back_after_ten_seconds_of_agreement(machine):
    for second in range(2, 12, 2):
        machine.ping(900 + second)
        assert machine.steps == []
    machine.ping(912)
    assert machine.steps == [pytest.approx(-100)]


def test_pings_that_waited_set_no_clock_back(machine):
    """A guest that was stopped for an hour reads all of that hour at once."""
    machine.ping(1002)
    machine.ping(1004, after=3600)
    for number in range(100):
        machine.ping(1006 + 30 * number, after=0.01)
    machine.ping(machine.real)
    for _ in range(10):
        machine.ping(machine.real + 2)
    assert machine.steps == []


def test_ping_of_an_older_broker_sets_no_clock(machine):
    for _ in range(10):
        machine.ping(0)
    assert machine.steps == []


def test_guest_without_the_right_keeps_its_clock(machine, monkeypatch):
    lines = []
    monkeypatch.setattr(clock, "log", lines.append)
    machine.refusal = PermissionError(1, "Operation not permitted")
    machine.ping(5000)
    assert lines == ["cannot set the clock: [Errno 1] Operation not permitted"]
