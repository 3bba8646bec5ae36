"""GNOME's compositor, headless: the requests that it accepts from the filter (it shows no pixels here)."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager

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
from tests.kit.wayland.client import Window
from tests.kit.wayland.mutter_person import gnome
from tests.kit.wayland.stand import filtered

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not all(map(shutil.which, ("mutter", "dbus-run-session", "bwrap"))),
        reason="mutter, dbus or bubblewrap is missing",
    ),
]


@asynccontextmanager
async def mutter():
    """A filtered socket before a headless mutter, with a session bus of its own."""
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
