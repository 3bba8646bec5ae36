"""Promoted subsurfaces keep what popups promise, by pixels on real compositors.

Popups overlap each other and their window here, so the judge is local: no
pixel of the guest's may lie beside anything but another or a frame.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio

from broker.core.streams.wayland_rules import WindowRules
from tests.attack.test_wayland_crop import KINDS, OTHER
from tests.attack.test_wayland_pixels import PAINT, random_trees, try_windows
from tests.kit.wayland.client import Window
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import frames, mask
from tests.kit.wayland.stand import (
    CONFIG,
    FRAME,
    GUEST,
    SIZE,
    Stand,
    desktop,
    filtered,
    nested,
    stand,
)

RULES = WindowRules("work", color=FRAME, promote=True)
BLUE = 0xFF000000 | OTHER
SCREEN_EDGE = 0xBFBFBF
"""What a nested weston draws around its screen.  weston 10 lets popups hang
over the edge, and a frame ends there with everything else."""


@asynccontextmanager
async def shown_on(kind: str):
    """A filtered socket before sway, or before a compositor nested in it."""
    if kind == "sway":
        async with stand(RULES) as it:
            yield it
        return
    async with (
        desktop(config_extra=CONFIG) as comp,
        nested(comp, kind) as inner,
        filtered(comp, RULES, behind=inner.display) as it,
    ):
        yield it


EVERYWHERE = [
    "sway",
    pytest.param("weston", marks=pytest.mark.long),
    pytest.param("kwin", marks=[pytest.mark.long, *KINDS[1].marks]),
]


def unframed(image, kind: str = "") -> int:
    """Guest pixels that touch pixels neither of the guest nor of a frame.

    weston's panel, 62 rows down on the picture, covers windows and popups.
    """
    guest = mask(image, GUEST)
    fine = guest | mask(image, FRAME) | mask(image, SCREEN_EDGE)
    if kind == "weston":
        fine[:62] = True
    bad = np.zeros_like(guest)
    bad[1:] |= guest[1:] & ~fine[:-1]
    bad[:-1] |= guest[:-1] & ~fine[1:]
    bad[:, 1:] |= guest[:, 1:] & ~fine[:, :-1]
    bad[:, :-1] |= guest[:, :-1] & ~fine[:, 1:]
    return int(bad.sum())


def overhanging(c: Window, surface: int, x: int, y: int, w: int, h: int) -> int:
    child = c.surface()
    c.child(child, surface, x, y)
    c.paint(child, w, h, PAINT)
    c.send(child, "commit")
    c.shown(surface)
    return child


def picture(it: Stand, expected) -> object:
    """The first picture that is as expected, or the last one seen in vain.

    A popup comes a round trip after what asked for it, some frames later on a
    slow machine, and no event of the client's says when.
    """

    until = time.monotonic() + 20
    while True:
        image = it.settled()
        if expected(image) or time.monotonic() > until:
            return image


def whole(it: Stand, c: Window, x: int, y: int) -> tuple[int, int, int]:
    """A window with a child of 120 x 90 there that is all on the screen.

    weston 10 places windows by chance and popups without looking at the
    screen, so another window is made when one is too near its edge.
    """
    for _ in range(20):
        surface, xdg, top = c.show(300, 200, BLUE)
        child = c.surface()
        sub = c.child(child, surface, x, y)
        c.paint(child, 120, 90, PAINT)
        c.send(child, "commit")
        c.shown(surface)
        image = picture(it, lambda i: mask(i, GUEST).any())
        if framed_guest(image):
            return surface, child, sub
        c.send(sub, "destroy")
        c.send(top, "destroy")
        c.send(xdg, "destroy")
        c.send(surface, "destroy")
        c.roundtrip()
    raise AssertionError("no popup was whole")


def framed_guest(image) -> list[tuple[int, int]]:
    """Content sizes of frames that are filled with the guest's colour."""
    guest = mask(image, GUEST)
    return sorted(
        (f.w - 8, f.h - 8)
        for f in frames(image, FRAME)
        if guest[f.y + 4 : f.y + f.h - 4, f.x + 4 : f.x + f.w - 4].all()
    )


def corner(image) -> tuple[int, int] | None:
    """Where a child that is framed lies."""
    found = [f for f in frames(image, FRAME) if (f.w, f.h) == (128, 98)]
    return (found[0].x, found[0].y) if found else None


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_what_overhangs_is_seen_whole_and_framed(kind):
    async with shown_on(kind) as it:

        def act(c: Window):
            whole(it, c, 200, 150)
            image = it.settled()
            return framed_guest(image), unframed(image), mask(image, GUEST).sum()

        found, bad, count = await it.client(act)
        assert found == [(120, 90)]
        assert bad == 0
        assert count == 120 * 90


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_it_comes_moves_and_goes_with_its_window(kind):
    async with shown_on(kind) as it:

        def act(c: Window):
            surface, _, sub = whole(it, c, 200, 150)
            image = it.settled()
            at, seen = corner(image), [framed_guest(image)]
            c.send(sub, "set_position", 210, 20)
            c.shown(surface)
            image = picture(it, lambda i: corner(i) not in {None, at})
            seen.append((framed_guest(image), unframed(image)))
            c.send(sub, "set_position", 20, 20)
            c.shown(surface)
            image = picture(it, lambda i: not framed_guest(i) and mask(i, GUEST).any())
            seen.append((framed_guest(image), int(mask(image, GUEST).sum())))
            c.send(surface, "attach", 0, 0, 0)
            c.send(surface, "commit")
            c.roundtrip()
            image = picture(it, lambda i: not mask(i, GUEST).any())
            seen.append((int(mask(image, GUEST).sum()), int(mask(image, FRAME).sum())))
            return seen

        assert await it.client(act) == [
            [(120, 90)],
            ([(120, 90)], 0),
            ([], 120 * 90),
            (0, 0),
        ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_no_hostile_window_shows_anything_without_a_frame(kind):
    async with shown_on(kind) as it:

        def look(it: Stand) -> tuple[int, int]:
            image = it.settled()
            return unframed(image, kind), int(mask(image, GUEST).sum())

        await try_windows(it, look, hidden=3)


async def test_the_judge_notices_a_window_without_a_frame():
    async with stand(RULES) as it:

        def act() -> int:
            with Window(it.comp.display).start() as c:
                surface, _, _ = c.show(200, 200, PAINT)
                overhanging(c, surface, 100, 100, 300, 300)
                return unframed(it.settled())

        assert await trio.to_thread.run_sync(act) > 100


async def test_a_click_on_it_is_told_where_it_was():
    async with stand(RULES) as it:

        def act(c: Window):
            with Pointer(it.comp.display, SIZE) as mouse:
                mouse.move(5, 5)
                pointer = c.make(c.bind("wl_seat"), "get_pointer", "wl_pointer")
                surface, _, _ = c.show(300, 200, BLUE)
                it.order("[title=.*] move position 400 200")
                child = overhanging(c, surface, 260, 150, 120, 90)
                image = picture(it, framed_guest)
                (found,) = [f for f in frames(image, FRAME) if f.w == 128]
                mouse.click(found.x + 4 + 30, found.y + 4 + 20)
                enter = c.wait(lambda e: e[0] == pointer and e[2] == "enter")
                c.wait(lambda e: e[0] == pointer and e[2] == "button")
                return enter[3][1:], child, (found.x, found.y)

        (surface, x, y), child, place = await it.client(act)
        assert surface == child
        assert (x // 256, y // 256) == (30, 20)
        assert place == (404 + 260 - 4, 204 + 150 - 4), "where the client put it"


async def test_random_trees_show_nothing_without_a_frame():
    await random_trees(10, lambda it: unframed(it.settled()), stand(RULES))


@pytest.mark.long
async def test_many_random_trees_show_nothing_without_a_frame():
    await random_trees(40, lambda it: unframed(it.settled()), stand(RULES))
