"""A real program maximised and fullscreen by itself and by its user, on three desktops.

The frame is whole at each step, and the state afterwards is the one of before.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from broker.core.streams.wayland_rules import WindowRules
from tests.kit.eventually import NeverError, eventually
from tests.kit.wayland.at_desktop import AtDesktop, left_overview
from tests.kit.wayland.compositor import desktop, pixels
from tests.kit.wayland.input import Keyboard
from tests.kit.wayland.mutter_person import GnomeKeyboard, gnome_shell
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.plasma_person import PlasmaHands, plasma
from tests.kit.wayland.stand import FRAME, SIZE, filtered

LOGO, UP, DOWN, PAGE_UP, F, F11 = 125, 103, 108, 104, 33, 87
PREFERENCES = """\
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("full-screen-api.transition-duration.enter", "0 0");
user_pref("full-screen-api.transition-duration.leave", "0 0");
"""
FILM = "av://lavfi:testsrc=size=320x200"
MPV = (
    *("mpv", "--no-config", "--vo=wlshm", "--no-audio", "--loop=inf", "--no-osc"),
    *("--osd-level=0", "--hwdec=no", "--keepaspect-window=no", FILM),
)
RULES = WindowRules("work", color=FRAME)

PLACE = """\
{"chrome://browser/content/browser.xhtml":
 {"main-window": {"width": "900", "height": "600", "sizemode": "normal"}}}
"""


class Seat:
    """A keyboard, and a picture of the screen; ``toggles`` maximises or undoes it."""

    def __init__(self, comp, keys, look, toggles):
        self.comp, self.keys, self.look, self.toggles = comp, keys, look, toggles

    def maximise(self, *, on):
        """Press what the user presses for it."""
        self.keys.change(LOGO, 1)
        self.keys.press(self.toggles[not on])
        self.keys.change(LOGO, 0)


@asynccontextmanager
async def at(kind, folder):
    programs = {"gnome": ("gnome-shell", "gjs"), "kwin": ("kwin_wayland",)}
    for program in ("mpv", *programs.get(kind, ())):
        if not shutil.which(program):
            pytest.skip(f"{program} is missing")
    if kind == "sway":
        config = "default_border none\n"
        async with desktop(config_extra=config) as comp:
            keys = await trio.to_thread.run_sync(Keyboard, comp.display)
            with keys:
                yield Seat(comp, keys, lambda: pixels(comp), None)
    elif kind == "kwin":
        async with plasma(shell=False) as comp:
            with await trio.to_thread.run_sync(PlasmaHands, comp.display) as keys:
                screen = AtDesktop("plasma", comp, keys, keys, folder)
                yield Seat(comp, keys, screen.picture, (PAGE_UP, PAGE_UP))
    else:
        async with gnome_shell() as comp:
            with await GnomeKeyboard.of(comp.bus) as keys:
                screen = AtDesktop("gnome", comp, keys, None, folder)
                await eventually(partial(left_overview, screen))
                yield Seat(comp, keys, screen.picture, (UP, DOWN))


async def framed(seat, what, good):
    """Wait until there is one frame, and it is good."""
    found = []

    async def reached():
        nonlocal found
        found = frames(await seat.look(), FRAME)
        return len(found) == 1 and good(found[0])

    try:
        await eventually(reached)
    except NeverError:
        raise AssertionError(f"{what}: {found}") from None


def is_whole(frame):
    return frame[:4] == (0, 0, *SIZE)


@pytest.mark.parametrize(
    "kind", ["sway", "kwin", pytest.param("gnome", marks=pytest.mark.long)]
)
async def test_a_film_is_fullscreen_within_its_frame_and_back_as_it_was(kind, tmp_path):
    async with at(kind, tmp_path) as seat, filtered(seat.comp, RULES) as it:
        it.run(*MPV)
        await framed(seat, "shown", lambda frame: True)
        if kind != "sway":
            await framed(seat, "small", lambda frame: not is_whole(frame))
        await played(seat, "Ff" if kind == "sway" else "FfMFfmFf", F)
        assert it.ends == []


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["kwin", "gnome"])
async def test_firefox_is_fullscreen_by_f11_and_back_as_it_was(kind, tmp_path):
    """From a window, and maximised by its user."""
    if not shutil.which("firefox-esr"):
        pytest.skip("firefox-esr is missing")
    profile = tmp_path / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(PREFERENCES)
    (profile / "xulstore.json").write_text(PLACE)
    async with at(kind, tmp_path) as seat, filtered(seat.comp, RULES) as it:
        words = ("--no-remote", "--profile", str(profile), "about:blank")
        it.run("firefox-esr", *words, HOME=str(tmp_path), MOZ_ENABLE_WAYLAND="1")
        await framed(seat, "shown", lambda frame: not is_whole(frame))
        await played(seat, "FfMFf", F11)
        assert it.ends == []


async def played(seat, steps, key):
    """F and f: the program's own key; M and m: the user maximises, and undoes it."""
    before = normal = frames(await seat.look(), FRAME)[0]
    for n, step in enumerate(steps):
        if step in "Ff":
            seat.keys.press(key)
        else:
            seat.maximise(on=step == "M")
        if step == "F":
            await framed(seat, f"{n}: {step}", is_whole)
        elif step == "M":
            await framed(seat, f"{n}: {step}", lambda frame: frame.w == SIZE[0])
            normal = frames(await seat.look(), FRAME)[0]
        else:
            if step == "m":
                normal = before
            await framed(
                seat, f"{n}: {step}", lambda frame, was=normal: frame[2:4] == was[2:4]
            )
