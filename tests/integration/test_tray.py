"""'brokerctl tray' in a real panel (waybar on sway), with a real broker.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import notifying
from tests.kit.needs import requires
from tests.kit.waybar import waybar
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.input import Pointer

pytestmark = requires("waypipe", "mako", "dbus-daemon", "waybar", "gdbus")
RULES = "vitrail.Notification + work @adminvm allow\n"
BAR = {
    "layer": "top",
    "position": "top",
    "height": 40,
    "modules-left": [],
    "modules-center": [],
    "modules-right": ["tray"],
    "tray": {"icon-size": 32, "show-passive-items": True},
}
WATCHER = ("org.kde.StatusNotifierWatcher", "/StatusNotifierWatcher")


@asynccontextmanager
async def in_panel(w):
    """Yield the item's name on the bus, the programs' environment, and a pointer."""
    words, env = waybar(w, BAR)
    # The seat has a pointer before the panel starts: a press that is sent before a
    # program has asked for the new pointer is not delivered to it.
    with Pointer(w.comp.display, (1280, 800)) as pointer:
        bar = spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)
        try:
            async with running("tray", env=env) as tray:
                yield await eventually(lambda: registered(env)), env, pointer
                assert tray.returncode is None
                tray.popen.terminate()
                await tray.wait()
        finally:
            await bar.stop()


async def bus(env, name, path, method, *words):
    call = ["gdbus", "call", "--session", "-d", name, "-o", path, "-m", method, *words]
    return (await run_tool(call, env=env)).decode()


async def registered(env):
    try:
        words = (WATCHER[0], "RegisteredStatusNotifierItems")
        method = "org.freedesktop.DBus.Properties.Get"
        found = await bus(env, *WATCHER, method, *words)
    except Exception:
        return ""
    names = [word for word in found.split("'") if "StatusNotifierItem-" in word]
    return names[0].partition("/")[0] if names else ""


async def picture(w, name):
    image = await pixels(w.comp)
    if out := os.environ.get("VITRAIL_OUT"):
        image.save(f"{out}/tray-{name}.png")
    return image


async def press(env, name, label):
    """Click a row as the panel does: by the number that its menu has."""
    layout = ("com.canonical.dbusmenu.GetLayout", "0", "--", "-1", "[]")

    async def placed():
        menu = await bus(env, name, "/MenuBar", *layout)
        before, there, _ = menu.partition(f"{{'label': <'{label}'>")
        return there and before.rpartition("(")[2].rstrip(", ")

    number = await eventually(placed)
    words = ("com.canonical.dbusmenu.Event", number, "clicked", "<''>", "0")
    await bus(env, name, "/MenuBar", *words)


async def test_a_panel_shows_what_runs_and_ends_it():
    async with notifying(RULES, "work", "personal") as (w, _screen, _guests):

        async def status():
            return json.loads((await brokerctl("status", "--json", env=w.environ)).out)

        colours = {one["color"] for one in (await status())["sandboxes"]}
        assert len(colours) == 1
        (colour,) = (tuple(bytes.fromhex(c[1:])) for c in colours)
        async with in_panel(w) as (name, env, pointer):

            async def in_bar(*wanted):
                image = (await pixels(w.comp)).convert("RGB")
                strip = image.crop((image.width - 100, 0, image.width, 40))
                return set(wanted) <= {c for _, c in strip.getcolors(100 * 40)}

            await eventually(lambda: in_bar(colour))
            await picture(w, "running")
            pointer.move(1280 - 22, 20)
            pointer.click(1280 - 22, 20)

            async def menu_open():
                image = (await pixels(w.comp)).convert("RGB")
                below = image.crop((0, 60, image.width, image.height))
                return colour in {c for _, c in below.getcolors(1 << 20)}

            await eventually(menu_open)
            await picture(w, "menu")
            await press(env, name, "Lockdown")
            await eventually(lambda: in_bar((224, 27, 36)))
            await picture(w, "lockdown")
            assert (await brokerctl("lockdown", "--show", env=w.environ)).code == 0
            await press(env, name, "Lift the lockdown")

            async def lifted():
                return (await brokerctl("lockdown", "--show", env=w.environ)).code == 1

            await eventually(lifted)
            await press(env, name, "Stop")  # of the first one

            async def stopped():
                return [s["name"] for s in (await status())["sandboxes"]] == ["work"]

            await eventually(stopped)
            layout = ("com.canonical.dbusmenu.GetLayout", "0", "--", "-1", "[]")

            async def gone():
                menu = await bus(env, name, "/MenuBar", *layout)
                return "'personal'" not in menu and "'work'" in menu

            await eventually(gone)
