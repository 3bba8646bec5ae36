"""What shows that a sandbox uses the microphone, while the sandbox hides it.

With a real broker, sway, PipeWire and mako; the pixels of the screen are judged.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.test_sound_panel import RED, pytestmark, recording, sources
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_window

__all__ = ["pytestmark"]
FILM = "foot {} -T film sleep 1000 & "


async def keep(w, name):
    """Keep a picture for people to look at."""
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "signs"
    folder.mkdir(parents=True, exist_ok=True)
    await w.comp.screenshot(folder / f"{name}.png")


async def red_parts(w):
    """Return the number of red pixels on the screen."""
    colours = (await pixels(w.comp)).convert("RGB").getcolors(1 << 24)
    return sum(number for number, colour in colours if colour == RED)


async def test_microphone_is_shown_over_fullscreen_until_it_ends():
    """Attack: a film in fullscreen hides the notification, by default."""
    film = FILM.format("--fullscreen")
    async with recording(1000, film, "") as (w, server):
        await wait_window(w.comp, title="film")
        await eventually(lambda: red_parts(w))
        await keep(w, "fullscreen")
        await w.said("audio", "microphone", "talk", "deny")
        await eventually(lambda: no_red(w))
        assert not await sources(server)
        await keep(w, "fullscreen-denied")


async def no_red(w):
    return not await red_parts(w)
