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

LOGO, UP, DOWN, PAGE_UP, F = 125, 103, 108, 104, 33
FILM = "av://lavfi:testsrc=size=320x200"
MPV = (
    *("mpv", "--no-config", "--vo=wlshm", "--no-audio", "--loop=inf", "--no-osc"),
    *("--osd-level=0", "--hwdec=no", "--keepaspect-window=no", FILM),
)
RULES = WindowRules("work", color=FRAME)


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
        before = frames(await seat.look(), FRAME)[0]
        if kind != "sway":
            await framed(seat, "small", lambda frame: not is_whole(frame))
        steps = (
            ["F", "f"] if kind == "sway" else ["F", "f", "M", "F", "f", "m", "F", "f"]
        )
        normal = before
        for n, step in enumerate(steps):
            if step in "Ff":
                seat.keys.press(F)
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
                    seat,
                    f"{n}: {step}",
                    lambda frame, was=normal: frame[2:4] == was[2:4],
                )
        assert it.ends == []
