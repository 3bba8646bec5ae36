"""What shows that a sandbox uses the microphone, while the sandbox hides it.

With a real broker, sway, PipeWire and mako; the pixels of the screen are judged.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from broker.helpers.process.spawn import run_tool
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


async def test_microphone_of_a_box_without_windows_is_shown():
    """Attack: five notifications, a restart of their server, the end of our program."""
    async with recording(1000) as (w, server):
        await eventually(lambda: red_parts(w))
        await keep(w, "banner")
        for number in range(5):
            await run_tool(["notify-send", f"news {number}"], env=w.environ)
        assert await red_parts(w)
        await keep(w, "banner-notifications")
        assert len(await w.screen.shown()) == 6
        await w.screen.server.stop()
        await w.screen.begin_server()
        assert await red_parts(w)
        await w.screen.one_with("talk records your microphone")

        (banner,) = await eventually(lambda: find_processes(w, "vitrail-banner"))
        os.kill(banner, signal.SIGKILL)
        await eventually(lambda: set(find_processes(w, "vitrail-banner")) - {banner})
        await eventually(lambda: red_parts(w))
        await w.said("audio", "microphone", "talk", "deny")
        await eventually(lambda: no_red(w))
        assert not await sources(server)
        await eventually(lambda: not find_processes(w, "vitrail-banner"))


async def test_death_of_the_viewer_ends_use_and_banner():
    async with recording(1000) as (w, server):
        await eventually(lambda: red_parts(w))
        os.kill(await w.broker_pid(), signal.SIGKILL)

        async def ended():
            return not await sources(server)

        await eventually(ended, deadline=10)
        await eventually(lambda: no_red(w), deadline=10)
        await eventually(lambda: not find_processes(w, "vitrail-banner"))
        await w.wait_event("microphone.off", sandbox="talk")
        await w.start()


def find_processes(w, name):
    """Return the processes of this broker with a name."""
    pids = []
    for pid in w.processes():
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                pids.append(pid)
    return pids
