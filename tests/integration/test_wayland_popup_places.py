"""Where a popup goes that its place would put off the screen: as its program allows."""

from __future__ import annotations

import pytest

from tests.attack.test_wayland_pixels import PAINT
from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import CONFIG, stand

NONE, SLIDE, FLIP, RESIZE = 0, 1 | 2, 4 | 8, 16 | 32
_AT = (5, 5)
_CORNER = 'for_window [title="work"] move position 5 5\n'
_TOP_LEFT = 5
"""The anchor and the gravity (xdg_positioner)."""


def placed(c: Window, parent: int, adjustment: int) -> list[int]:
    """What a popup of 60 by 40 at the window's upper left corner is told."""
    place = c.make(c.shell, "create_positioner", "xdg_positioner")
    c.send(place, "set_size", 60, 40)
    c.send(place, "set_anchor_rect", 0, 0, 400, 300)
    c.send(place, "set_anchor", _TOP_LEFT)
    c.send(place, "set_gravity", _TOP_LEFT)
    c.send(place, "set_constraint_adjustment", adjustment)
    surface = c.surface()
    xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
    popup = c.make(xdg, "get_popup", "xdg_popup", None, parent, place)
    c.send(surface, "commit")
    told = c.wait(lambda e: e[0] == popup and e[2] == "configure")[3]
    c.events.clear()
    for each in (popup, xdg, surface):
        c.send(each, "destroy")
    c.roundtrip()
    return told


@pytest.mark.parametrize(
    ("adjustment", "expected"),
    [
        (NONE, [-5, -5, 60, 40]),
        (SLIDE, [-5, -5, 60, 40]),
        (FLIP, [400, 300, 60, 40]),
        (FLIP | SLIDE, [400, 300, 60, 40]),
        (RESIZE, [-5, -5, 60, 40]),
        (SLIDE | RESIZE, [-5, -5, 60, 40]),
    ],
)
async def test_a_menu_is_moved_as_its_program_allows_and_stays_on_the_screen(
    adjustment, expected
):
    """Slide is added to what the program allows; nothing takes its place."""

    def act(c: Window) -> None:
        _, xdg, _ = c.show(400, 300, PAINT)
        it.settled()
        (window,) = it.tree()
        assert (window["rect"]["x"], window["rect"]["y"]) == _AT
        assert placed(c, xdg, adjustment) == expected

    async with stand(config=CONFIG + _CORNER) as it:
        await it.client(act)
        assert it.ends == []
