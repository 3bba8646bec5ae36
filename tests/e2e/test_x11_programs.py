"""Programs of many toolkits under X11, each driven through the steps that it has.

A row of ``PROGRAMS`` says where its menu is, what can be typed and which key opens a
dialog; the steps are the same for all. Rows of .ci/packages-test-long are skipped where
their packages are missing.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from ctypes.util import find_library
from dataclasses import dataclass, field

import numpy as np
import pytest
import trio

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.listing import windows_of
from broker.jail.wayland.model import Constraint
from tests.e2e.test_x11_applications import TK, x11
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.input import CONTROL
from tests.kit.wayland.stand import FRAME
from tests.kit.wayland.world import closed, opened, resized, scaled, spot, world

pytestmark = [
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
    pytest.mark.timeout(400),
]
STAGES = ("sway", "sway-1.5", "sway-2", "sway-two-outputs", "kwin")
MORE_STAGES = (*STAGES, "newer-labwc")
_ESCAPE, _F, _F11 = 1, 33, 87
_LEAST = 150
"""Pixels: Wine says in a small window that it makes its first files."""
_CHROMIUM = (
    "chromium --no-sandbox --ozone-platform=x11 --disable-gpu --no-first-run "
    "--user-data-dir=/tmp/profile --window-size=1000,640 about:blank"
)
_MPV = "mpv --no-config --vo=x11 --ao=null --idle --force-window --geometry=640x400"


@dataclass(frozen=True)
class Program:
    """Spots are logical pixels of the outer frame, negative ones from its far side.

    ``row``: how far down the menu's row is that opens a submenu; ``text``: where to type;
    ``dialog``: the key that opens one with Control; ``scaled``: whether it draws larger at
    a larger scale. Spots below the menu bar hold at scale 1 alone.
    """

    argv: tuple[str, ...]
    menu: tuple[int, int] | None = None
    row: int = 0
    text: tuple[int, int] | None = None
    dialog: str = ""
    fullscreen: int = 0
    resizes: tuple[str, ...] = MORE_STAGES
    stages: tuple[str, ...] = STAGES
    env: dict[str, str] = field(default_factory=dict)
    scaled: bool = True


SMALL = {
    # KWin fades a tooltip in, which dillo has for its lower right corner.
    "dillo": Program(
        ("dillo",), (20, 18), text=(300, 18), dialog="o",
        resizes=STAGES[:-1], stages=MORE_STAGES,
    ),
    "tk": Program(TK, (20, 15), row=150, stages=MORE_STAGES),
    "featherpad": Program(
        ("featherpad",), (30, 16), text=(150, 150), dialog="o", stages=MORE_STAGES
    ),
    "xpdf": Program(("xpdf",), (492, -20), stages=("sway", "sway-two-outputs")),
    "mpv": Program(tuple(_MPV.split()), fullscreen=_F),
}  # fmt: skip
"""Their packages are in .ci/packages-test."""
LARGE = {
    "gimp": Program(
        ("gimp", "--no-splash"), (22, 16), row=72, dialog="n", stages=MORE_STAGES
    ),
    "writer": Program(
        ("soffice", "--norestore", "--nologo", "--writer"),
        (22, 14), row=35, text=(400, 300), dialog="o",
        stages=MORE_STAGES, env={"SAL_USE_VCLPLUGIN": "gtk3"},
    ),
    # Wine draws in pixels, whatever the scale.
    "notepad": Program(
        ("wine", "notepad"), (20, 14), text=(300, 300), dialog="o",
        stages=MORE_STAGES, scaled=False,
    ),
    "firefox": Program(
        ("firefox-esr", "--no-remote", "--new-instance", "about:support"),
        (-28, 68), text=(500, 68), dialog="s", fullscreen=_F11,
        stages=MORE_STAGES, env={"MOZ_ENABLE_WAYLAND": "0"},
    ),
    "chromium": Program(
        tuple(_CHROMIUM.split()),
        (-27, 67), row=244, text=(300, 67), dialog="o", fullscreen=_F11,
        stages=("sway", "sway-2", "sway-two-outputs"),
    ),
}  # fmt: skip
PROGRAMS = {**SMALL, **LARGE}


def _cases():
    for name, program in PROGRAMS.items():
        for stage in program.stages:
            quick = name in SMALL and stage == "sway"
            mark = pytest.mark.slow if quick else pytest.mark.long
            yield pytest.param(name, stage, marks=mark, id=f"{name}-{stage}")


@asynccontextmanager
async def _desktop(stage: str):
    kind, _, more = stage.partition("-")
    rules = WindowRules("work", color=FRAME, fullscreen=Fullscreen.FRAMED)
    if kind != "sway":
        async with world(stage) as there:
            yield there
    elif more == "two-outputs":
        async with scaled(outputs=2, rules=rules) as there:
            yield there
    else:
        async with scaled(float(more or 1), rules=rules) as there:
            yield there


@pytest.mark.parametrize(("name", "stage"), [*_cases()])
async def test_a_program_is_framed_at_every_step(name, stage, tmp_path):
    program = PROGRAMS[name]
    async with (
        _desktop(stage) as there,
        x11(there, tmp_path, *program.argv, **program.env) as app,
    ):
        steps = Steps(there, app, program, slack=1 if "." in stage else 0)
        await app.framed(least=_LEAST)
        await steps.look("window")
        if stage == "sway-two-outputs":
            await there.it.comp.command("move absolute position 900 0")
            await steps.menu("between-outputs")
            await there.it.comp.command("move absolute position 1300 0")
        await steps.menu("menu")
        await steps.type()
        await steps.dialog()
        await steps.fullscreen()
        await steps.without_tooltip()
        if stage in program.resizes:
            await resized(there, await app.framed(least=_LEAST), slack=steps.slack)
        await steps.look("end")
        assert app.child.popen.poll() is None, app.said()
        assert [str(e) for e in there.it.ends] == []


class Steps:
    """What a user does with one program; each picture is looked at and kept."""

    def __init__(self, there, app, program: Program, *, slack: int) -> None:
        self.there, self.app, self.program, self.slack = there, app, program, slack
        self.scale = there.it.scale if program.scaled else 1

    async def look(self, name: str) -> None:
        """Wait for a picture with whole frames, once sway has shown a change."""

        async def whole():
            try:
                return await self.there.look(slack=self.slack)
            except AssertionError:
                return None

        await eventually(whole, deadline=20)
        await self.there.keep(f"x11-{name}")

    def at(self, place: tuple[int, int]) -> tuple[int, int]:
        return round(place[0] * self.scale), round(place[1] * self.scale)

    async def rest(self):
        """Return the program's frame, once it stays."""
        return await eventually(self._same, deadline=60)

    async def _same(self):
        one = await self.app.framed(least=_LEAST)
        return one if one == await self.app.framed(least=_LEAST) else None

    async def menu(self, name: str) -> None:
        program, there, app = self.program, self.there, self.app
        if program.menu is None:
            return
        frame = await self.rest()
        await opened(there, app, frame, self.at(program.menu), press=True)
        await there.keep(f"x11-{name}")
        if program.row and self.scale == 1:
            # sway moves a menu to the output that has its window's centre.
            x, _, w, _ = app.shown_popups()[0]
            await there.move(*spot(frame, (x + w // 2, program.row)))
            await there.move(*spot(frame, (x + w // 2 + 3, program.row)))

            async def submenu():
                return len(app.shown_popups()) == 2

            await eventually(submenu)
            await app.popups(frame)
            await there.keep(f"x11-sub{name}")
        await closed(there, app, frame)
        await self.look(f"without-{name}")

    async def type(self) -> None:
        if self.program.text is None:
            return
        frame = await self.rest()
        await self.there.click(*spot(frame, self.at(self.program.text)))
        before = await pixels(self.there.it.comp)
        await self.there.type("words of x11")
        await self._changes(before, least=150)
        await self.look("typed")

    async def _changes(self, before, *, least: int) -> None:
        async def changed():
            now = await pixels(self.there.it.comp)
            return (np.asarray(now) != np.asarray(before)).any(axis=2).sum() > least

        await eventually(changed)

    def _toplevels(self) -> int:
        return len(windows_of(self.there.it.sandbox))

    async def _count(self, number: int) -> None:
        async def reached():
            return self._toplevels() == number

        await eventually(reached)

    async def dialog(self) -> None:
        """One more window, which goes with Escape."""
        if not self.program.dialog:
            return
        count = self._toplevels()
        await self.there.chord(CONTROL, self.program.dialog)
        await self._count(count + 1)
        await self.look("dialog")
        await trio.to_thread.run_sync(self.there.keys.press, _ESCAPE)
        await self._count(count)
        await self.look("without-dialog")

    async def without_tooltip(self) -> None:
        """Rest in the middle: a tooltip below the window has a frame at the window's."""
        frame = await self.rest()
        await self.there.move(*spot(frame, (frame.w // 2, frame.h // 2)))

        async def gone():
            return not self.app.shown_popups()

        await eventually(gone, deadline=20)

    async def fullscreen(self) -> None:
        key = self.program.fullscreen
        if not key:
            return
        small = await self.rest()
        for name, larger in (("fullscreen", True), ("back", False)):
            await trio.to_thread.run_sync(self.there.keys.press, key)

            async def reached(larger=larger):
                frame = await self.rest()
                return (frame.w > small.w and frame.h >= small.h) == larger

            await eventually(reached)
            await self.look(name)


_GAME = """
import ctypes
sdl = ctypes.CDLL("libSDL2-2.0.so.0")
for function in (sdl.SDL_CreateWindow, sdl.SDL_GetWindowSurface):
    function.restype = ctypes.c_void_p
sdl.SDL_Init(0x20)
window = ctypes.c_void_p(sdl.SDL_CreateWindow(b"game", 0, 0, 400, 300, 4))
event, told = (ctypes.c_int32 * 32)(), open("/shared/told", "w", buffering=1)
while sdl.SDL_WaitEvent(event):
    if event[0] == 0x401:  # a button is pressed
        print("held", sdl.SDL_SetRelativeMouseMode(1), file=told)
    elif event[0] == 0x400:
        print("moved", event[7], file=told)
    elif event[0] == 0x200:
        surface = ctypes.c_void_p(sdl.SDL_GetWindowSurface(window))
        sdl.SDL_FillRect(surface, None, 0x303080)
        sdl.SDL_UpdateWindowSurface(window)
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_library("SDL2-2.0"), reason="libsdl2-2.0-0 is missing")
async def test_a_game_that_holds_the_pointer_is_told_of_every_motion(tmp_path):
    """The pointer stays where it is, and the game turns further than its window is wide."""
    (tmp_path / "game.py").write_text(_GAME)
    allow = frozenset({"zwp_pointer_constraints_v1"})
    rules = WindowRules("work", color=FRAME, allow=allow)
    config = "seat * pointer_constraint enable"
    async with (
        scaled(rules=rules, config=config) as there,
        x11(there, tmp_path, "python3", "/shared/game.py") as app,
    ):
        frame = await app.framed()
        x, y = frame.x + frame.w // 2, frame.y + frame.h // 2

        def told() -> str:
            return (tmp_path / "told").read_text()

        async def held():
            await there.click(x, y)
            return "held 0" in told()

        await eventually(held)

        async def turned():
            # Moves the pointer by 100 each time if it is held, else once.
            await there.move(x + 100, y)
            lines = [line.split() for line in told().splitlines()]
            steps = [
                int(n)
                for word, n in lines[lines.index(["held", "0"]) :]
                if word == "moved"
            ]
            return sum(steps) > 2 * frame.w

        await eventually(turned)
        await there.look()
        await there.keep("x11-held")
        assert there.it.ends == []


_NEVERBALL = "/usr/games/neverball"


@pytest.mark.long
@pytest.mark.skipif(not shutil.which(_NEVERBALL), reason="neverball is missing")
async def test_neverball_holds_the_pointer_while_it_is_played(tmp_path):
    """A game of SDL and OpenGL: held from the start of a level to its pause."""
    rules = WindowRules(
        "work", color=FRAME, allow=frozenset({"zwp_pointer_constraints_v1"})
    )
    config = "seat * pointer_constraint enable"
    argv = (_NEVERBALL, "--level", "map-easy/easy.sol")
    async with (
        scaled(rules=rules, config=config) as there,
        x11(there, tmp_path, *argv, SDL_AUDIODRIVER="dummy") as app,
    ):
        frame = await app.framed(least=_LEAST)
        await there.keep("x11-neverball-begins")

        def held() -> bool:
            objects = [core.by_client for core in there.it.sandbox.filters]
            return any(
                isinstance(made, Constraint) and made.active
                for known in objects
                for made in known.values()
            )

        async def played():
            await there.click(frame.x + frame.w // 2, frame.y + frame.h // 2)
            return held()

        await eventually(played, deadline=120)
        for step in range(12):
            await there.move(*spot(frame, (40 * step, 30 * step)))
        await there.keep("x11-neverball-played")
        await there.look()

        async def paused():
            await trio.to_thread.run_sync(there.keys.press, _ESCAPE)
            return not held()

        await eventually(paused)
        await there.keep("x11-neverball-paused")
        assert [str(e) for e in there.it.ends] == []
