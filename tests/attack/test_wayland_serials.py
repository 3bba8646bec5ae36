"""Serials of presses that are over, on a compositor that looks at none."""

from __future__ import annotations

import pytest
import trio

from tests.kit.wayland.people import HOSTILE, People, people


@pytest.mark.parametrize("kind", ["sway", "kwin"])
async def test_a_window_does_not_follow_the_pointer_by_an_old_press(kind):
    """It would be wherever the person clicks next."""

    def attack(p: People) -> None:
        p.hostile.begin(HOSTILE)
        p.focus(p.hostile)
        serial = p.hostile.heard("button")[-1][0]
        before = p.place(p.hostile)
        p.hostile.send(p.hostile.top, "move", p.hostile.seat, serial)
        p.hostile.roundtrip()
        x, y = before
        for step in range(1, 6):
            p.mouse.move(x + 40 * step, y + 20 * step)
            p.hostile.roundtrip()
        assert p.place(p.hostile) == before

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(attack)
