"""A broker on the desktop of a GNOME or Plasma user, with a keyboard and a pointer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from PIL import Image

from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import PENDING
from tests.kit.eventually import eventually
from tests.kit.prompting import KEYS
from tests.kit.wayland.compositor import desktop, windows
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.keymaps import compiled
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer, gnome_shell
from tests.kit.wayland.plasma_person import PlasmaHands, plasma
from tests.kit.world import world

SCREEN = (1280, 800)
LAYOUT = "[org/gnome/desktop/input-sources]\nsources=[('xkb', '{}')]\n"
_BITS = {42: 1, 29: 4, 56: 8, 125: 64}
"""Modifiers of a virtual keyboard's keys: Shift, Control, Alt, Super."""
GREEN, ORANGE = (0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00)
"""The colours of the sandboxes 'work' and 'web'."""
RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "{colour}"
[launch]
kind = "bwrap"
command = ["{command}"]
"""


def records(command: str) -> dict[str, str]:
    """Return the records of 'work' and 'web', which run this program."""
    return {
        "work": RECORD.format(colour="#009e73", command=command),
        "web": RECORD.format(colour="#e69f00", command=command),
    }


PROGRAMS = {
    "sway": ("sway", "bwrap"),
    "gnome": ("gnome-shell", "gjs", "dbus-daemon", "bwrap"),
    "plasma": ("kwin_wayland", "plasmashell", "kded5", "dbus-daemon", "bwrap"),
}


class AtDesktop:
    """The desktop ``there``, its user's keyboard and pointer."""

    def __init__(self, kind, there, keys, pointer, folder):
        self.kind, self.there, self.keys, self.pointer = kind, there, keys, pointer
        self.folder = folder

    async def picture(self, name="now") -> Image.Image:
        """Return what the screen shows, and keep it as a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.png"
        if self.kind == "sway":
            await self.there.screenshot(file)
        else:
            await trio.to_thread.run_sync(self.there.screenshot, file)
        return Image.open(file).convert("RGB")

    async def windows(self):
        """Return what the desktop knows of each window."""
        if self.kind == "sway":
            return windows(await self.there.tree())
        return await trio.to_thread.run_sync(self.there.windows)

    async def colour_at(self, *place):
        """Return the colour of a pixel of the screen."""
        return (await self.picture()).getpixel(place)

    async def shows(self, colour, *place):
        """Return whether a pixel has this colour."""
        return await self.colour_at(*place) == colour

    async def counted(self, colour):
        """Return how many pixels of the screen have this colour."""
        found = (await self.picture()).getcolors(1 << 24)
        return sum(n for n, one in found if one == colour)

    def click(self, *place):
        """Move there, press and release."""
        self.pointer.move(*place)
        self.pointer.button(True)
        self.pointer.button(False)

    def press(self, *names):
        """Press and release keys, one after the other."""
        for name in names:
            self.keys.press(KEYS[name])

    @contextmanager
    def holding(self, *codes) -> Iterator[None]:
        """Hold keys, by their evdev codes."""
        for n, code in enumerate(codes, 1):
            self.keys.change(code, 1)
            self.keys.modifiers(sum(_BITS[one] for one in codes[:n]))
        yield
        for n, code in enumerate(reversed(codes), 1):
            self.keys.change(code, 0)
            self.keys.modifiers(sum(_BITS[one] for one in codes[: len(codes) - n]))


@asynccontextmanager
async def _gnome(folder, settings="", layout="us"):
    if layout != "us":
        settings += LAYOUT.format(layout)
    async with gnome_shell(settings) as there:
        with await GnomeKeyboard.of(there.bus) as keys:
            keys.press(KEYS["BackSpace"])
            pointer = GnomePointer(keys)
            # From the corner without a hot spot of the shell's.
            pointer._step(*SCREEN)
            pointer._at = tuple(n - 1 for n in SCREEN)
            made = AtDesktop("gnome", there, keys, pointer, folder)
            # The overview, which the shell begins with, takes Escape once it is there.
            await eventually(partial(left_overview, made))
            yield made


async def left_overview(screen):
    """Whether the shell shows its desktop, whose picture has a colour of its own."""
    screen.press("Escape")
    return await screen.colour_at(640, 700) == await screen.colour_at(20, 780)


@asynccontextmanager
async def _plasma(folder, settings="", layout="us"):
    async with plasma(input_method=settings, layout=layout) as there:
        with await trio.to_thread.run_sync(PlasmaHands, there.display) as hands:
            hands.move(640, 400)
            yield AtDesktop("plasma", there, hands, hands, folder)


SWAY = """default_border normal
for_window [title=.*] floating enable, move position 200 150
for_window [title=second] floating enable, move position 800 400
floating_modifier Mod4 normal
"""


@asynccontextmanager
async def _sway(folder, settings="", layout="us"):
    open_keyboard = Keyboard
    if layout != "us":
        open_keyboard = partial(Keyboard, keymap=compiled(layout) + b"\0")
    async with desktop(size=SCREEN, config_extra=SWAY) as there:
        with (
            await trio.to_thread.run_sync(open_keyboard, there.display) as keys,
            await trio.to_thread.run_sync(Pointer, there.display, SCREEN) as pointer,
        ):
            pointer.move(640, 700)
            yield AtDesktop("sway", there, keys, pointer, folder)


@asynccontextmanager
async def screen_of(kind, folder, settings="", layout="us"):
    """The desktop alone; ``settings`` are GNOME's, or the input method of Plasma.

    ``layout`` is the keyboard's.
    """
    if missing := [one for one in PROGRAMS[kind] if not shutil.which(one)]:
        pytest.skip(f"missing: {', '.join(missing)}")
    async with {"gnome": _gnome, "plasma": _plasma, "sway": _sway}[kind](
        folder, settings, layout
    ) as made:
        yield made


@asynccontextmanager
async def at_desktop(kind, folder, records, rules="", settings=""):
    """The desktop with a broker that has these records and rules."""
    async with screen_of(kind, folder, settings) as screen:
        there = screen.there

        @asynccontextmanager
        async def compositor():
            yield there

        data = Path(there.environment["XDG_RUNTIME_DIR"]) / ".local/share"
        extra = {"DBUS_SESSION_BUS_ADDRESS": there.bus, "XDG_DATA_HOME": str(data)}
        async with world(
            records, start=False, image=False, extra=extra, screen=compositor
        ) as w:
            if rules:
                w.write_rules(rules, "10-test")
            await w.start()
            yield screen, w


@asynccontextmanager
async def running(w, *words):
    """A brokerctl that runs a sandbox."""
    child = spawn(
        our_program("broker.cli.app", "run", *words),
        env=w.environ,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield child
    finally:
        await child.stop()


async def pending(w):
    """Return the questions that wait for the user."""
    async with w.client() as client:
        return (await client.call(PENDING, Nothing())).questions
