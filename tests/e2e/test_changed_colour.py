"""A record's colour changes while its windows are open, on a real compositor."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.wayland.compositor import frames, pixels, wait_frames, wait_window
from tests.kit.wayland.pixels import mask
from tests.kit.world import record, world

pytestmark = requires("waypipe")
GREEN, ORANGE, PURPLE = "#009e73", "#e69f00", "#cc79a7"


def rgb(text):
    """A colour as the screenshot has it."""
    return tuple(bytes.fromhex(text[1:]))


async def picture(w, name):
    """Keep a picture where one is wanted."""
    if folder := os.environ.get("VITRAIL_PICTURES"):
        await w.comp.screenshot(Path(folder) / name)


async def test_open_windows_follow_and_a_former_colour_goes_to_another():
    async with world(image=False) as w:
        icon = w.base / "data/icons/hicolor/scalable/apps/vitrail-sandbox-work.svg"
        icon.parent.mkdir(parents=True)
        icon.write_text("as 'brokerctl new' made it")
        async with plain(w, "work", "home") as guests:
            w.write_record("home", record("persistent", colour=ORANGE))
            shown = {}
            for name in guests:
                await w.run(name, "foot", "-T", name, "sleep", "1000")
                (window,) = await wait_window(w.comp, title=f"[{name}] {name}")
                shown[name] = window["name"]

            def wanted(work, home):
                return {shown["work"]: {rgb(work)}, shown["home"]: {rgb(home)}}

            await wait_frames(w.comp, wanted(GREEN, ORANGE))
            await picture(w, "before.png")
            # One takes another one's former colour, and at once.
            w.write_record("home", record("persistent", colour=GREEN))
            w.write_record("work", record("persistent", colour=PURPLE))
            await wait_frames(w.comp, wanted(PURPLE, GREEN))
            await picture(w, "after.png")

            async def painted():
                return PURPLE in icon.read_text()

            assert await eventually(painted)
            # They swap.
            w.write_record("home", record("persistent", colour=PURPLE))
            w.write_record("work", record("persistent", colour=GREEN))
            await wait_frames(w.comp, wanted(GREEN, PURPLE))
            await picture(w, "swapped.png")
            await a_new_window_has_the_new_colour(w)


async def a_new_window_has_the_new_colour(w):
    await w.run("work", "foot", "-T", "second", "sleep", "1000")
    (window,) = await wait_window(w.comp, title="second")

    async def green():
        return (await frames(w.comp))[window["name"]] == {rgb(GREEN)}

    await eventually(green)
    assert not mask(await pixels(w.comp), int(ORANGE[1:], 16)).any()
