"""Fullscreen within the frame, the default: what a window does that has it.

Each of the crimes of ``test_wayland_pixels`` in a window that fills the screen, which
it acknowledges or not, and that it may have left without an answer: the picture shows one
whole frame, and none of the window's pixels outside of it.
"""

from __future__ import annotations

import os

import trio

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.worker import readiness
from tests.attack.test_wayland_fullscreen import told
from tests.attack.test_wayland_pixels import PAINT, WINDOWS, null_attach_in_between
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.pixels import frames, mask
from tests.kit.wayland.stand import CONFIG, FRAME, GUEST, SIZE, filtered

RULES = WindowRules("work", color=FRAME, fullscreen=Fullscreen.FRAMED)

SHOWN = [crime for crime in WINDOWS if crime is not null_attach_in_between]
"""The one that is left out ends without a window."""


def kept(it) -> list[str]:
    """What is wrong with the picture: each side of 4 pixels is the frame's."""
    image = it.settled()
    wrong, found = [], frames(image, FRAME)
    if len(found) != 1 or found[0].border < 4:
        wrong.append(f"frames {found}")
    x, y, w, h = found[0][:4] if found else (0, 0, *SIZE)
    inside = mask(image, GUEST)
    inside[y + 4 : y + h - 4, x + 4 : x + w - 4] = False
    if inside.any():
        wrong.append(f"{int(inside.sum())} pixels outside")
    return wrong


def at_once(c: Window, surface: int, xdg: int, top: int) -> None:
    c.send(top, "set_fullscreen", 0)
    told(c, top, fullscreen=True, size=(SIZE[0] - 8, SIZE[1] - 8))
    c.configured(xdg)
    c.paint(surface, SIZE[0] - 8, SIZE[1] - 8, PAINT)
    c.send(surface, "commit")
    c.roundtrip()


def never(c: Window, _surface: int, _xdg: int, top: int) -> None:
    c.send(top, "set_fullscreen", 0)
    told(c, top, fullscreen=True, size=(SIZE[0] - 8, SIZE[1] - 8))


def left_unanswered(c: Window, surface: int, xdg: int, top: int) -> None:
    at_once(c, surface, xdg, top)
    c.send(top, "unset_fullscreen")
    told(c, top, fullscreen=False)


async def crimes(enter, wrong: dict[str, list[str]]) -> None:
    """Commit each on a screen of its own; by its name what was wrong."""
    async with (
        desktop(size=SIZE, config_extra=CONFIG) as comp,
        filtered(comp, RULES) as it,
    ):
        for crime in SHOWN:

            def act(c: Window, crime=crime) -> list[str]:
                surface, xdg, top = c.show(200, 200, PAINT)
                enter(c, surface, xdg, top)
                before = kept(it) if crime is SHOWN[0] else []
                crime(c, surface, xdg)
                c.roundtrip()
                return before + kept(it)

            if found := await it.client(act, compositor=4):
                wrong[f"{enter.__name__}, {crime.__name__}"] = found
        assert it.ends == []


async def test_no_window_that_fills_the_screen_draws_over_its_frame():
    """On three screens beside each other: most of its time each waits for sway's."""
    readiness.prepare()  # as ``stand``
    before = set(os.listdir("/proc/self/fd"))
    wrong: dict[str, list[str]] = {}
    async with trio.open_nursery() as nursery:
        for enter in (at_once, never, left_unanswered):
            nursery.start_soon(crimes, enter, wrong)
    assert wrong == {}
    assert set(os.listdir("/proc/self/fd")) <= before
