"""A window that its program destroys in one go is left before the next one is entered."""

from __future__ import annotations

import shutil

import pytest
import trio

from tests.kit.wayland.people import HOSTILE, People, people


@pytest.mark.parametrize("kind", ["sway", "weston"])
async def test_a_destroyed_window_is_left_before_the_next_one_is_entered(kind):
    if not shutil.which(kind):
        pytest.skip(f"{kind} is missing")

    def act(p: People) -> None:
        c = p.hostile.begin(HOSTILE)
        p.focus(c)
        surface, xdg, top = c.show(300, 200, 0xFF00FFFF)

        def entered(on: int):
            return lambda e: e[:3:2] == (c.keyboard, "enter") and e[3][1] == on

        c.wait(entered(surface))
        since = len(c.events)
        for each in (top, xdg, surface):
            c.send(each, "destroy")
        c.wait(entered(c.win), since=since)
        told = [
            (name, args[1])
            for oid, _, name, args in c.events[since:]
            if oid == c.keyboard and name in {"enter", "leave"}
        ]
        assert told == [("leave", surface), ("enter", c.win)]

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(act)
        assert run.it.ends == []
