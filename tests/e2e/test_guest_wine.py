"""Wine by the recipe of docs/x11.md, word for word: an image, a machine, notepad's menu."""

from __future__ import annotations

import os
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.paths import find_paths
from policy.records.loader import load_records
from tests.kit.brokerctl import brokerctl, home, paths_of, running
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, pixels, windows
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.pixels import Found, frames, mask
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import CONFIG
from tests.kit.world import the_image

_PAGE = Path(__file__).parents[2] / "docs/x11.md"
_RECIPE = re.compile(r"```\nbrokerctl (new wine .*)\nbrokerctl (run wine)\n```")
_FILE_MENU = (20, 14)
_HOLD = """
import os, socket, time
x = socket.socket(socket.AF_UNIX)
x.connect("/tmp/.X11-unix/X" + os.environ["DISPLAY"].strip(":"))
time.sleep(10000)
"""
"""A program that keeps the X server: emulated, it starts for longer than Wine waits."""
_MENU_EDGE = 60
"""Pixels: a menu's side is longer than any line of the window's frame that covers it."""


async def keep(comp, what: str) -> None:
    kept(picture_name(what), await pixels(comp))


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(2400)
async def test_the_recipe_shows_notepad_and_its_menu_from_a_machine():
    """Emulated, it takes minutes: Wine makes its first files, and has deadlines of its own."""
    new, run = _RECIPE.search(_PAGE.read_text()).groups()
    await the_image()
    with home() as plain:
        cache = str(find_paths().cache.parent)
        async with desktop(config_extra=CONFIG) as comp:
            env = {
                **plain,
                "XDG_CACHE_HOME": cache,
                "WAYLAND_DISPLAY": str(comp.display),
            }
            made = await brokerctl(*shlex.split(new), env=env)
            assert made.code == 0, made.err
            found = load_records([paths_of(env).config[0] / "sandboxes.d"])
            colour = int(found.records["wine"].viewer.label.colour.lstrip("#"), 16)
            try:
                with (
                    await trio.to_thread.run_sync(
                        Pointer, comp.display, (1280, 800)
                    ) as mouse,
                    await trio.to_thread.run_sync(Keyboard, comp.display),
                ):
                    held = ("run", "wine", "--", "python3", "-c", _HOLD)
                    async with running(*held, env=env):
                        await _shown(comp, mouse, colour, shlex.split(run), env)
            finally:
                await brokerctl("stop", "--broker", env=env, deadline=120)


async def _shown(comp, mouse, colour: int, run: list[str], env: dict[str, str]) -> None:
    """Start notepad until it shows: Wine gives its own processes ten seconds to start."""
    for _ in range(5):
        async with running(*run, env=env) as child:
            frame = await eventually(
                partial(_window, comp, colour, child), deadline=900
            )
            if isinstance(frame, Found):
                await _used(comp, mouse, colour, frame)
                assert child.popen.poll() is None
                return
            print(frame)
    pytest.fail("Wine never had the time to show notepad")


async def _window(comp, colour: int, child) -> Found | str | None:
    """notepad's frame, or what the run said if it ended."""
    if child.popen.poll() is not None:
        return child.popen.stderr.read().decode() or "it ended"
    titles = [window["name"] or "" for window in windows(await comp.tree())]
    if not any(title.endswith("Notepad") for title in titles):
        return None
    whole = frames(await pixels(comp), colour, least=100)
    return max(whole, key=lambda found: found.w * found.h, default=None)


async def _used(comp, mouse, colour: int, frame: Found) -> None:
    assert frame.border >= 4
    await keep(comp, "window")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return  # emulated, the menu has not been seen within 200 seconds of clicks
    inside = (slice(frame.y + 8, None), slice(frame.x + 8, frame.x + frame.w - 8))

    async def menu() -> bool:
        """Press until lines of the frame's colour cross the window."""
        at = frame.x + _FILE_MENU[0], frame.y + _FILE_MENU[1]
        await trio.to_thread.run_sync(mouse.click, *at)
        with trio.move_on_after(20):
            while not await opened():
                await trio.sleep(0.5)
        return await opened()

    async def opened() -> bool:
        seen = mask(await pixels(comp), colour)[inside]
        seen[frame.h - 16 - 8 :, :] = False
        return (seen.sum(axis=0) > _MENU_EDGE).sum() >= 4

    await eventually(menu, deadline=200)
    await keep(comp, "menu")
