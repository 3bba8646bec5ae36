"""Real fullscreen, where a record allows it, on a compositor that gives the focus for it."""

from __future__ import annotations

import pytest
import trio

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from tests.kit.wayland.people import HONEST, HOSTILE, People, people


@pytest.mark.parametrize("kind", ["sway", "kwin"])
@pytest.mark.parametrize("mode", list(Fullscreen))
async def test_a_window_behind_takes_no_keyboard_by_going_fullscreen(kind, mode):
    """It could wait for the moment in which the keys are worth most."""

    def attack(p: People) -> None:
        p.hostile.begin(HOSTILE)
        if kind != "sway":
            p.drag_away(p.hostile)
        p.honest.begin(HONEST)
        p.focus(p.hostile)
        p.focus(p.honest)
        before = len(p.hostile.events)
        p.hostile.send(p.hostile.top, "set_fullscreen", 0)
        p.hostile.roundtrip()
        p.type("abc")
        assert p.hostile.keys(before) == []
        assert p.honest.focused()

    rules = WindowRules(name="work", fullscreen=mode)
    async with people(kind, rules=rules) as run:
        with trio.fail_after(60):
            await run(attack)
