"""Keys of other windows: a window that opens by itself may get one, and no more by it.

Most compositors give a new window the keyboard.  A sandbox opens one after the other, and
each receives a key that the user typed for another program: such a key excuses no
further window, is not a gesture for ``gesture=``, and its serial is not that of an input.
"""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.people import HONEST, HOSTILE, People, people
from tests.kit.wayland.talk import Talk

LEFT = 0x110
OPEN = limits.WAYLAND_MAPPINGS_PER_MINUTE
WAIT = limits.WAYLAND_CHOSEN_SECONDS


class Thief(Talk):
    """A client whose windows come and go; ``opened`` is the newest."""

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        super().__init__(sandbox=sandbox)
        self.serial, self.opened = 1000, (0, 0, 0)
        self.start()
        self.seat = self.bind("wl_seat")
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def open(self) -> int:
        """Show a window; return its surface."""
        self.opened = self.show(60, 40, 0)
        return self.opened[0]

    def end(self, opened: tuple[int, int, int]) -> None:
        win, xdg, top = opened
        for thing in (top, xdg, win):
            self.send(thing, "destroy")

    def waits(self) -> bool:
        """Whether a further window is told nothing, and so cannot be shown."""
        surface = self.surface()
        xdg, _ = self.toplevel(surface)
        self.send(surface, "commit")
        return not self.heard("configure", xdg)

    def enter(self, win: int) -> None:
        """The compositor gives a window the keyboard."""
        on = self.server_side(win)
        self.all_hear("wl_keyboard", "enter", self.next_serial(), on, b"")

    def leave(self, win: int) -> None:
        on = self.server_side(win)
        self.all_hear("wl_keyboard", "leave", self.next_serial(), on)

    def key(self, which: int = 30) -> int:
        """The user types; return the serial."""
        serial = self.next_serial()
        self.all_hear("wl_keyboard", "key", serial, int(self.now * 1000), which, 1)
        return serial

    def click(self, win: int) -> None:
        on = self.server_side(win)
        self.all_hear("wl_pointer", "enter", self.next_serial(), on, 0, 0)
        now = int(self.now * 1000)
        self.all_hear("wl_pointer", "button", self.next_serial(), now, LEFT, 1)

    def steal(self) -> int:
        """A window comes, takes the key of another one and goes."""
        self.enter(self.open())
        serial = self.key()
        self.end(self.opened)
        self.now += 0.1
        return serial


@pytest.fixture
def thief():
    with Thief() as it:
        yield it
    assert it.machine.leaked() == []


def test_stolen_keys_pay_for_no_further_windows(thief):
    for _ in range(OPEN):
        thief.steal()
    assert thief.waits()


def test_a_stolen_key_is_not_a_gesture(thief):
    thief.steal()
    assert thief.sandbox.acted is None


def test_a_stolen_key_does_not_have_a_fresh_serial(thief):
    thief.enter(thief.open())
    serial = thief.key()
    assert not thief.core.serials.fresh(serial, thief.now)


def test_one_click_excuses_windows_only_until_the_user_turns_away(thief):
    """Else one press would begin a chain in which each stolen key excuses the next."""
    own = thief.open()
    thief.click(own)
    thief.enter(own)
    thief.now += 1.0
    thief.leave(own)  # the user types elsewhere from now on
    before = thief.sandbox.acted
    for _ in range(OPEN - 1):  # its own window was the first
        thief.steal()
    assert thief.waits()
    assert thief.sandbox.acted == before


def test_a_window_that_ends_hands_no_key_to_its_parent(thief):
    """Some compositors give the parent the keyboard then, which was clicked long ago."""
    own = thief.open()
    thief.click(own)
    thief.enter(own)
    thief.leave(own)
    thief.now += 60.0
    before = thief.sandbox.acted
    thief.enter(thief.open())
    thief.end(thief.opened)
    thief.enter(own)
    thief.key()
    assert thief.sandbox.acted == before


def test_nor_does_a_connection_that_ends(thief):
    with Thief(thief.sandbox) as other:
        own = thief.open()
        thief.click(own)
        thief.enter(own)
        thief.leave(own)
        thief.now = other.now = 60.0
        before = thief.sandbox.acted
        other.enter(other.open())
    thief.enter(own)
    thief.key()
    assert thief.sandbox.acted == before


def test_a_window_that_comes_again_is_not_the_one_that_was_clicked(thief):
    own, xdg, _ = thief.show(60, 40, 0)
    thief.click(own)
    thief.now += 60.0
    before = thief.sandbox.acted
    thief.send(own, "attach", 0, 0, 0)
    thief.send(own, "commit")
    thief.send(own, "commit")
    thief.configured(xdg)
    thief.paint(own, 10, 10, 0)
    thief.send(own, "commit")
    thief.enter(own)
    thief.key()
    assert thief.sandbox.acted == before


# -- what the user does in windows of their choice counts -------------------------------


def test_keys_after_a_click_are_gestures(thief):
    own = thief.open()
    thief.click(own)
    thief.enter(own)
    thief.now += 1.0
    serial = thief.key()
    assert thief.sandbox.acted == thief.now
    assert thief.core.serials.fresh(serial, thief.now)


def test_keys_after_a_press_on_the_frame_are_gestures(thief):
    own = thief.open()
    frame = thief.model.roots()[0]
    thief.all_hear("wl_pointer", "enter", thief.next_serial(), frame, 0, 0)
    thief.all_hear("wl_pointer", "button", thief.next_serial(), 1, LEFT, 1)
    thief.enter(own)
    thief.now += 1.0
    thief.key()
    assert thief.sandbox.acted == thief.now


@pytest.mark.parametrize(("after", "counts"), [(WAIT - 0.01, False), (WAIT, True)])
def test_keys_count_in_a_window_that_has_had_the_keyboard_for_long(
    thief, after, counts
):
    thief.enter(thief.open())
    thief.key()
    thief.now += after
    thief.key()
    assert (thief.sandbox.acted is not None) == counts


def test_the_time_with_the_keyboard_is_on_end(thief):
    own = thief.open()
    for _ in range(3):
        thief.enter(own)
        thief.now += WAIT / 2
        thief.key()
        thief.leave(own)
    assert thief.sandbox.acted is None


def test_keys_count_in_a_window_that_answers_input(thief):
    own = thief.open()
    thief.click(own)
    thief.enter(own)
    thief.now += 1.0
    second = thief.open()
    thief.leave(own)
    thief.enter(second)
    thief.now += 1.0
    thief.key()
    assert thief.sandbox.acted == thief.now


# -- on a compositor ---------------------------------------------------------------------


async def test_windows_that_come_and_go_read_few_keys_of_the_honest_window():
    """The user types into a window of the desktop's own and never turns away."""

    def attack(p: People) -> None:
        p.hostile.begin(HOSTILE)
        p.honest.begin(HONEST)
        p.focus(p.honest)
        p.hostile.deadline = 5  # a window that comes too fast waits longer
        while True:
            opened = p.hostile.show(60, 40, 0xFF00FFFF)
            since = len(p.hostile.events)
            p.keys.type("a")
            p.eventually(
                lambda at=since: bool(p.hostile.keys(at)), p.hostile, seconds=5
            )
            for thing in reversed(opened):
                p.hostile.send(thing, "destroy")
            p.hostile.roundtrip()
            came.append(opened)

    came: list[object] = []
    async with people() as run:
        with pytest.raises(TimeoutError):
            await run(attack)
    assert len(came) <= OPEN
