"""Sandboxes follow the looks of a real desktop: xdg-desktop-portal on both sides.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import requires
from tests.kit.world import record

pytestmark = requires("waypipe", "mako", "dbus-daemon", "gsettings", "gdbus")
RULES = "vitrail.Settings + work @adminvm allow\n"
PORTAL = (
    *("gdbus", "call", "--session", "-d", "org.freedesktop.portal.Desktop"),
    *("-o", "/org/freedesktop/portal/desktop", "-m"),
)
LOOKS = "org.freedesktop.appearance"
GNOME = "org.gnome.desktop.interface"


async def choose(screen, key, value):
    """Set a setting of the desktop, as its settings program does."""
    env = {**os.environ, **screen.env}
    await run_tool(["gsettings", "set", GNOME, key, value], env=env)


async def read(guest, space, key):
    """Return what a program of a guest reads; "" where there is none."""
    method = "org.freedesktop.portal.Settings.ReadOne"
    try:
        found = await run_tool([*PORTAL, method, space, key], env=guest.env)
    except Exception:
        return ""
    return found.decode().strip()


@asynccontextmanager
async def two():
    async with (
        notifying(RULES, "work", "personal") as (w, screen, guests),
        desktop_portal(screen.env),
        bus_of(guests["work"]),
        bus_of(guests["personal"]),
    ):
        yield w, screen, guests["work"], guests["personal"]


async def test_a_sandbox_with_a_rule_follows_the_desktop_and_no_other_does():
    async with two() as (w, screen, work, personal):
        await choose(screen, "color-scheme", "prefer-dark")
        await choose(screen, "text-scaling-factor", "1.25")

        async def reads(space, key, wanted):
            return await read(work, space, key) == wanted

        await eventually(lambda: reads(LOOKS, "color-scheme", "(<uint32 1>,)"))
        await eventually(lambda: reads(GNOME, "text-scaling-factor", "(<1.25>,)"))
        # Other settings are not there, and neither is anything without a rule.
        assert not await read(work, GNOME, "clock-format")
        assert not await read(work, GNOME, "gtk-theme")
        assert not await read(personal, LOOKS, "color-scheme")
        words = ("org.freedesktop.portal.Settings.ReadAll", "['']")
        every = (await run_tool([*PORTAL, *words], env=work.env)).decode()
        assert "clock" not in every
        assert "cursor-size" in every
        # Live, for programs that run already.
        await choose(screen, "color-scheme", "default")
        await eventually(lambda: reads(LOOKS, "color-scheme", "(<uint32 0>,)"))
        decided = w.events("decision", service="vitrail.Settings")
        assert {(e["sandbox"], e["verdict"]) for e in decided} == {
            ("work", "allow"),
            ("personal", "deny"),
        }


async def test_a_record_has_looks_of_its_own():
    async with two() as (w, screen, work, _personal):
        await choose(screen, "color-scheme", "prefer-light")
        await choose(screen, "cursor-size", "32")
        looks = '[looks]\ncolor_scheme = "dark"\ntext_scale = 125\nfont = "Serif 9"\n'
        w.write_record("work", record("persistent") + looks)
        await w.wait_event("policy.loaded")

        async def dark():
            return await read(work, LOOKS, "color-scheme") == "(<uint32 1>,)"

        await eventually(dark)
        assert await read(work, GNOME, "text-scaling-factor") == "(<1.25>,)"
        assert await read(work, GNOME, "font-name") == "(<'Serif 9'>,)"

        async def sized(wanted):
            return await read(work, GNOME, "cursor-size") == f"(<{wanted}>,)"

        await eventually(lambda: sized(32))
        # Its other settings do not follow the desktop.
        await choose(screen, "cursor-size", "48")
        await eventually(lambda: sized(48))
        assert await dark()


SHOWS = """
import sys, gi
gi.require_version("Adw", "1")
from gi.repository import Adw, GLib
Adw.init()
manager = Adw.StyleManager.get_default()
def tell(*_):
    print("dark" if manager.get_dark() else "light", flush=True)
manager.connect("notify::dark", tell)
tell()
GLib.MainLoop().run()
"""


async def test_a_libadwaita_program_turns_dark_with_the_desktop(tmp_path):
    async with two() as (w, screen, work, _personal):
        del w
        said = tmp_path / "said"
        env = {**work.env, **screen.comp.environment}
        env["DBUS_SESSION_BUS_ADDRESS"] = work.env["DBUS_SESSION_BUS_ADDRESS"]
        with said.open("w") as out:
            child = spawn(
                ["/usr/bin/python3", "-c", SHOWS], env=env, stdout=out, stderr=DEVNULL
            )
        try:
            await eventually(lambda: said.read_text().split() == ["light"])
            await choose(screen, "color-scheme", "prefer-dark")
            await eventually(lambda: said.read_text().split() == ["light", "dark"])
            await choose(screen, "color-scheme", "default")
            await eventually(lambda: said.read_text().split()[2:] == ["light"])
        finally:
            await child.stop()
