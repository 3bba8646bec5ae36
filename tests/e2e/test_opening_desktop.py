"""The person's own file manager and default programs open things in a sandbox.

Thunar with our action and GLib with our desktop file as its default, on a real
compositor, by a real broker's rules; the sandbox is a guest that is a process.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.sound.servers import started
from tests.kit.wayland.compositor import pixels, wait_window
from tests.kit.wayland.input import CONTROL, Keyboard, Pointer
from tests.kit.wayland.resizing import kept
from tests.kit.world import world

pytestmark = [pytest.mark.long, requires("waypipe", "dbus-run-session")]
ENTRIES = Path(str(resources.files("broker"))) / "data/desktop"
RULES = """\
vitrail.OpenURL  * @adminvm @default allow target=personal autostart=no
vitrail.OpenFile * @adminvm @default allow target=personal autostart=no
"""
_F10, _SHIFT, _UP, _DOWN, _ENTER = 68, 42, 103, 108, 28
RIGHT = 0x111
MENU = (0, 24, 300, 300)
"""Where Thunar shows the menu of a file that is selected."""


@asynccontextmanager
async def desktop_of():
    """A desktop with our entries, its environment, and a sandbox that shows text."""
    async with world(start=False, image=False) as w:
        home = w.base / "person"
        folders = ("bin", ".config/Thunar", ".local/share/applications", "papers")
        for name in folders:
            (home / name).mkdir(parents=True)
        tool = home / "bin/brokerctl"
        code = "import sys; from broker.cli.app import main; sys.exit(main())"
        # The person's programs have their settings in HOME, the broker's are elsewhere.
        ours = f"env XDG_CONFIG_HOME={w.base}/config {sys.executable}"
        tool.write_text(f"#!/bin/sh\nexec {ours} -c '{code}' \"$@\"\n")
        tool.chmod(0o755)
        entry = home / ".local/share/applications/io.vitrail.Open.desktop"
        shutil.copy(ENTRIES / "io.vitrail.Open.desktop", entry)
        action = (ENTRIES / "thunar-action.xml").read_text()
        actions = f'<?xml version="1.0"?>\n<actions>\n{action}</actions>\n'
        (home / ".config/Thunar/uca.xml").write_text(actions)
        w.write_rules(RULES)
        await w.start()
        async with plain(w, "personal") as guests:
            personal = guests["personal"]
            personal.opens("text/plain", "foot -T %f sleep 1000")
            personal.opens("x-scheme-handler/https", "foot -T %u sleep 1000")
            yield w, home, person_of(w, home)


def person_of(w, home):
    """The environment of the person's own programs."""
    return {
        **w.environ,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CURRENT_DESKTOP": "sway",
        "GDK_BACKEND": "wayland",
        "NO_AT_BRIDGE": "1",
    }


async def test_thunar_shows_our_entry_and_opens_a_file_by_it():
    if shutil.which("thunar") is None:
        pytest.skip("not installed: thunar")
    async with desktop_of() as (w, home, env):
        (home / "papers/notes.txt").write_text("some notes")
        thunar = ("dbus-run-session", "--", "thunar", str(home / "papers"))
        async with started(*thunar, env=env):
            await wait_window(w.comp, title="papers")
            with Keyboard(w.comp.display) as keyboard:
                await chosen_in_the_menu(w, keyboard)
                await opened_by_the_person(w)


async def changed(w, area, press):
    """Do something, and wait until an area of the screen is drawn differently."""
    before = (await pixels(w.comp)).crop(area).tobytes()
    press()

    async def look():
        return (await pixels(w.comp)).crop(area).tobytes() != before

    await eventually(look)


async def drawn(w, area):
    """Wait until an area of the screen has more than a background."""

    async def look():
        return (await pixels(w.comp)).crop(area).getcolors(1) is None

    await eventually(look)


async def chosen_in_the_menu(w, keyboard):
    """Select the file, open its menu, and take the entry above the last one."""

    def menu():
        keyboard.chord(CONTROL, "a")
        keyboard.change(_SHIFT, 1)
        keyboard.modifiers(1)
        keyboard.press(_F10)
        keyboard.change(_SHIFT, 0)
        keyboard.modifiers(0)

    await changed(w, MENU, menu)
    for _ in range(2):
        await changed(w, MENU, partial(keyboard.press, _UP))
    kept("opening-thunar", await pixels(w.comp))
    keyboard.press(_ENTER)


async def opened_by_the_person(w):
    begin = await w.wait_event("transfer.begin")
    assert (begin["target"], begin["mime"]) == ("personal", "text/plain")
    await w.wait_event("transfer.end", outcome="done")
    (window,) = await wait_window(w.comp, title="notes.txt")
    assert window["name"].startswith("[personal] ")


async def test_dolphin_shows_our_entry_and_opens_a_file_by_it():
    """Its service menus of a user run nothing unless they are executable."""
    if shutil.which("dolphin") is None:
        pytest.skip("not installed: dolphin")
    name, menu, at = (295, 132, 357, 151), (400, 160, 610, 375), (326, 141)
    async with desktop_of() as (w, home, env):
        (home / "papers/notes.txt").write_text("some notes")
        entry = home / ".local/share/kio/servicemenus/io.vitrail.Open.desktop"
        entry.parent.mkdir(parents=True)
        shutil.copy(ENTRIES / "io.vitrail.Open.dolphin.desktop", entry)
        entry.chmod(0o755)
        env |= {"QT_QPA_PLATFORM": "wayland", "XDG_CURRENT_DESKTOP": "KDE"}
        words = ("dolphin", "--select", str(home / "papers/notes.txt"))
        async with started("dbus-run-session", "--", *words, env=env):
            await wait_window(w.comp, title="papers")
            await drawn(w, name)
            with (
                Pointer(w.comp.display, (1280, 800)) as pointer,
                Keyboard(w.comp.display) as keyboard,
            ):
                await changed(w, menu, partial(pointer.click, *at, RIGHT))
                for _ in range(2):
                    await changed(w, menu, partial(keyboard.press, _UP))
                kept("opening-dolphin", await pixels(w.comp))
                keyboard.press(_ENTER)
                await opened_by_the_person(w)


async def test_nautilus_shows_our_script_and_opens_a_file_by_it():
    if shutil.which("nautilus") is None:
        pytest.skip("not installed: nautilus")
    icon, menu, at = (300, 100, 380, 190), (345, 160, 600, 550), (341, 150)
    async with desktop_of() as (w, home, env):
        (home / "papers/notes.txt").write_text("some notes")
        # With a default program, so that the menu begins with two ways to open it.
        (home / ".config/mimeapps.list").write_text(
            "[Default Applications]\ntext/plain=io.vitrail.Open.desktop\n"
        )
        script = home / ".local/share/nautilus/scripts/Open in a sandbox"
        script.parent.mkdir(parents=True)
        shutil.copy(ENTRIES / "nautilus-open-in-a-sandbox", script)
        env |= {"GSETTINGS_BACKEND": "memory"}
        words = ("nautilus", "--new-window", str(home / "papers"))
        async with started("dbus-run-session", "--", *words, env=env):
            await wait_window(w.comp, title="papers")
            await drawn(w, icon)
            with (
                Pointer(w.comp.display, (1280, 800)) as pointer,
                Keyboard(w.comp.display) as keyboard,
            ):
                await changed(w, menu, partial(pointer.click, *at, RIGHT))
                # To "Scripts", into that menu, and to its first entry.
                for key in (_DOWN, _DOWN, _ENTER, _DOWN):
                    await changed(w, menu, partial(keyboard.press, key))
                kept("opening-nautilus", await pixels(w.comp))
                keyboard.press(_ENTER)
                await opened_by_the_person(w)


async def test_the_default_program_for_addresses_and_files_is_ours():
    if shutil.which("gio") is None:
        pytest.skip("not installed: libglib2.0-bin")
    async with desktop_of() as (w, home, env):
        (home / ".config/mimeapps.list").write_text(
            "[Default Applications]\n"
            "x-scheme-handler/https=io.vitrail.Open.desktop\n"
            "text/plain=io.vitrail.Open.desktop\n"
        )
        (home / "papers/notes.txt").write_text("some notes")
        for what, title in (
            ("https://example.org/from/my/desktop", "/from/my/desktop"),
            (str(home / "papers/notes.txt"), "notes.txt"),
        ):
            await run_tool(["dbus-run-session", "--", "gio", "open", what], env=env)
            await wait_window(w.comp, title=title)
        targets = {e["target"] for e in w.events("transfer.begin")}
        assert targets == {"personal"}
