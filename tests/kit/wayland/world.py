"""A compositor with a person at it, and real applications before the filter on it.

``async with world("kwin") as there`` is sway, weston or KWin of Debian 12, or a
newer sway or labwc, with the filter before it, a pointer and, where the
compositor stands it, a keyboard.  The functions below do what a person does
and fail when a picture shows anything outside of a frame.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from broker.jail.wayland.listing import windows_of
from tests.kit.eventually import eventually
from tests.kit.vm.newer_suite import newer
from tests.kit.wayland.apps import strangers
from tests.kit.wayland.compositor import desktop, pixels
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.pixels import Found, frames
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import CONFIG, FRAME, Stand, filtered, nested, unchanged

_PROGRAM = {"kwin": "kwin_wayland"}


KINDS = ["sway", "weston", "kwin"]
NEWER = ["newer-sway", "newer-labwc"]
# labwc draws its title bars around what asks for them, and beside a frame
# any pixel but the desktop's is a stranger.
_NEWER = {
    "sway": CONFIG,
    "labwc": '<?xml version="1.0"?><labwc_config><windowRules>'
    '<windowRule identifier="*" serverDecoration="no"/>'
    "</windowRules></labwc_config>",
}

_PANEL = 64
"""Rows at the top that weston's clock changes."""
_REST = (644, 404)
"""Where a nested weston leaves its pointer's image until the next one comes."""
_CORNER = (5, 5)
"""Where the pointer is in the picture of the empty desktop."""


class FilteredDesktop:
    """A stand, its pointer, and what the screen showed before any window."""

    def __init__(
        self, it: Stand, mouse: Pointer, keys: Keyboard, empty, *, panel: int = 0
    ) -> None:
        self.it, self.mouse, self.keys = it, mouse, keys
        self.empty, self.panel = empty, panel
        it.spots = [_REST, _CORNER]

    async def keep(self, what: str) -> None:
        """Keep a picture for people, where the run keeps its results."""
        kept(picture_name(what), await pixels(self.it.comp))

    async def move(self, x: int, y: int) -> None:
        # A nested compositor, or one on a busy machine, draws it frames late.
        self.it.spots = [_REST, _CORNER, *self.it.spots[2:][-5:], (x, y)]
        await trio.to_thread.run_sync(self.mouse.move, x, y)

    async def press(self, down: bool) -> None:
        await trio.to_thread.run_sync(self.mouse.button, down)

    async def click(self, x: int, y: int) -> None:
        # KWin in a window takes where the pointer came in for where it was.
        await trio.to_thread.run_sync(self.mouse.move, x - 2, y)
        await self.move(x, y)
        await self.press(True)
        await self.press(False)

    async def type(self, text: str) -> None:
        """Type, once a window of the sandbox has the keyboard."""

        async def focused() -> bool:
            return any(info.focused for info in windows_of(self.it.sandbox))

        await eventually(focused)
        await trio.to_thread.run_sync(self.keys.type, text)

    async def chord(self, held: int, char: str) -> None:
        """Press a key while a modifier is held."""
        await trio.to_thread.run_sync(self.keys.chord, held, char)

    async def look(
        self, *, slack: int = 0, known: Sequence[tuple[int, int, int, int]] = ()
    ) -> list[Found]:
        """One picture now: the frames; fails if anything lies outside of them.

        ``known`` are boxes whose frames others cover, so that no rectangle of
        the frame's colour is left to find.
        """
        image = await pixels(self.it.comp)
        found, strange = strangers(
            image, self.empty, self.it.spots, slack=slack, panel=self.panel, known=known
        )
        if strange:
            kept(picture_name("strange"), image)
        assert not strange, f"{strange} pixels outside of {found}"
        return found


@asynccontextmanager
async def scaled(scale: float = 1, *, outputs: int = 1, rules=None, config: str = ""):
    """sway with outputs of this scale side by side, each of 1280x800 logical pixels."""
    config = f"{CONFIG}{config}\noutput * scale {scale}\n"
    size = round(1280 * scale), round(800 * scale)
    async with desktop(size=size, config_extra=config) as comp:
        for number in range(2, outputs + 1):
            await comp.command("create_output")
            place = f"position {1280 * (number - 1)} 0"
            mode = f"resolution {size[0]}x{size[1]}"
            await comp.command(f"output HEADLESS-{number} {mode} {place} scale {scale}")
        async with started(comp, None, rules=rules) as made:
            made.it.scale = scale
            yield made


@asynccontextmanager
async def world(kind: str):
    """The compositor ``kind``; skips where it is not to be had."""
    if kind.startswith("newer-"):
        name = kind.removeprefix("newer-")
        async with newer(name, _NEWER[name]) as comp, started(comp, None) as made:
            yield made
        return
    if not shutil.which(_PROGRAM.get(kind, kind)):
        pytest.skip(f"{kind} is missing")
    async with desktop(config_extra=CONFIG) as comp:
        if kind == "sway":
            async with started(comp, None) as made:
                yield made
        else:
            async with (
                nested(comp, kind) as inner,
                started(comp, inner, panel=_PANEL if kind == "weston" else 0) as made,
            ):
                yield made


@asynccontextmanager
async def started(comp, inner, *, panel: int = 0, rules=None):
    """A pointer and the filter on a compositor that runs; ``inner`` is shown on it."""
    behind = inner.display if inner is not None else None
    # A pointer's place is given as a fraction of the screen; labwc's has another size.
    screen = (await pixels(comp)).size
    async with filtered(comp, rules, behind=behind) as it:
        with (
            await trio.to_thread.run_sync(Pointer, comp.display, screen) as mouse,
            await trio.to_thread.run_sync(Keyboard, comp.display) as keys,
        ):
            # A nested compositor draws a pointer until one comes by, and draws late.
            for at in ((640, 400), _REST):
                await trio.to_thread.run_sync(mouse.move, *at)
                await unchanged(comp, 0.5 if inner is not None else 0.1)
            await trio.to_thread.run_sync(mouse.move, *_CORNER)
            yield FilteredDesktop(it, mouse, keys, await steady(comp), panel=panel)


async def steady(comp):
    """The screen once it has been the same for half a second."""
    return await unchanged(comp, 0.5)


def spot(frame: Found, at: tuple[int, int]) -> tuple[int, int]:
    x, y = at
    return (
        frame.x + (x if x >= 0 else frame.w + x),
        frame.y + (y if y >= 0 else frame.h + y),
    )


async def opened(
    there: FilteredDesktop, running, frame: Found, at: tuple[int, int], *, press: bool
):
    """Make a popup by a click or by resting; its frame must be whole."""
    sandbox = there.it.sandbox
    tries = 0
    with trio.fail_after(90):
        while not running.shown_popups():
            x, y = spot(frame, at)
            if press:
                await there.click(x + tries % 2, y)
            else:
                await there.move(x + tries % 2, y)
            tries += 1
            with trio.move_on_after(2):
                while not running.shown_popups():
                    await trio.sleep(0.05)
    assert await running.popups(frame) >= 1
    assert sandbox.totals["popups"] >= 1


async def closed(there: FilteredDesktop, running, frame: Found) -> None:
    """Click where nothing is until no popup is shown."""

    # A large menu lies over one of them.
    places = itertools.cycle(
        [(frame.w // 2, frame.h - 60), (frame.w - 40, frame.h - 30)]
    )

    async def gone() -> bool:
        if running.shown_popups():
            x, y = next(places)
            await there.click(frame.x + x, frame.y + y)
            await trio.sleep(0.5)
        return not running.shown_popups()

    await eventually(gone)


async def placed(there: FilteredDesktop, places: dict[str, tuple[int, int]]) -> None:
    """Put windows, by their titles' ends, where ``places`` says, and await them there.

    sway draws a window at its new place when its transaction ends, which may wait for
    other windows.  Until then a press at the new place is on the window and on none of
    its surfaces: sway takes it for a press on a title bar, and moves the window along.
    """
    comp = there.it.comp
    for name, (x, y) in places.items():
        await comp.command(f'[title=".*{name}"] move position {x} {y}')

    async def drawn() -> bool:
        found = frames(await pixels(comp), FRAME)
        return {(frame.x, frame.y) for frame in found} >= {*places.values()}

    await eventually(drawn)


async def resized(there: FilteredDesktop, frame: Found, *, slack: int = 0) -> int:
    """Drag the lower right corner; every picture meanwhile is looked at."""
    x, y = frame.x + frame.w - 2, frame.y + frame.h - 2
    await there.move(x, y)
    await there.press(True)
    pictures = 0
    try:
        for step in range(1, 13):
            await there.move(x - 14 * step, y - 10 * step)
            found = await there.look(slack=slack)
            if not any(f.border >= 4 for f in found):
                await there.keep("no-frame")
            assert any(f.border >= 4 for f in found), found
            pictures += 1
    finally:
        await there.press(False)
    return pictures
