"""GNOME's compositor, headless: the requests that it accepts from the filter (it shows no pixels here)."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.jail.wayland.listing import windows_of
from tests.attack.test_wayland_order import (
    HARMLESS,
    a_parent_gone_before_its_popup,
    attempt,
)
from tests.attack.test_wayland_pixels import PAINT, WINDOWS, popup
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.wayland.client import Window
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer, gnome
from tests.kit.wayland.stand import filtered

pytestmark = [pytest.mark.long, requires("mutter", "dbus-run-session", "bwrap")]


@asynccontextmanager
async def mutter():
    """A filtered socket before a headless mutter, with a separate session bus."""
    async with gnome() as there:
        comp = HeadlessCompositor(there.child, there.display, there.environment)
        async with filtered(comp) as it:
            yield it


@pytest.mark.parametrize(
    "program", ["foot", "gtk3-demo", "gtk4-demo", "weston-terminal", "weston-flower", "weston-subsurfaces", "featherpad"]
)  # fmt: skip
async def test_an_application_opens_its_window_there(program):
    if not shutil.which(program):
        pytest.skip(f"{program} is missing")
    async with mutter() as it:
        child = it.run(program, GTK_A11Y="none", QT_QPA_PLATFORM="wayland")

        async def shown() -> bool:
            assert child.popen.poll() is None
            return any(w.width > 50 and w.height > 50 for w in windows_of(it.sandbox))

        await eventually(shown)
        # It is drawn again and again, or would be: nothing of it is refused.
        await trio.sleep(1)
        assert [str(e) for e in it.ends] == []
        await child.stop()


async def test_hostile_requests_raise_no_protocol_error_of_mutter():
    async with mutter() as it:
        for crime in WINDOWS:

            def act(c: Window, crime=crime) -> None:
                surface, xdg, _ = c.show(200, 200, PAINT)
                crime(c, surface, xdg)
                c.roundtrip()
                c.shown(surface) if "null" not in crime.__name__ else c.roundtrip()

            await it.client(act, compositor=4)
        # mutter refuses what others take: a window destroyed under its menu.
        for crime in set(HARMLESS) - {a_parent_gone_before_its_popup}:
            assert await it.client(lambda c, crime=crime: attempt(c, crime)) is None
        assert it.comp.child.popen.poll() is None
        assert [str(e) for e in it.ends] == []


async def test_a_popup_is_placed_and_configured_there():
    async with mutter() as it:

        def act(c: Window) -> None:
            _, xdg, _ = c.show(300, 200, 0xFF0000FF)
            popup(c, xdg, (100, 60), (0, 0, 10, 10), (20, 20))
            popup(c, xdg, (5000, 5000), (-90, -90, 1, 1), (-9000, 9000))

        await it.client(act)
        assert [str(e) for e in it.ends] == []


@contextmanager
def pressed(there, *, lasts: bool):
    """A program that mutter serves without a filter, and a press in its window.

    Yields it, the person's pointer, the seat, the window and the press's serial.
    """
    with GnomeKeyboard(there.bus) as keys, Window(there.display).start() as c:
        mouse = GnomePointer(keys)
        for at in ((640, 400), (5, 5)):
            mouse.move(*at)  # a seat's pointer is there once it has moved
        seat = c.bind("wl_seat", 5)
        c.wait(lambda e: e[0] == seat and e[2] == "capabilities" and e[3][0] & 1)
        c.make(seat, "get_pointer", "wl_pointer")
        window = c.show(1000, 700, PAINT)
        mouse.move(640, 400)
        c.wait(lambda e: e[1:3] == ("wl_pointer", "enter"))
        mouse.button(True)
        serial = c.wait(lambda e: e[1:3] == ("wl_pointer", "button"))[3][0]
        if not lasts:
            mouse.button(False)
            c.wait(lambda e: e[1:3] == ("wl_pointer", "button") and not e[3][3])
        yield c, mouse, seat, window, serial


def drag(c, mouse, seat, window, serial):
    """Whether a drag with this serial begins."""
    manager = c.bind("wl_data_device_manager")
    device = c.make(manager, "get_data_device", "wl_data_device", None, seat)
    source = c.make(manager, "create_data_source", "wl_data_source")
    c.send(source, "offer", b"text/plain")
    c.send(device, "start_drag", source, window[0], 0, serial)
    return follows(c, mouse, ("wl_data_device", "motion"))


def move(c, mouse, seat, window, serial):
    """Whether a move of the window with this serial begins: the pointer leaves it."""
    c.send(window[2], "move", seat, serial)
    return follows(c, mouse, ("wl_pointer", "leave"))


def follows(c, mouse, event):
    """Whether this follows the pointer's next motion, and not the motion itself."""
    c.roundtrip()
    before = len(c.events)
    mouse.move(660, 400)
    if any(e[1:3] == event for e in c.events):
        return True
    both = {event, ("wl_pointer", "motion")}
    return c.wait(lambda e: e[1:3] in both, since=before)[1:3] == event


def menu(c, mouse, seat, window, serial):
    """Whether a popup with this serial stays: without its grab mutter dismisses it."""
    positioner = c.make(c.shell, "create_positioner", "xdg_positioner")
    c.send(positioner, "set_size", 100, 60)
    c.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
    surface = c.surface()
    xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
    popup = c.make(xdg, "get_popup", "xdg_popup", None, window[1], positioner)
    c.send(popup, "grab", seat, serial)
    c.send(surface, "commit")
    c.roundtrip()
    return (popup, "popup_done") not in [(e[0], e[2]) for e in c.events]


@pytest.mark.parametrize("lasts", [True, False])
@pytest.mark.parametrize("begins", [drag, move])
async def test_without_us_it_begins_only_while_its_press_lasts(begins, lasts):
    """What a guard of the filter's forbids, mutter refuses to any program."""
    async with gnome() as there:

        def act() -> bool:
            with pressed(there, lasts=lasts) as held:
                return begins(*held)

        assert await trio.to_thread.run_sync(act) == lasts


@pytest.mark.parametrize("last", [True, False])
async def test_without_us_a_menu_has_a_grab_with_the_last_press_only(last):
    async with gnome() as there:

        def act() -> bool:
            with pressed(there, lasts=last) as held:
                for state in () if last else (True, False):
                    held[1].button(state)  # the serial's press is not the last one
                held[0].roundtrip()
                return menu(*held)

        assert await trio.to_thread.run_sync(act) == last


async def test_without_us_each_program_has_a_keymap_of_its_own():
    """So none writes into what another one reads."""
    async with gnome() as there:

        def keymap(c: Window) -> tuple[int, int]:
            c.make(c.bind("wl_seat", 5), "get_keyboard", "wl_keyboard")
            c.wait(lambda e: e[1:3] == ("wl_keyboard", "keymap"))
            found = os.fstat(c.fds[-1])
            return found.st_dev, found.st_ino

        def both() -> tuple[tuple[int, int], tuple[int, int]]:
            with GnomeKeyboard(there.bus) as keys:
                keys.press(1)  # a seat has a keyboard once a key was pressed
                with (
                    Window(there.display).start() as c,
                    Window(there.display).start() as d,
                ):
                    return keymap(c), keymap(d)

        one, other = await trio.to_thread.run_sync(both)
        assert one != other
