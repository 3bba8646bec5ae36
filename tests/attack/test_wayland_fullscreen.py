"""Fullscreen on every path: the frame stays unless the record gives it up."""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.listing import windows_of
from tests.attack.test_wayland_pixels import PAINT, judge
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.mutter_person import gnome
from tests.kit.wayland.pixels import Found, frames, mask
from tests.kit.wayland.stand import (
    CONFIG,
    FRAME,
    GUEST,
    SIZE,
    Stand,
    filtered,
    nested,
    stand,
)

MAXIMIZED, FULLSCREEN = 1, 2
FAKED = WindowRules("work", color=FRAME, fullscreen=Fullscreen.FAKE)


def follow(c: Window, surface: int, xdg: int, top: int) -> tuple[int, int, bool]:
    """Answer the configures so far as an application does; the last one counts."""
    c.roundtrip()
    last = [e[3] for e in c.events if e[0] == top and e[2] == "configure"][-1]
    serials = [e[3][0] for e in c.events if e[0] == xdg and e[2] == "configure"]
    w, h = last[0] or 300, last[1] or 200
    c.events.clear()
    if serials:
        c.send(xdg, "ack_configure", serials[-1])
    c.paint(surface, w, h, PAINT)
    c.send(surface, "commit")
    c.roundtrip()
    return w, h, FULLSCREEN in states(last[2])


@asynccontextmanager
async def on_weston(rules: WindowRules | None = None) -> AsyncIterator[Stand]:
    """A filtered socket before a weston that is shown on sway."""
    if not shutil.which("weston"):
        pytest.skip("weston is missing")
    async with (
        desktop(config_extra=CONFIG) as comp,
        nested(comp, "weston") as inner,
        filtered(comp, rules, behind=inner.display) as it,
    ):
        yield it


def states(body: bytes) -> tuple[int, ...]:
    """The states of a toplevel's configure."""
    return struct.unpack(f"={len(body) // 4}I", body)


async def test_a_least_size_does_not_push_the_frame_off_the_screen():
    """GNOME's compositor makes a window as large as the least size it names."""
    if not shutil.which("mutter"):
        pytest.skip("mutter is missing")

    def act(c: Window) -> tuple[int, int]:
        surface = c.surface()
        xdg, top = c.toplevel(surface)
        c.send(top, "set_min_size", 5000, 4000)
        c.send(surface, "commit")
        c.configured(xdg)
        c.paint(surface, 600, 400, PAINT)
        c.send(surface, "commit")
        c.configured(xdg)  # mutter's answer to the size that it has got
        c.paint(surface, 5000, 4000, PAINT)
        c.send(surface, "commit")
        c.roundtrip()
        (info,) = windows_of(it.sandbox)
        return info.width, info.height

    async with gnome() as there, filtered(there, behind=there.display) as it:
        width, height = await it.client(act)
        edges = WindowRules("work").border * 2
        assert 0 < width <= SIZE[0] - edges
        assert 0 < height <= SIZE[1] - edges


def told(
    c: Window, top: int, *, fullscreen: bool, size: tuple[int, int] | None = None
) -> None:
    """Wait until the window is told that it is (not) fullscreen, at this size.

    sway tells the state first and the size some frames later.
    """

    def match(event) -> bool:
        if event[0] != top or event[2] != "configure":
            return False
        w, h, body = event[3]
        return (FULLSCREEN in states(body)) == fullscreen and size in {None, (w, h)}

    c.wait(match)


def before_mapping(c: Window) -> tuple[int, int, int]:
    surface = c.surface()
    xdg, top = c.toplevel(surface)
    c.send(top, "set_fullscreen", 0)
    c.send(surface, "commit")
    # sway honours it when the window is shown.
    c.configured(xdg)
    c.paint(surface, 300, 200, PAINT)
    c.send(surface, "commit")
    return surface, xdg, top


def after_mapping(c: Window) -> tuple[int, int, int]:
    surface, xdg, top = c.show(300, 200, PAINT)
    c.send(top, "set_fullscreen", 0)
    return surface, xdg, top


def with_an_output(c: Window) -> tuple[int, int, int]:
    surface, xdg, top = c.show(300, 200, PAINT)
    c.send(top, "set_fullscreen", c.bind("wl_output"))
    return surface, xdg, top


def there_and_back(c: Window) -> tuple[int, int, int]:
    surface, xdg, top = c.show(300, 200, PAINT)
    for _ in range(5):
        c.send(top, "set_fullscreen", 0)
        c.send(top, "unset_fullscreen")
        c.send(top, "set_maximized")
    c.send(top, "set_fullscreen", 0)
    return surface, xdg, top


PATHS = [before_mapping, after_mapping, with_an_output, there_and_back]


@pytest.mark.parametrize("mode", [Fullscreen.FAKE, Fullscreen.FRAMED])
async def test_no_path_to_fullscreen_loses_the_frame(mode):
    async with stand(WindowRules("work", color=FRAME, fullscreen=mode)) as it:
        for path in PATHS:
            framed = (SIZE[0] - 8, SIZE[1] - 8)
            whole = framed if mode is Fullscreen.FRAMED else None

            def act(c: Window, path=path, whole=whole) -> None:
                surface, xdg, top = path(c)
                told(c, top, fullscreen=True, size=whole)
                w, h, believes = follow(c, surface, xdg, top)
                assert believes, "the application is told that it is fullscreen"
                leak, shown = judge(it)
                assert leak == 0
                assert shown == w * h
                (found,) = frames(it.settled(), FRAME)
                assert (found.w, found.h) == (w + 8, h + 8)
                assert found.border == 4
                if mode is Fullscreen.FRAMED:
                    assert found[:4] == (0, 0, *SIZE)

            await it.client(act)
        assert it.ends == []


def settled_at(it, size: tuple[int, int]) -> Found:
    """The frame, once it has this size."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = frames(it.settled(), FRAME)
        if [(f.w, f.h) for f in found] == [size]:
            return found[0]
    raise AssertionError(f"no frame of {size}: {found}")


def below_the_panel(c: Window) -> None:
    """Wait until weston's panel is there, which takes its rows off the rest."""
    surface, xdg, top = c.show(300, 200, PAINT)
    high, deadline = SIZE[1], time.monotonic() + 60
    while high > 760 - 32 - 8:
        assert time.monotonic() < deadline, "weston has no panel"
        c.send(top, "set_fullscreen", 0)
        told(c, top, fullscreen=True)
        _, high, _ = follow(c, surface, xdg, top)
        c.send(top, "unset_fullscreen")
        told(c, top, fullscreen=False)
        follow(c, surface, xdg, top)
    leave(c, surface, xdg, top)


def leave(c: Window, surface: int, xdg: int, top: int) -> None:
    for each in (top, xdg, surface):
        c.send(each, "destroy")
    c.roundtrip()


async def test_fullscreen_that_is_faked_lies_whole_on_westons_screen():
    """weston 10 places a window when it gets a picture, no other commit counts.

    It also ends who is smaller than it was maximised to, as a window that
    believes to be fullscreen may be.
    """

    def act(c: Window) -> None:
        for kept in (False, True):
            surface, xdg, top = after_mapping(c)
            told(c, top, fullscreen=True)
            if kept:
                c.configured(xdg)
                c.paint(surface, 320, 200, PAINT)
                c.send(surface, "commit")
                settled_at(it, (328, 208))
            else:
                w, h, _ = follow(c, surface, xdg, top)
                found = settled_at(it, (w + 8, h + 8))
                assert found.border == 4
            leave(c, surface, xdg, top)

    async with on_weston(FAKED) as it:
        await it.client(below_the_panel)
        await it.client(act)
        assert it.ends == []


async def test_a_window_smaller_than_the_screen_stands_in_a_frame_of_its_size():
    """Unfiltered, weston lets a fullscreen window be smaller than the screen."""

    def act(c: Window) -> None:
        surface, xdg, top = before_mapping(c)
        told(c, top, fullscreen=True)
        c.configured(xdg)
        last = [e[3] for e in c.events if e[0] == top and e[2] == "configure"][-1]
        for w, h in ((320, 200), (320, 200), (330, 210)):
            c.paint(surface, w, h, PAINT)
            c.send(surface, "commit")
            c.roundtrip()
        columns = mask(it.settled(), FRAME).any(axis=0).nonzero()[0]
        assert columns.max() - columns.min() + 1 == last[0] + 8

    async with on_weston(FAKED) as it:
        await it.client(act)
        assert it.ends == []


@pytest.mark.parametrize("smaller", [False, True])
async def test_a_window_that_starts_maximised_is_shown_on_weston(smaller):
    """Its first picture already has to be of the configured size there."""

    def act(c: Window) -> None:
        surface = c.surface()
        xdg, top = c.toplevel(surface)
        c.send(top, "set_maximized")
        c.send(surface, "commit")
        c.configured(xdg)
        w, h, body = [e[3] for e in c.events if e[0] == top and e[2] == "configure"][-1]
        assert MAXIMIZED in states(body)
        assert (w, h) > (0, 0)
        shown = (320, 200) if smaller else (w, h)
        for _ in range(2):
            c.paint(surface, *shown, PAINT)
            c.send(surface, "commit")
            c.roundtrip()
        settled_at(it, (w + 8, h + 8))
        assert mask(it.settled(), GUEST).sum() == shown[0] * shown[1]

    async with on_weston(FAKED) as it:
        await it.client(below_the_panel)
        await it.client(act)
        assert it.ends == []


async def test_real_fullscreen_is_what_a_record_may_allow():
    async with stand(
        WindowRules("work", color=FRAME, fullscreen=Fullscreen.REAL)
    ) as it:

        def act(c: Window) -> None:
            surface, xdg, top = after_mapping(c)
            told(c, top, fullscreen=True, size=SIZE)
            assert follow(c, surface, xdg, top) == (*SIZE, True)
            image = it.settled()
            assert image.getcolors(2) == [(SIZE[0] * SIZE[1], (0, 255, 0))]
            c.send(top, "unset_fullscreen")
            told(c, top, fullscreen=False)
            w, h, believes = follow(c, surface, xdg, top)
            assert not believes
            (found,) = frames(it.settled(), FRAME)
            assert (found.w, found.h) == (w + 8, h + 8)

        await it.client(act)
        assert it.ends == []


async def test_the_persons_own_fullscreen_key_keeps_the_frame_too():
    async with stand() as it:

        def act(c: Window) -> None:
            surface, xdg, top = c.show(300, 200, PAINT)
            it.order("fullscreen enable")
            told(c, top, fullscreen=True, size=(SIZE[0] - 8, SIZE[1] - 8))
            w, h, _ = follow(c, surface, xdg, top)
            assert (w, h) == (SIZE[0] - 8, SIZE[1] - 8)
            (found,) = frames(it.settled(), FRAME)
            assert found[:4] == (0, 0, *SIZE)

        await it.client(act)
