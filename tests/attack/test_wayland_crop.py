"""Cropping, judged on weston, KWin and KWin 6, nested in sway for the pictures.

sway 1.7's software renderer ignores the origin of a viewport's source, so the
content of a crop cannot be judged there (its extent can, and is).
"""

from __future__ import annotations

import mmap
import os
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from tests.attack.test_wayland_alive import ask_menu, dismissed
from tests.attack.test_wayland_pixels import PAINT, popup, random_trees, try_windows
from tests.kit.needs import requires
from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.pixels import frames, mask, outside
from tests.kit.wayland.stand import (
    FRAME,
    GUEST,
    NEWEST_KWIN,
    Stand,
    filtered,
    nested,
    screen_for,
)

OTHER = 0x0000FF
KINDS = [
    "weston",
    pytest.param("kwin", marks=requires("kwin_wayland")),
    pytest.param(NEWEST_KWIN, marks=pytest.mark.long),
]


def leak(it: Stand) -> tuple[int, int]:
    """Guest pixels outside of frames, and all of them."""
    image = it.settled()
    spots = mask(image, GUEST)
    inner = [
        (f.x + 4, f.y + 4, f.w - 8, f.h - 8) for f in frames(image, FRAME, least=9)
    ]
    return outside(spots, inner), int(spots.sum())


def halves(c: Window, w: int, h: int) -> int:
    """A buffer whose left half has another colour than its right half."""
    size = w * h * 4
    fd = memfd(size)
    row = (0xFF000000 | OTHER).to_bytes(4, "little") * (w // 2) + PAINT.to_bytes(
        4, "little"
    ) * (w - w // 2)
    with mmap.mmap(fd, size) as pixels:
        pixels[:] = row * h
    pool = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    os.close(fd)
    return c.make(pool, "create_buffer", "wl_buffer", None, 0, w, h, w * 4, 0)


@asynccontextmanager
async def shown_on(kind: str):
    """A filtered socket before a nested compositor."""
    async with (
        screen_for(kind) as comp,
        nested(comp, kind) as inner,
        filtered(comp, behind=inner.display) as it,
    ):
        yield it


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_no_window_shows_anything_outside_its_frame(kind):
    async with shown_on(kind) as it:
        await try_windows(it, leak, hidden=3)


def cropped(it: Stand, c: Window) -> Image.Image:
    """Show the middle of the right half of a window; return the screen then."""
    surface, xdg, _ = c.show(400, 300, 0xFFFFFFFF)
    c.send(surface, "attach", halves(c, 400, 300), 0, 0)
    c.send(surface, "damage", 0, 0, 400, 300)
    c.send(xdg, "set_window_geometry", 200, 50, 200, 100)
    c.send(surface, "commit")
    c.roundtrip()
    return it.settled()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_crop_shows_the_right_part(kind):
    async with shown_on(kind) as it:

        def act(c: Window) -> tuple[int, int]:
            image = cropped(it, c)
            return int(mask(image, GUEST).sum()), int(mask(image, OTHER).sum())

        right, left = await it.client(act)
        assert left == 0
        assert right == 200 * 100


@pytest.mark.parametrize("kind", KINDS)
async def test_popups_are_framed_there_too(kind):
    async with shown_on(kind) as it:

        def act(c: Window) -> tuple[int, int]:
            _, xdg, _ = c.show(300, 200, 0xFF0000FF)
            popup(c, xdg, (100, 60), (0, 0, 10, 10), (-30, 20), (500, 500))
            return leak(it)

        outside_, shown = await it.client(act)
        assert shown > 0
        assert outside_ == 0


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
async def test_random_trees_show_nothing_outside_there(kind):
    await random_trees(60, lambda it: leak(it)[0], shown_on(kind))


def hide(c: Window, surface: int, _top: int) -> None:
    c.send(surface, "attach", 0, 0, 0)
    c.send(surface, "commit")


def end(c: Window, _surface: int, top: int) -> None:
    c.send(top, "destroy")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leave", [hide, end])
async def test_no_menu_stays_alone_where_its_window_was(kind, leave):
    """weston and KWin leave it, for a click that takes it for another's."""
    async with shown_on(kind) as it:

        def act(c: Window) -> tuple[int, int]:
            surface, xdg, top = c.show(300, 200, 0xFF0000FF)
            popup(c, xdg, (80, 60), (280, 10, 10, 10))
            before = 0
            for _ in range(20):  # weston draws a menu late on a busy machine
                before = before or int(mask(it.settled(), GUEST).sum())
            leave(c, surface, top)
            c.roundtrip()
            return before, int(mask(it.settled(), GUEST).sum())

        assert await it.client(act) == (80 * 60, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_menu_of_a_window_that_is_not_shown_is_not_shown(kind):
    async with shown_on(kind) as it:

        def act(c: Window) -> tuple[int, list[str]]:
            surface = c.surface()
            xdg, _ = c.toplevel(surface)
            c.send(surface, "commit")
            c.configured(xdg)
            menu, _, role = ask_menu(c, xdg)
            c.send(menu, "commit")
            dismissed(c, role)
            c.paint(menu, 80, 60, PAINT)
            c.send(menu, "commit")
            c.roundtrip()
            told = [e[2] for e in c.events if e[0] == role]
            return int(mask(it.settled(), GUEST).sum()), told

        shown, told = await it.client(act)
        assert shown == 0
        assert told == ["popup_done"]
