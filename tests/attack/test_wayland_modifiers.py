"""Modifiers of another window's typing: weston sends them to the window under the pointer."""

from __future__ import annotations

import pytest

from tests.attack.test_wayland_stolen_keys import Thief

SHIFT = (1, 0, 0, 0)


@pytest.fixture
def thief():
    with Thief() as it:
        it.open()
        it.click(it.opened[0])
        yield it
    assert it.machine.leaked() == []


def test_modifiers_without_the_focus_are_not_told(thief):
    for number in range(4):
        thief.all_hear("wl_keyboard", "modifiers", 500 + number, *SHIFT)
        assert not thief.core.serials.knows(500 + number)
    assert thief.heard("modifiers") == []
    thief.enter(thief.opened[0])
    assert thief.heard("modifiers") == [[503, *SHIFT]], "the last, after the enter"
    assert thief.core.serials.knows(503)


def test_modifiers_with_the_focus_are_told(thief):
    thief.enter(thief.opened[0])
    thief.all_hear("wl_keyboard", "modifiers", 500, *SHIFT)
    assert thief.heard("modifiers") == [[500, *SHIFT]]
    thief.leave(thief.opened[0])
    thief.all_hear("wl_keyboard", "modifiers", 501, *SHIFT)
    assert len(thief.heard("modifiers")) == 1
