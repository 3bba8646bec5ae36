"""Icons of programs in sandboxes, in a real panel: waybar on sway.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from broker.core.errors import VitrailError
from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.integration.test_tray import BAR, WATCHER, bus
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import requires
from tests.kit.waybar import waybar
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.input import Pointer
from tests.kit.world import record

pytestmark = requires("waypipe", "mako", "dbus-daemon", "waybar", "gdbus")
RULES = "vitrail.Tray + work @adminvm allow\n"
QT = """
import sys
from PyQt6.QtGui import QIcon, QPixmap, QColor
from PyQt6.QtWidgets import QApplication, QSystemTrayIcon
app = QApplication(sys.argv)
print("panel", QSystemTrayIcon.isSystemTrayAvailable(), flush=True)
def icon(name):
    picture = QPixmap(32, 32)
    picture.fill(QColor(name))
    return QIcon(picture)
shown = QSystemTrayIcon(icon("#00ff40"))
shown.setToolTip("mail <b>& more</b>")
def clicked(reason):
    print("clicked", reason.name, flush=True)
    shown.setIcon(icon("#4000ff"))
shown.activated.connect(clicked)
shown.show()
app.exec()
"""
GREEN, VIOLET = (0, 255, 64), (64, 0, 255)
START = (
    *("gdbus", "call", "--session", "-d", "org.freedesktop.DBus"),
    *("-o", "/org/freedesktop/DBus", "-m", "org.freedesktop.DBus.StartServiceByName"),
    *("org.kde.StatusNotifierWatcher", "0"),
)


@asynccontextmanager
async def panel(w):
    """A panel that shows icons; yields the desktop programs' environment, a pointer.

    The seat has the pointer before the panel starts, as in ``test_tray``.
    """
    words, env = waybar(w, BAR)

    async def there():
        try:
            return await items(env) is not None
        except Exception:
            return False

    with Pointer(w.comp.display, (1280, 800)) as pointer:
        bar = spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)
        try:
            await eventually(there)
            yield env, pointer
        finally:
            await bar.stop()


async def items(env):
    """The names of the items in the panel."""
    words = (WATCHER[0], "RegisteredStatusNotifierItems")
    found = await bus(env, *WATCHER, "org.freedesktop.DBus.Properties.Get", *words)
    names = [word for word in found.split("'") if "StatusNotifierItem-" in word]
    return [name.partition("/")[0] for name in names]


async def property_of(env, name, key):
    words = ("org.kde.StatusNotifierItem", key)
    method = "org.freedesktop.DBus.Properties.Get"
    return await bus(env, name, "/StatusNotifierItem", method, *words)


async def picture(w, name):
    image = await pixels(w.comp)
    if out := os.environ.get("VITRAIL_OUT"):
        image.save(f"{out}/icons-{name}.png")
    return image


async def in_bar(w, *wanted):
    image = (await pixels(w.comp)).convert("RGB")
    strip = image.crop((image.width - 200, 0, image.width, 40))
    return set(wanted) <= {c for _, c in strip.getcolors(200 * 40)}


@asynccontextmanager
async def showing(guest, w, program, tmp_path):
    """Run a program of a guest; yields a function that returns its lines."""
    said = tmp_path / "said"
    env = {**guest.env, **w.comp.environment, "QT_QPA_PLATFORM": "wayland"}
    env["DBUS_SESSION_BUS_ADDRESS"] = guest.env["DBUS_SESSION_BUS_ADDRESS"]
    with said.open("w") as out:
        words = ["/usr/bin/python3", "-c", program]
        child = spawn(words, env=env, stdout=out, stderr=out)
    try:
        yield lambda: said.read_text().splitlines()
    except BaseException:
        print(said.read_text())
        raise
    finally:
        await child.stop()


async def test_a_program_of_qt_has_its_icon_in_the_panel(tmp_path):
    async with (
        notifying(RULES, "work", "personal") as (w, _screen, guests),
        panel(w) as (env, pointer),
        bus_of(guests["work"]),
    ):
        work = guests["work"]
        status = json.loads((await brokerctl("status", "--json", env=w.environ)).out)
        colour = tuple(bytes.fromhex(status["sandboxes"][0]["color"][1:]))
        await run_tool(START, env=work.env)
        async with showing(work, w, QT, tmp_path) as lines:
            (name,) = await eventually(lambda: items(env))
            assert lines()[0] == "panel True"
            await eventually(lambda: in_bar(w, GREEN, colour))
            await picture(w, "qt")
            title = await property_of(env, name, "Title")
            assert "[work] " in title
            assert "<b>" not in title
            pointer.move(1280 - 22, 20)
            pointer.click(1280 - 22, 20)
            await eventually(lambda: in_bar(w, VIOLET, colour))
            assert "clicked Trigger" in lines()
            await picture(w, "qt-clicked")
            w.write_record("work", record(colour="#d020d0"))
            await eventually(lambda: in_bar(w, VIOLET, (0xD0, 0x20, 0xD0)))
            assert not await in_bar(w, colour)
            await picture(w, "qt-another-colour")
        # It goes with its program.

        async def gone():
            return await items(env) == []

        await eventually(gone)


AYATANA = """
import sys, gi
gi.require_version("AyatanaAppIndicator3", "0.1")
gi.require_version("Gtk", "3.0")
from gi.repository import AyatanaAppIndicator3 as Ayatana, GLib, Gtk
kind = Ayatana.IndicatorCategory.COMMUNICATIONS
shown = Ayatana.Indicator.new("chat", sys.argv[1] if len(sys.argv) > 1 else "chat", kind)
shown.set_title("Chat <i>1</i>")
shown.set_icon_theme_path(THEME)
shown.set_status(Ayatana.IndicatorStatus.ACTIVE)
menu = Gtk.Menu()
menu.append(Gtk.MenuItem(label="their own menu"))
menu.show_all()
shown.set_menu(menu)
print("shown", flush=True)
GLib.MainLoop().run()
"""


async def test_icons_end_with_the_rule_and_in_a_lockdown(tmp_path):
    Image.new("RGB", (64, 64), GREEN).save(tmp_path / "chat.png")
    program = AYATANA.replace("THEME", repr(str(tmp_path)))
    tmp_path.chmod(0o755)
    async with (
        notifying(RULES, "work", "personal") as (w, _screen, guests),
        panel(w) as (env, _pointer),
        bus_of(guests["work"]),
        bus_of(guests["personal"]),
    ):
        rules = w.paths.config[0] / "policy.d" / "30-mine.policy"

        async def shown():
            return len(await items(env)) == 1

        async def gone():
            return await items(env) == []

        # Without a rule there is no panel in a sandbox.
        with pytest.raises(VitrailError):
            await run_tool(START, env=guests["personal"].env)
        assert w.events("decision", service="vitrail.Tray", verdict="deny")
        await run_tool(START, env=guests["work"].env)
        async with showing(guests["work"], w, program, tmp_path):
            (name,) = await eventually(lambda: items(env))
            await eventually(lambda: in_bar(w, GREEN))
            await picture(w, "ayatana")
            assert "[work] Chat " in await property_of(env, name, "Title")
            assert "NO_DBUSMENU" in await property_of(env, name, "Menu")
            rules.write_text("")
            await eventually(gone)
            click = "org.kde.StatusNotifierItem.Activate"
            with pytest.raises(VitrailError):  # a late click goes nowhere
                await bus(env, name, "/StatusNotifierItem", click, "0", "0")
        rules.write_text(RULES)

        async def started():
            try:
                return await run_tool(START, env=guests["work"].env)
            except VitrailError:
                return b""  # the rules are not loaded yet

        await eventually(started)
        async with showing(guests["work"], w, program, tmp_path):
            await eventually(shown)
            assert (await brokerctl("lockdown", env=w.environ)).code == 0
            await eventually(gone)
