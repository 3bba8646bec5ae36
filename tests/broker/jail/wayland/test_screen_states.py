"""Maximised, fullscreen and back, by program and by user: each request is answered.

The compositor may say nothing where nothing changes, answer late, ignore requests, or
never report "maximised"; what the program is told follows from what it and the user
asked for alone.
"""

from __future__ import annotations

import itertools
import struct

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.protocol import emit, signatures
from broker.jail.wayland.scene import resize_timeout
from tests.kit.wayland.model import Model, Thing
from tests.kit.wayland.talk import Talk

MAXIMIZED, FULLSCREEN, ACTIVATED = 1, 2, 4
SCREEN, SMALL = (1280, 800), (208, 108)


class Desktop(Model):
    """A compositor that maximises windows.

    ``silent``: without an event where nothing changes (mutter, weston); ``late``: one
    event for all requests, after it has confirmed them (weston, KWin); ``refuses``
    windows of fixed size (mutter).
    """

    def __init__(self, *, silent: bool, late: bool, refuses: bool) -> None:
        super().__init__()
        self.silent, self.late, self.refuses = silent, late, refuses
        self.top: Thing | None = None
        self.big = self.whole = self.waits = False

    def xdg_toplevel_set_maximized(self, top: Thing) -> None:
        self._change(top, not self.refuses, self.whole)

    def xdg_toplevel_unset_maximized(self, top: Thing) -> None:
        self._change(top, False, self.whole)

    def xdg_toplevel_set_fullscreen(self, top: Thing, _output: Thing | None) -> None:
        self._change(top, self.big, True)

    def xdg_toplevel_unset_fullscreen(self, top: Thing) -> None:
        self._change(top, self.big, False)

    def _change(self, top: Thing, big: bool, whole: bool) -> None:
        same = (big, whole) == (self.big, self.whole)
        self.top, self.big, self.whole = top, big, whole
        if not (self.silent and same) and not self.refuses:
            self.waits = True
            if not self.late:
                self.say()

    def user(self, top: Thing, big: bool) -> None:
        """The user's own key; as sure as a program's request."""
        if not self.refuses and big != self.big:
            self._change(top, big, self.whole)
            self.say()

    def say(self) -> None:
        if self.waits:
            self.waits = False
            assert self.top is not None
            states = (MAXIMIZED,) * self.big + (FULLSCREEN,) * self.whole
            size = SCREEN if self.big or self.whole else SMALL
            self.configure(self.top.state["xdg"], *size, (*states, ACTIVATED))


KINDS = {
    "eager": {"silent": False, "late": False, "refuses": False},
    "silent": {"silent": True, "late": False, "refuses": False},
    "late": {"silent": False, "late": True, "refuses": False},
    "late and silent": {"silent": True, "late": True, "refuses": False},
    "refuses": {"silent": True, "late": False, "refuses": True},
}

STEPS = {
    "M": "set_maximized",
    "m": "unset_maximized",
    "F": "set_fullscreen",
    "f": "unset_fullscreen",
}
"""U and u are the user's, who maximises a window and makes it small again."""


class Person:
    """A window, and what its program must have been told."""

    def __init__(self, kind: str, mode: Fullscreen = Fullscreen.FAKE) -> None:
        self.desktop = Desktop(**KINDS[kind])
        self.faked = mode is Fullscreen.FAKE
        self.it = Talk(WindowRules("work", fullscreen=mode), model=self.desktop)
        self.surface, self.xdg, self.top = self.it.start().show(200, 100, 0)
        self.it.all_hear("wl_keyboard", "enter", 5, self.desktop.roots()[0], b"")
        self.big = self.whole = False

    def close(self) -> None:
        self.it.close()
        assert self.it.machine.leaked() == []

    def do(self, steps: str) -> None:
        """Take steps, those of the program in one go; all of it is answered then."""
        self.it.events.clear()
        burst = b""
        for step in steps:
            self._expect(step)
            if step in STEPS:
                message = signatures.request("xdg_toplevel", STEPS[step])
                burst += emit.packer(message)(self.top, *([0] if step == "F" else []))
            else:
                self.desktop.user(self.it.server_side(self.top), step == "U")
        if burst:
            self.it.raw(burst)
        self.desktop.say()
        self.it.pump()
        self.it.now += limits.WAYLAND_LATE_SECONDS
        resize_timeout.hurry(self.it.core, self.it.now)
        self.it.pump()
        if burst:
            assert self.it.heard("configure", self.xdg), f"{steps} has no answer"

    def _expect(self, step: str) -> None:
        refuses = self.desktop.refuses
        if step in "Mm":
            self.big = step == "M" and not refuses
        elif step in "Ff":
            self.whole = step == "F"
        elif step == "U":
            self.big |= not (self.faked and self.whole) and not refuses
        elif not refuses and (self.big or (self.faked and self.whole)):
            self.big = False
            if self.faked:
                self.whole = False

    def judge(self, steps: str) -> None:
        told = self.it.heard("configure", self.top)
        if told:
            states = struct.unpack(f"={len(told[-1][2]) // 4}I", told[-1][2])
            was = (MAXIMIZED in states, FULLSCREEN in states)
            assert was == (self.big, self.whole), steps
        if serials := self.it.heard("configure", self.xdg):
            self.it.send(self.xdg, "ack_configure", serials[-1][0])
            self.it.send(self.surface, "commit")


def every_order(steps: str, length: int) -> str:
    """A sequence in which every order of so many steps stands (de Bruijn)."""
    found: list[int] = []
    word = [0] * len(steps) * length

    def add(at: int, period: int) -> None:
        if at > length:
            if length % period == 0:
                found.extend(word[1 : period + 1])
            return
        word[at] = word[at - period]
        add(at + 1, period)
        for step in range(word[at - period] + 1, len(steps)):
            word[at] = step
            add(at + 1, at)

    add(1, 1)
    return "".join(steps[step] for step in [*found, *found[: length - 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_every_order_of_program_and_user_is_answered_as_without_a_filter(kind):
    person = Person(kind)
    done = ""
    for step in every_order("MmFfUu", 4):
        person.do(step)
        done = (done + step)[-8:]
        person.judge(done)
    person.close()


@pytest.mark.parametrize("kind", KINDS)
def test_requests_in_one_go_are_answered_by_the_last(kind):
    """Events of the first ones say nothing against it."""
    person = Person(kind)
    for steps in itertools.product("MmFf", repeat=4):
        person.do("".join(steps))
        person.judge("".join(steps))
    person.close()


@pytest.mark.parametrize("mode", [Fullscreen.FRAMED, Fullscreen.REAL])
@pytest.mark.parametrize("kind", ["eager", "silent", "late", "late and silent"])
def test_fullscreen_that_is_not_faked_is_answered_too(kind, mode):
    person = Person(kind, mode)
    for step in every_order("MmFf", 3):
        person.do(step)
        person.judge(step)
    for steps in itertools.product("MmFf", repeat=3):
        person.do("".join(steps))
        person.judge("".join(steps))
    person.close()


@pytest.mark.parametrize("mode", Fullscreen)
def test_each_wish_for_the_screen_that_is_not_granted_is_counted(mode):
    """The user is told of the first one."""
    person = Person("silent", mode)
    refused = person.it.core.sandbox.refused
    for steps, wishes in (("FF", 1), ("fF", 2)):
        person.do(steps)
        assert refused["fullscreen"] == (wishes if mode is Fullscreen.FAKE else 0)
    person.close()


@pytest.mark.parametrize("kind", ["silent", "late and silent"])
def test_a_maximised_window_in_the_background_is_told_at_once(kind):
    """It is faked whatever its record says."""
    person = Person(kind, Fullscreen.REAL)
    person.do("M")
    person.judge("M")
    person.it.all_hear("wl_keyboard", "leave", 6, person.desktop.roots()[0])
    for step in "FfF":
        person.do(step)
        person.judge(step)
    assert person.it.told("xdg_toplevel", "set_fullscreen") == []
    person.close()


def test_a_program_waits_for_nothing_where_the_state_is_known():
    person = Person("silent")
    person.do("M")
    person.judge("M")
    person.it.events.clear()
    person.it.send(person.top, "set_fullscreen", 0)
    ((w, h, states),) = person.it.heard("configure", person.top)
    assert (w, h) == (1272, 792)
    assert FULLSCREEN.to_bytes(4, "little") in states
    person.close()


def test_our_own_configures_are_acknowledged_to_us():
    """Together with the compositor's last one before them."""
    person = Person("silent")
    it, model = person.it, person.desktop
    person.do("M")
    theirs = it.heard("configure", person.xdg)[-1][0]
    it.send(person.top, "set_fullscreen", 0)
    ours = it.heard("configure", person.xdg)[-1][0]
    it.send(person.xdg, "ack_configure", ours)
    it.send(person.surface, "commit")
    assert it.told("xdg_surface", "ack_configure")[-1] == [theirs]
    before = len(model.requests)
    it.send(person.top, "unset_fullscreen")
    it.send(person.xdg, "ack_configure", it.heard("configure", person.xdg)[-1][0])
    it.send(person.surface, "commit")
    names = [name for _, name, _ in model.requests[before:]]
    assert "ack_configure" not in names
    person.close()


def test_a_popup_names_the_compositors_configure_of_its_parent():
    person = Person("silent")
    it = person.it
    person.do("M")
    theirs = it.heard("configure", person.xdg)[-1][0]
    person.do("F")
    ours = it.heard("configure", person.xdg)[-1][0]
    assert ours != theirs
    xdg = it.make(it.shell, "get_xdg_surface", "xdg_surface", None, it.surface())
    place = it.make(it.shell, "create_positioner", "xdg_positioner")
    it.send(place, "set_size", 50, 50)
    it.send(place, "set_anchor_rect", 0, 0, 10, 10)
    for serial in (theirs, ours):
        it.send(place, "set_parent_configure", serial)
    it.make(xdg, "get_popup", "xdg_popup", None, person.xdg, place)
    assert it.told("xdg_positioner", "set_parent_configure") == [[theirs]]
    person.close()


def test_a_window_without_its_first_configure_gets_none_of_ours():
    """It would be taken for the compositor's, and shown before its turn."""
    with Talk(model=Desktop(**KINDS["silent"])) as it:
        it.start()
        surface = it.surface()
        xdg, top = it.toplevel(surface)
        it.send(top, "unset_fullscreen")
        it.send(top, "set_maximized")
        it.now += limits.WAYLAND_LATE_SECONDS
        resize_timeout.hurry(it.core, it.now)
        it.pump()
        told = it.heard("configure", xdg)
        assert len(told) == 1, "the compositor's"


def test_requests_have_one_fence_and_few_serials():
    person = Person("late and silent")
    it = person.it
    before = len(it.core.by_server)
    message = emit.packer(signatures.request("xdg_toplevel", "set_maximized"))
    it.core.from_client(message(person.top) * 1000, [], it.now)
    assert len(it.core.by_server) == before + 1
    it.pump()
    person.big = True
    for _ in range(2 * limits.WAYLAND_SERIALS):
        person.do("F")
        person.judge("F")
    window = it.core.by_client[person.xdg]
    assert len(window.own) == limits.WAYLAND_SERIALS
    person.close()
