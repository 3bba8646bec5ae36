"""Idle inhibitors: only for windows that are shown."""

from __future__ import annotations

import pytest

from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.handlers.attention import (
    IDLE_INHIBITOR,
    IDLE_MANAGER,
    count_awake,
)
from broker.jail.wayland.handlers.registry import take_away
from tests.kit.wayland.talk import Talk


@pytest.fixture
def talk():
    with Talk(WindowRules("work", allow=frozenset({IDLE_MANAGER}))) as it:
        it.start()
        it.manager = it.bind(IDLE_MANAGER)
        yield it
    assert it.machine.leaked() == []


def inhibit(talk: Talk, surface: int) -> int:
    return talk.make(talk.manager, "create_inhibitor", IDLE_INHIBITOR, None, surface)


def awake(talk: Talk) -> list[object]:
    """The compositor's surfaces on which an inhibitor lives."""
    made = [args[1] for args in talk.told(IDLE_MANAGER, "create_inhibitor")]
    return made[len(talk.told(IDLE_INHIBITOR, "destroy")) :]


def test_a_surface_that_is_not_shown_keeps_no_screen_on(talk):
    """sway takes a surface without a window for visible, for as long as it is there."""
    surface = talk.make(talk.compositor, "create_surface", "wl_surface")
    inhibit(talk, surface)
    talk.send(surface, "commit")
    assert awake(talk) == []


def test_a_window_keeps_it_on_as_long_as_it_is_shown(talk):
    win, _, _ = talk.show(200, 100, 0)
    inhibitor = inhibit(talk, win)
    frame = talk.server_side(win).parent
    assert awake(talk) == [frame]
    talk.send(talk.manager, "destroy")
    talk.send(win, "attach", 0, 0, 0)
    talk.send(win, "commit")
    assert awake(talk) == []
    talk.send(inhibitor, "destroy")
    assert len(talk.told(IDLE_INHIBITOR, "destroy")) == 1


def test_it_comes_with_the_window_and_goes_with_its_surface(talk):
    surface = talk.surface()
    inhibit(talk, surface)
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    assert awake(talk) == [], "a window that is not mapped is visible for sway, too"
    talk.paint(surface, 200, 100, 0)
    talk.send(surface, "commit")
    assert awake(talk) == [talk.server_side(surface).parent]
    talk.send(surface, "destroy")
    assert awake(talk) == []


def test_what_lies_on_a_window_is_shown_with_it(talk):
    win, _, _ = talk.show(200, 100, 0)
    on_it = talk.surface()
    sub = talk.child(on_it, win, 0, 0)
    inhibit(talk, on_it)
    assert awake(talk) == [talk.server_side(win).parent]
    talk.send(sub, "destroy")
    assert awake(talk) == []


def test_record_that_is_changed_lets_the_screen_lock(talk):
    """Its programs keep running; later requests keep nothing on, either."""
    win, _, _ = talk.show(200, 100, 0)
    inhibit(talk, win)
    assert count_awake(talk.sandbox) == 1
    assert take_away(talk.core, frozenset({IDLE_MANAGER})) is False
    talk.pump()
    assert awake(talk) == []
    assert count_awake(talk.sandbox) == 0
    inhibit(talk, win)
    talk.send(win, "commit")
    assert awake(talk) == []


def test_inhibitors_of_other_globals_still_end_the_connection(talk):
    talk.bind("xdg_activation_v1")
    assert take_away(talk.core, frozenset({IDLE_MANAGER, "xdg_activation_v1"}))
