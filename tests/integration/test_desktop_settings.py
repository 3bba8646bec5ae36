"""Sandboxes follow the looks of a real desktop: xdg-desktop-portal on both sides.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest

from broker.core.services import PORTAL_VARIABLES
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
WINDOWS = "org.gnome.desktop.wm.preferences"


async def choose(screen, key, value, schema=GNOME):
    """Set a setting of the desktop, as its settings program does."""
    env = {**os.environ, **screen.env}
    await run_tool(["gsettings", "set", schema, key, value], env=env)


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


BUTTONS = """
import sys, gi
gi.require_version("Gtk", sys.argv[1])
from gi.repository import Gtk, GLib
Gtk.init(*[[]] * (sys.argv[1] == "3.0"))
settings = Gtk.Settings.get_default()
def tell(*_):
    print(settings.get_property("gtk-decoration-layout"), flush=True)
settings.connect("notify::gtk-decoration-layout", tell)
tell()
GLib.MainLoop().run()
"""


@pytest.mark.parametrize("version", ["3.0", "4.0"])
async def test_a_gtk_program_has_the_buttons_of_the_desktops_windows(tmp_path, version):
    layout = "appmenu:minimize,maximize,close"
    async with two() as (_, screen, work, _personal):
        await choose(screen, "button-layout", layout, schema=WINDOWS)
        lines = tmp_path / "lines"
        env = {**work.env, **screen.comp.environment, **PORTAL_VARIABLES}
        env["DBUS_SESSION_BUS_ADDRESS"] = work.env["DBUS_SESSION_BUS_ADDRESS"]
        with lines.open("w") as out:
            child = spawn(
                ["/usr/bin/python3", "-c", BUTTONS, version],
                env=env,
                stdout=out,
                stderr=DEVNULL,
            )
        try:
            await eventually(lambda: lines.read_text().split()[-1:] == [layout])
            await choose(screen, "button-layout", ":close", schema=WINDOWS)
            await eventually(lambda: lines.read_text().split()[-1:] == [":close"])
        finally:
            await child.stop()
