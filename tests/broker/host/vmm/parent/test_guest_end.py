"""The guest's end of a parent: it is ready only when windows are possible."""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
from contextlib import closing, nullcontext
from types import SimpleNamespace

import pytest

from broker.host.vmm.parent.parent_messages import BEGIN, SEED_BYTES, Identity
from shims.guest import parent as guest_end
from shims.guest.x_server import XServer

OPEN = os.open


class Loop:
    """Timers run when the test says so."""

    def __init__(self):
        self.timers = []
        self.watched = None

    def later(self, _seconds, action):
        self.timers.append(action)

    def watch(self, fd, _events, action):
        assert _events == selectors.EVENT_READ
        self.watched = (fd, action)

    def forget(self, fd):
        assert self.watched is not None
        assert self.watched[0] == fd
        self.watched = None

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
        self.settings = SimpleNamespace(port="", name="", arena=False)
        self.x11 = SimpleNamespace(renew_cookie=lambda: None)
        self.sessions = 0

    def begin_session(self):
        self.sessions += 1

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


def test_a_parent_waits_for_a_slow_waypipe(port):
    guest = Guest("waypipe made no socket in 20 s", "waypipe ended with code -15", "")
    guest_end.Parent(guest, "").begin()
    assert words(port) == [], "copies of it would have no window"
    guest.loop.run()
    assert words(port) == []
    guest.loop.run()
    assert words(port) == ["ready"]


def test_a_parent_whose_waypipe_ended_meanwhile_starts_it_again(port):
    guest = Guest("", "")
    guest.settled = False
    guest_end.Parent(guest, "").begin()
    guest.display.ready = False
    guest.settled = True
    guest.loop.run()
    assert words(port) == ["ready"]
    assert guest.display.results == []


def test_a_parent_waits_for_what_each_copy_would_go_on_with(port):
    guest = Guest("")
    guest.settled = False
    guest_end.Parent(guest, "").begin()
    guest.loop.run()
    assert words(port) == []
    guest.settled = True
    guest.loop.run()
    assert words(port) == ["ready"]


@pytest.fixture
def launcher(monkeypatch):
    """The launcher's end of a port for both directions."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(guest_end, "find_port", lambda _name: "")
    monkeypatch.setattr(guest_end.os, "open", lambda *_: os.dup(theirs.fileno()))
    for name in ("seed_kernel", "new_boot_id"):
        monkeypatch.setattr(guest_end, name, lambda *_: None)
    monkeypatch.setattr(guest_end.time, "clock_settime_ns", lambda *_: None)
    ours.settimeout(0)
    with closing(theirs), closing(ours):
        yield ours


def test_a_copy_connects_when_its_launcher_has_paused_it_for_the_last_time(
    launcher, monkeypatch
):
    guest = Guest("")
    guest.machine = SimpleNamespace(identify=lambda: None, name=lambda _name: None)
    cids = [-1, 77]
    monkeypatch.setattr(guest_end, "local_cid", lambda: cids.pop(0))
    guest_end.Parent(guest, "").begin()
    assert words(launcher.fileno()) == ["ready"]
    seed = bytes(SEED_BYTES)
    launcher.send(Identity("web-0001", 1, seed, 77).encode())
    guest.loop.watched[1](selectors.EVENT_READ)
    assert words(launcher.fileno()) == ["taken"]
    guest.loop.run()
    assert words(launcher.fileno()) == ["linked"]
    assert guest.sessions == 0, "its vsock device will stop"
    launcher.send(BEGIN)
    guest.loop.watched[1](selectors.EVENT_READ)
    assert guest.sessions == 1
    assert guest.loop.watched is None


def test_a_copy_with_an_arena_gives_up_its_parents_display_before_it_is_linked(
    launcher, monkeypatch
):
    guest = Guest("")
    guest.machine = SimpleNamespace(identify=lambda: None, name=lambda _name: None)
    guest.settings.arena = True
    restarts = []
    guest.display.restart = lambda: restarts.append(words(launcher.fileno()))
    monkeypatch.setattr(guest_end, "local_cid", lambda: 77)
    guest_end.Parent(guest, "").begin()
    assert words(launcher.fileno()) == ["ready"]
    launcher.send(Identity("web-0001", 1, bytes(SEED_BYTES), 77).encode())
    guest.loop.watched[1](selectors.EVENT_READ)
    assert restarts == [["taken"]], "the parent's waypipe knows no arena"
    assert words(launcher.fileno()) == ["linked"]


def test_a_copy_draws_an_x11_cookie_from_its_own_seed(tmp_path, launcher, monkeypatch):
    """Each program of another copy could read its parent's."""
    the_port = os.open  # in place of each file
    monkeypatch.setattr(os, "open", OPEN)
    guest = Guest("")
    guest.machine = SimpleNamespace(identify=lambda: None, name=lambda _name: None)
    guest.leaving, guest.session_dir = False, str(tmp_path)
    guest.account = SimpleNamespace(rights=nullcontext)
    guest.x11 = XServer(guest)
    with socket.socket(socket.AF_UNIX) as listener:
        guest.x11._socket.start(listener)
        guest.x11._write_cookie()
        guest.loop.watched = None
        cookie = tmp_path / "xauthority"
        parents = cookie.read_bytes()
        seeded = []
        monkeypatch.setattr(
            guest_end, "seed_kernel", lambda _: seeded.append(cookie.read_bytes())
        )
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", the_port)
            parent = guest_end.Parent(guest, "")
        parent.begin()
        launcher.send(Identity("web-0001", 1, bytes(SEED_BYTES), 77).encode())
        guest.loop.watched[1](selectors.EVENT_READ)
        assert seeded == [parents]
        own = cookie.read_bytes()
    assert len(own) == len(parents)
    assert own[-16:] != parents[-16:]
    assert own[:-16] == parents[:-16]
    assert cookie.stat().st_mode & 0o777 == 0o600


def test_a_guest_without_x11_has_no_cookie(tmp_path):
    guest = Guest("")
    guest.session_dir = str(tmp_path)
    XServer(guest).renew_cookie()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_connects_after_a_while_where_its_launcher_was_killed(
    launcher, monkeypatch
):
    guest = Guest("")
    guest.machine = SimpleNamespace(identify=lambda: None, name=lambda _name: None)
    monkeypatch.setattr(guest_end, "local_cid", lambda: 77)
    guest_end.Parent(guest, "").begin()
    launcher.send(Identity("web-0001", 1, bytes(SEED_BYTES), 77).encode())
    guest.loop.watched[1](selectors.EVENT_READ)
    assert guest.sessions == 0
    guest.loop.run()
    guest.loop.run()
    assert guest.sessions == 1
