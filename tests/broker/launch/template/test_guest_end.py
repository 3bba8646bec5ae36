"""The guest's end of a template: it is ready only when windows are possible."""

from __future__ import annotations

import json
import os
import selectors
import struct

import pytest

from shims.guest import template as guest_end


class Loop:
    """Timers run when the test says so."""

    def __init__(self):
        self.timers = []

    def later(self, _seconds, action):
        self.timers.append(action)

    def watch(self, _fd, _events, _action):
        assert _events == selectors.EVENT_READ

    def run(self):
        timers, self.timers = self.timers, []
        for action in timers:
            action()


class Display:
    """waypipe, which comes up at the attempts that the test names."""

    def __init__(self, *results):
        self.results = list(results)
        self.ready = False

    def when_ready(self, action):
        reason = self.results.pop(0)
        self.ready = not reason
        action(reason)


class Guest:
    settled = True
    machine = None

    def __init__(self, *results):
        self.loop = Loop()
        self.display = Display(*results)

    def cut_all(self):
        pass

    def forget_hops(self):
        pass


@pytest.fixture
def port(monkeypatch):
    """The launcher's end of the port."""
    ours, theirs = os.pipe()
    monkeypatch.setattr(guest_end, "find_port", lambda _name: f"/proc/self/fd/{theirs}")
    monkeypatch.setattr(guest_end.os, "sync", lambda: None)
    os.set_blocking(ours, False)
    yield ours
    os.close(ours)
    os.close(theirs)


def words(port):
    try:
        data = os.read(port, 4096)
    except BlockingIOError:
        return []
    (size,) = struct.unpack_from("<I", data)
    return [json.loads(data[4 : 4 + size])["type"]]


def test_a_template_waits_for_a_slow_waypipe(port):
    guest = Guest("waypipe made no socket in 20 s", "waypipe ended with code -15", "")
    guest_end.Template(guest, "").begin()
    assert words(port) == [], "copies of it would have no window"
    guest.loop.run()
    assert words(port) == []
    guest.loop.run()
    assert words(port) == ["ready"]


def test_a_template_whose_waypipe_ended_meanwhile_starts_it_again(port):
    guest = Guest("", "")
    guest.settled = False
    guest_end.Template(guest, "").begin()
    guest.display.ready = False
    guest.settled = True
    guest.loop.run()
    assert words(port) == ["ready"]
    assert guest.display.results == []


def test_a_template_waits_for_what_each_copy_would_go_on_with(port):
    guest = Guest("")
    guest.settled = False
    guest_end.Template(guest, "").begin()
    guest.loop.run()
    assert words(port) == []
    guest.settled = True
    guest.loop.run()
    assert words(port) == ["ready"]
