"""Wine by the recipe of docs/x11.md, word for word: an image, a machine, notepad's menu."""

from __future__ import annotations

import re
import shlex
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
_RECIPE = re.compile(r"```\nbrokerctl (new wine .*)\nbrokerctl run wine\n```")
_PROGRAM = r"""
import os, socket, struct, subprocess
x = socket.socket(socket.AF_UNIX)
x.connect("/tmp/.X11-unix/X" + os.environ["DISPLAY"].strip(":"))
with open(os.environ["XAUTHORITY"], "rb") as file:
    cookie = file.read()[-16:]
name = b"MIT-MAGIC-COOKIE-1\0\0"
x.sendall(struct.pack("<BxHHHHxx", 0x6C, 11, 0, 18, 16) + name + cookie)
x.recv(1)
subprocess.run(["wineboot"])
subprocess.run(["wineserver", "-p"])
for _ in range(9):
    subprocess.run(["wine", "notepad"])
"""
"""Keeps the X server, and starts notepad until it shows.

Wine gives its own processes ten seconds to start, which an emulated processor does not keep.
"""
_F10, _DOWN = 68, 108
_MENU_EDGE = 60
"""Pixels: a menu's side is longer than any line of the window's frame that covers it."""


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(2400)
async def test_the_recipe_shows_notepad_and_its_menu_from_a_machine():
    """Emulated, it takes minutes: Wine makes its first files, and has deadlines.

    By keys: where Wine's desktop has not started in time, it takes its screen for one of
    1024x768 at another place, and finds nothing under the pointer.
    """
    (new,) = _RECIPE.search(_PAGE.read_text()).groups()
    await the_image()
    with home() as plain:
        async with desktop(config_extra=CONFIG) as comp:
            env = {
                **plain,
                "XDG_CACHE_HOME": str(find_paths().cache.parent),
                "WAYLAND_DISPLAY": str(comp.display),
            }
            made = await brokerctl(*shlex.split(new), env=env)
            assert made.code == 0, made.err
            found = load_records([paths_of(env).config[0] / "sandboxes.d"])
            colour = int(found.records["wine"].viewer.label.colour.lstrip("#"), 16)
            start = trio.to_thread.run_sync
            try:
                with (
                    await start(Pointer, comp.display, (1280, 800)) as mouse,
                    await start(Keyboard, comp.display) as keys,
                ):
                    words = ("run", "wine", "--", "python3", "-c", _PROGRAM)
                    async with running(*words, env=env) as child:
                        await _used(comp, mouse, keys, colour, child)
            finally:
                with trio.CancelScope(shield=True):
                    await brokerctl("stop", "--broker", env=env, deadline=120)


async def _used(comp, mouse: Pointer, keys: Keyboard, colour: int, child) -> None:
    async def shown() -> Found | None:
        assert child.popen.poll() is None, child.popen.stderr.read().decode()
        titles = [window["name"] or "" for window in windows(await comp.tree())]
        if not any(title.endswith("Notepad") for title in titles):
            return None
        whole = frames(await pixels(comp), colour, least=100)
        return max(whole, key=lambda found: found.w * found.h, default=None)

    frame = await eventually(shown, deadline=1500)
    assert frame.border >= 4
    kept(picture_name("window"), await pixels(comp))
    inside = (slice(frame.y + 8, None), slice(frame.x + 8, frame.x + frame.w - 8))

    async def opened() -> bool:
        """Whether lines of the frame's colour cross the window."""
        seen = mask(await pixels(comp), colour)[inside]
        seen[frame.h - 16 - 8 :, :] = False
        return (seen.sum(axis=0) > _MENU_EDGE).sum() >= 4

    assert not await opened()
    middle = frame.x + frame.w // 2, frame.y + frame.h // 2
    await trio.to_thread.run_sync(mouse.click, *middle)
    for key in (_F10, _DOWN):
        await trio.to_thread.run_sync(keys.press, key)
    await eventually(opened, deadline=200)
    kept(picture_name("menu"), await pixels(comp))
