"""Ordinary acts with a program in a sandbox, on sway, GNOME and Plasma.

    .ci/as-user tests.kit.wayland.acts KIND [ACT...]

plays them one after the other, each with a new program (``act_window.py``), and prints
which are right; pictures are kept in ``$VITRAIL_OUT/acts-KIND``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from PIL import Image

from broker.core.streams.wayland_rules import WindowRules
from tests.kit.eventually import eventually, ready
from tests.kit.wayland import act_window
from tests.kit.wayland.at_desktop import AtDesktop, screen_of
from tests.kit.wayland.input import CODES
from tests.kit.wayland.pixels import Found, frames, mask
from tests.kit.wayland.stand import FRAME, SIZE, Stand, filtered

KINDS = ("sway", "gnome", "plasma")
SHIFT, CONTROL, ALT, SUPER = 42, 29, 56, 125
_KEYS = {f"F{n}": 58 + n for n in range(1, 11)} | dict(
    zip(
        ("Up", "Left", "Right", "Down", "Prior", "Next", "Tab", "Return"),
        (103, 105, 106, 108, 104, 109, 15, 28),
        strict=True,
    )
)
_PATIENCE = 30
_STEPS = 8
MIDDLE = 0x112
FREE = (1150, 650)
"""A point of the screen that no window covers at first."""


class Sitting:
    """A person at a desktop with the program's windows."""

    def __init__(self, screen: AtDesktop, it: Stand, file: Path, act: str) -> None:
        self.screen, self.it, self.file, self.act = screen, it, file, act
        self.kind = screen.kind
        self.seen = 0
        self.taken = 0
        self.pointed = (20, 400)
        """Where the pointer is, whose image may cover part of a frame."""

    # -- what the program reports -----------------------------------------------------

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def mark(self) -> None:
        """What is awaited comes from now on."""
        self.seen = len(self.lines())

    async def told(self, what: str) -> str:
        """Wait for a line that begins so, and return it."""

        def found() -> str:
            return next(
                (x for x in self.lines()[self.seen :] if x.startswith(what)), ""
            )

        return await eventually(found, deadline=_PATIENCE)

    def has_told(self, what: str) -> bool:
        return any(line.startswith(what) for line in self.lines()[self.seen :])

    def _last(self, what: str) -> list[int]:
        line = [x for x in self.lines() if x.startswith(f"{what} ")][-1]
        return [int(n) for n in line.removeprefix(f"{what} ").split()]

    # -- what the screen shows --------------------------------------------------------

    async def look(self) -> list[Found]:
        self.taken += 1
        image = await self.screen.picture(f"{self.act}-{self.taken}")
        return frames(image, FRAME, pointer=self.pointed)

    async def frame(self, good: Callable[[Found], bool] = lambda _: True) -> Found:
        """Wait until one frame is good: two pictures in a row show it there."""
        last: list[Found] = []

        async def reached() -> Found | None:
            nonlocal last
            before, last = last, [one for one in await self.look() if good(one)]
            return last[0] if last and last == before else None

        self.taken += 1
        first = self.taken
        found = await eventually(reached, deadline=_PATIENCE)
        # Of a wait, the last picture is kept.
        for n in range(first, self.taken):
            (self.screen.folder / f"{self.act}-{n}.png").unlink(missing_ok=True)
        return found

    async def counted(self, colour: tuple[int, int, int]) -> int:
        return await self.screen.counted(colour)

    async def spots(self, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Return the points of the screen that have this colour, from left to right."""
        red, green, blue = colour
        seen = mask(await self.screen.picture(), red << 16 | green << 8 | blue)
        return [(int(x), int(y)) for x, y in zip(*seen.T.nonzero(), strict=True)]

    async def at(self, name: str) -> tuple[int, int]:
        """Return the middle of a widget on the screen."""
        frame = await self.frame()
        wide, high = self._last("size")
        x, y, w, h = self._last(f"place {name}")
        left = frame.x + frame.w - frame.border - wide
        top = frame.y + frame.h - frame.border - high
        return left + x + w // 2, top + y + h // 2

    # -- what the person does ---------------------------------------------------------

    async def do(self, function: Callable, *args) -> None:
        await trio.to_thread.run_sync(partial(function, *args))

    async def key(self, name: str, *held: int) -> None:
        """Press a key by its name while others are held."""

        # mutter 43 on a busy machine sends the modifiers of keys that it has yet to send.
        pause = 0.1 if held else 0
        with self.screen.holding(*held):
            await trio.sleep(pause)
            self.screen.keys.press(_KEYS.get(name) or CODES[name])
            await trio.sleep(pause)

    async def type(self, text: str) -> None:
        for char in text:
            await self.key(char)

    async def move(self, x: int, y: int) -> None:
        self.pointed = x, y
        await self.do(self.screen.pointer.move, x, y)

    async def click(self, x: int, y: int, which: int = 0x110) -> None:
        await self.move(x - 2, y)
        await self.move(x, y)
        await self.do(self.screen.pointer.button, True, which)
        await self.do(self.screen.pointer.button, False, which)

    async def drag(
        self, start: tuple[int, int], end: tuple[int, int], *held: int
    ) -> None:
        """Press at one point, move in steps, release at the other."""
        await self.move(start[0] - 2, start[1])
        await self.move(*start)

        def carry() -> None:
            with self.screen.holding(*held):
                self.screen.pointer.button(True)
                for n in range(1, _STEPS + 1):
                    x, y = (
                        a + (b - a) * n // _STEPS
                        for a, b in zip(start, end, strict=True)
                    )
                    self.screen.pointer.move(x, y)
                    trio.from_thread.run(trio.sleep, 0.05)
                self.screen.pointer.move(end[0] + 1, end[1])
                trio.from_thread.run(trio.sleep, 0.3)
                self.screen.pointer.button(False)

        await trio.to_thread.run_sync(carry)
        self.pointed = end

    async def titles(self) -> list[str]:
        """Return the titles of the windows that the desktop knows."""
        name = {"sway": "name", "gnome": "title", "plasma": "caption"}[self.kind]
        return [one.get(name) or "" for one in await self.screen.windows()]

    async def ids(self) -> list[str]:
        """Return the application ids that the desktop knows."""
        name = {"sway": "app_id", "gnome": "wm-class", "plasma": "desktopFile"}[
            self.kind
        ]
        return [one.get(name) or "" for one in await self.screen.windows()]

    async def order(self, sway: str, gnome: str, plasma: str) -> None:
        """What the desktop's own controls do: sway's command, GNOME's and KWin's names."""
        if self.kind == "sway":
            await self.screen.there.command(sway)
        elif self.kind == "gnome":
            script = f"global.display.focus_window.{gnome}"
            await self.do(self.screen.there.evaluate, script)
        else:
            await self.do(self.screen.there.shortcut, plasma)


# -- the acts -----------------------------------------------------------------------


async def shown_with_its_name(s: Sitting) -> None:
    await s.frame()
    assert "[work] acts" in await s.titles(), await s.titles()


async def typed_text(s: Sitting) -> None:
    await s.type("hello")
    await s.told("typed first hello")


async def moved_by_its_title_bar(s: Sitting) -> None:
    before = await s.frame()
    x, y = before.x + 200, before.y + before.h - before.border - s._last("size")[1] - 20
    await s.drag((x, y), (x + 120, y + 60))
    # Toolkits drag from some pixels on; a picture may be of the middle of the way.
    after = await s.frame(lambda f: abs(f.x - before.x - 120) < 24)
    assert (after.w, after.h) == (before.w, before.h)


async def moved_with_super(s: Sitting) -> None:
    before = await s.frame()
    x, y = before.x + before.w // 2, before.y + before.h // 2
    await s.drag((x, y), (x + 120, y + 60), SUPER)
    await s.frame(lambda f: abs(f.x - before.x - 120) < 12)


async def moved_by_the_frames_upper_edge(s: Sitting) -> None:
    before = await s.frame()
    x, y = before.x + before.w // 2, before.y + 2
    await s.drag((x, y), (x + 120, y + 60))
    # The compositor moves it from when it has our request on.
    after = await s.frame(lambda f: abs(f.x - before.x - 120) < 24)
    assert (after.w, after.h) == (before.w, before.h)


async def resized_by_its_corner(s: Sitting) -> None:
    before = await s.frame()
    corner = before.x + before.w - 2, before.y + before.h - 2
    await s.drag(corner, (corner[0] + 60, corner[1] + 40))
    await s.frame(lambda f: abs(f.w - before.w - 60) < 12)


async def _reaches(s: Sitting, wide: int) -> None:
    """Wait until the frame is so wide, and nearly as high as the screen.

    The panel of Plasma has a shadow, so the lower side has another colour there.
    """

    async def reached() -> bool:
        s.taken += 1
        seen = mask(await s.screen.picture(f"{s.act}-{s.taken}"), FRAME)
        return (
            seen.sum(axis=1).max() == wide and seen.sum(axis=0).max() > 0.85 * SIZE[1]
        )

    await eventually(reached, deadline=_PATIENCE, every=0.5)


async def maximised_by_its_program(s: Sitting) -> None:
    before = await s.frame()
    await s.key("F1")
    await s.told("state window maximized")
    await _reaches(s, SIZE[0])
    s.mark()
    await s.key("F1")
    await s.told("state window focused")
    await s.frame(lambda f: (f.w, f.h) == (before.w, before.h))


async def maximised_by_the_desktop(s: Sitting) -> None:
    before = await s.frame()
    await s.key(*{"gnome": ("Up", SUPER), "plasma": ("Prior", SUPER)}[s.kind])
    await s.told("state window maximized")
    await _reaches(s, SIZE[0])
    s.mark()
    await s.key(*{"gnome": ("Down", SUPER), "plasma": ("Prior", SUPER)}[s.kind])
    await s.told("state window focused")
    await s.frame(lambda f: (f.w, f.h) == (before.w, before.h))


async def in_one_half(s: Sitting) -> None:
    await s.key("Left", SUPER)
    await _reaches(s, SIZE[0] // 2)


async def fullscreen_by_its_program(s: Sitting) -> None:
    before = await s.frame()
    await s.key("F2")
    await s.told("state window fullscreen")
    await s.frame(lambda f: f[:4] == (0, 0, *SIZE))
    s.mark()
    await s.key("F2")
    await s.told("state window focused")
    await s.frame(lambda f: (f.w, f.h) == (before.w, before.h))


async def fullscreen_by_the_desktop(s: Sitting) -> None:
    before = await s.frame()
    await s.order("fullscreen enable", "make_fullscreen()", "Window Fullscreen")
    await s.told("state window fullscreen")
    await s.frame(lambda f: f[:4] == (0, 0, *SIZE))
    s.mark()
    await s.order("fullscreen disable", "unmake_fullscreen()", "Window Fullscreen")
    await s.told("state window focused")
    await s.frame(lambda f: (f.w, f.h) == (before.w, before.h))


async def _gone_and_back(s: Sitting) -> None:
    async def gone() -> bool:
        return not await s.look()

    await eventually(gone, deadline=_PATIENCE)
    if s.kind == "sway":
        await s.screen.there.command("scratchpad show")
    elif s.kind == "gnome":
        await s.key("Tab", ALT)
    else:
        await s.do(_activated, s.screen.there)
    await s.frame()
    await s.type("back")
    await s.told("typed first back")


def _activated(there) -> None:
    """What a click on a window's entry in the list of windows does."""
    runner = "/WindowsRunner", "org.kde.krunner1"
    (found,) = there.call(*runner, "Match", "s", "acts")
    there.call(*runner, "Run", "ss", found[0][0], "")


async def minimised_by_its_program(s: Sitting) -> None:
    await s.frame()
    await s.key("F3")
    await _gone_and_back(s)


async def minimised_by_the_desktop(s: Sitting) -> None:
    await s.frame()
    if s.kind == "sway":
        await s.screen.there.command("move scratchpad")
    else:
        await s.key(*{"gnome": ("h", SUPER), "plasma": ("Next", SUPER)}[s.kind])
    await _gone_and_back(s)


async def asked_to_close(s: Sitting) -> None:
    if s.kind == "sway":
        await s.screen.there.command("kill")
    else:
        await s.key("F4", ALT)
    await s.told("closed window")


async def a_dialog_stays_above(s: Sitting) -> None:
    parent = await s.frame()
    await s.key("F6")
    await s.told("state dialog focused")
    spots = await eventually(partial(s.spots, act_window.DIALOG), deadline=_PATIENCE)
    # Over its parent's middle, where that would cover it.
    middle = parent.x + parent.w // 2, parent.y + parent.h // 2
    await s.drag(spots[len(spots) // 2], middle, SUPER)
    await trio.sleep(1)
    await s.look()
    whole = await s.counted(act_window.DIALOG)
    assert whole
    s.mark()
    await s.click(parent.x + 30, parent.y + parent.h - 20)
    await s.told("focus window in")
    await trio.sleep(0.5)
    await s.look()
    # The pointer is in the picture.
    assert await s.counted(act_window.DIALOG) > 0.9 * whole, "the parent covers it"
    assert (await s.titles()).count("[work] asks") == 1


async def a_second_window_is_of_the_same_group(s: Sitting) -> None:
    await s.key("F7")
    await s.told("state second")

    async def both() -> bool:
        return {"[work] acts", "[work] second"} <= set(await s.titles())

    await eventually(both, deadline=_PATIENCE)
    found = [one for one in await s.ids() if one.startswith("vitrail.work.")]
    assert len(found) == 2, found
    assert len(set(found)) == 1, found


async def a_menu_within_a_menu(s: Sitting) -> None:
    await s.click(*await s.at("menu"))
    await s.told("menu shown")
    for name in ("Down", "Down", "Right", "Down", "Return"):
        await trio.sleep(0.4)
        if name == "Return":
            await s.look()
        await s.key(name)
    await s.told("chosen inner")


async def a_menu_is_left_by_a_click_outside(s: Sitting) -> None:
    await s.click(*await s.at("menu"))
    await s.told("menu shown")
    frame = await s.frame()
    await s.click(frame.x + 60, frame.y + frame.h - 12)
    await s.told("menu hidden")


async def chosen_in_a_combo_box(s: Sitting) -> None:
    await s.click(*await s.at("combo"))
    await trio.sleep(1)
    await s.look()
    await s.key("Down")
    await s.key("Return")
    await s.told("picked green")


async def a_tooltip(s: Sitting) -> None:
    x, y = await s.at("tip")
    before = len(await s.look())
    await s.move(x - 5, y)
    await s.move(x, y)
    await s.told("tooltip")

    async def shown() -> bool:
        return len(await s.look()) > before

    await eventually(shown, deadline=_PATIENCE)


async def dragged_within_the_window(s: Sitting) -> None:
    await s.drag(await s.at("drag"), await s.at("drop"))
    await s.told("drag begins")
    await s.told(f"dropped first window {act_window.DRAGGED}")


async def dragged_to_another_window_of_it(s: Sitting) -> None:
    start, first, parent = await s.at("drag"), await s.at("drop"), await s.frame()
    await s.key("F7")
    await s.told("state second")
    target = await _free_spot(s, *first)
    if target[0] < parent.x + parent.w and target[1] < parent.y + parent.h:
        # KWin puts it above the first one.
        await s.drag(target, FREE, SUPER)
        target = FREE
    await s.drag(start, target)
    await s.told("drag begins")
    await s.told(f"dropped second window {act_window.DRAGGED}")


async def _free_spot(s: Sitting, x: int, y: int) -> tuple[int, int]:
    """Return a point of the second window: the farthest from the first one's area."""

    def from_first(spot: tuple[int, int]) -> int:
        return max(abs(spot[0] - x), abs(spot[1] - y))

    async def far() -> tuple[int, int] | None:
        spots = set(await s.spots(act_window.DROP))
        # Not at the edge.
        inner = [
            (a, b) for a, b in spots if {(a - 12, b - 12), (a + 12, b + 12)} <= spots
        ]
        spot = max(inner, key=from_first)
        return spot if from_first(spot) > 105 else None

    return await eventually(far, deadline=_PATIENCE)


async def scrolled(s: Sitting) -> None:
    x, y = await s.at("cross")
    await s.move(x - 2, y)
    await s.move(x, y)
    await s.told("entered")
    await s.do(s.screen.pointer.scroll, 3)
    await s.told("scrolled down")
    await s.do(s.screen.pointer.scroll, -3)
    await s.told("scrolled up")


async def scrolled_by_two_fingers(s: Sitting) -> None:
    x, y = await s.at("cross")
    await s.move(x - 2, y)
    await s.move(x, y)
    await s.told("entered")
    for pixels, way in (60, "down"), (-60, "up"):
        s.mark()
        await s.do(s.screen.pointer.glide, pixels)
        await s.told(f"scrolled {way}")
        if s.kind != "gnome":
            # mutter 43 sends no axis_stop for its RemoteDesktop, without us either.
            await s.told("fingers lifted")


async def the_programs_cursor(s: Sitting) -> None:
    x, y = await s.at("cross")
    await s.move(x - 100, y + 25)
    await s.told("entered")
    await trio.sleep(0.5)
    there = await _with_pointer(s, "cross")
    # The same area without the pointer.
    await s.move(20, 400)
    await trio.sleep(0.5)
    away = await _with_pointer(s, "away")
    box = (x - 130, y - 5, x - 70, y + 39)
    changed = [
        a != b
        for a, b in zip(
            there.crop(box).get_flattened_data(),
            away.crop(box).get_flattened_data(),
            strict=True,
        )
    ]
    assert any(changed), "no cursor"
    spot = changed[30 * 60 + 30 - 3 : 30 * 60 + 30 + 4]
    left = [
        changed[row * 60 + column] for row in range(20, 40) for column in range(15, 28)
    ]
    assert any(left), (
        f"not a crosshair, which has an arm at the left; at its middle: {spot}"
    )


async def _with_pointer(s: Sitting, name: str):
    if s.kind == "plasma":
        return await trio.to_thread.run_sync(
            partial(s.screen.there.picture, pointer=True)
        )
    if s.kind == "sway":
        file = s.screen.folder / f"{s.act}-{name}.png"
        await s.screen.there._tool("grim", "-c", str(file))
        return Image.open(file).convert("RGB")
    return await s.screen.picture(f"{s.act}-{name}")


async def copied_and_pasted_by_its_keys(s: Sitting) -> None:
    await s.type("word")
    await s.told("typed first word")
    await s.key("a", CONTROL)
    await s.key("c", CONTROL)
    await s.key("Tab")
    await s.key("v", CONTROL)
    await s.told("typed second word")


async def pasted_by_the_middle_button(s: Sitting) -> None:
    await s.type("word")
    await s.told("typed first word")
    await s.key("a", CONTROL)
    await s.click(*await s.at("second"), MIDDLE)
    await s.told("typed second word")


async def the_next_workspace_and_back(s: Sitting) -> None:
    await s.frame()
    if s.kind == "sway":
        await s.screen.there.command("workspace 2")
    else:
        if s.kind == "plasma":
            await s.do(_second_desktop, s.screen.there)
        await s.order(
            "",
            "get_workspace().get_neighbor(imports.gi.Meta.MotionDirection.RIGHT).activate(0)",
            "Switch to Next Desktop",
        )

    async def gone() -> bool:
        return not await s.look()

    await eventually(gone, deadline=_PATIENCE)
    if s.kind == "sway":
        await s.screen.there.command("workspace 1")
    elif s.kind == "gnome":
        script = "global.workspace_manager.get_workspace_by_index(0).activate(0)"
        await s.do(s.screen.there.evaluate, script)
    else:
        await s.do(s.screen.there.shortcut, "Switch to Previous Desktop")
    await s.frame()
    await s.type("back")
    await s.told("typed first back")


def _second_desktop(there) -> None:
    manager = "org.kde.KWin.VirtualDesktopManager"
    there.call("/VirtualDesktopManager", manager, "createDesktop", "us", 1, "two")


async def a_key_held_repeats(s: Sitting) -> None:
    def hold() -> None:
        s.screen.keys.change(CODES["x"], 1)
        trio.from_thread.run(trio.sleep, 2)
        s.screen.keys.change(CODES["x"], 0)
        s.screen.keys.modifiers(0)

    await s.frame()
    await trio.to_thread.run_sync(hold)
    await s.told("typed first xxx")


async def a_character_by_its_number(s: Sitting) -> None:
    """By Control+Shift+U, with which GTK takes a character's number."""
    await s.frame()
    await s.key("u", CONTROL, SHIFT)
    await s.type("e9 ")
    await s.told("typed first é")


async def a_dead_key(s: Sitting) -> None:
    """The keys of ´ and ^, by their places; z is at the place of y."""
    await s.frame()
    await s.type("=e`ay")
    await s.told("typed first éâz")


ACTS: dict[str, Callable[[Sitting], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        shown_with_its_name,
        typed_text,
        a_key_held_repeats,
        a_character_by_its_number,
        copied_and_pasted_by_its_keys,
        pasted_by_the_middle_button,
        moved_by_its_title_bar,
        moved_with_super,
        moved_by_the_frames_upper_edge,
        resized_by_its_corner,
        maximised_by_its_program,
        maximised_by_the_desktop,
        in_one_half,
        fullscreen_by_its_program,
        fullscreen_by_the_desktop,
        minimised_by_its_program,
        minimised_by_the_desktop,
        the_next_workspace_and_back,
        asked_to_close,
        a_dialog_stays_above,
        a_second_window_is_of_the_same_group,
        a_menu_within_a_menu,
        a_menu_is_left_by_a_click_outside,
        chosen_in_a_combo_box,
        a_tooltip,
        dragged_within_the_window,
        dragged_to_another_window_of_it,
        scrolled,
        scrolled_by_two_fingers,
        the_programs_cursor,
    )
}
GERMAN = {"a_dead_key": a_dead_key}
"""Those with a German keyboard."""
HAS_NONE = {
    # It tiles instead, and has no minimised windows.
    "sway": {
        "maximised_by_its_program",
        "maximised_by_the_desktop",
        "in_one_half",
        "minimised_by_its_program",
    },
    # Its fake_input says of no scrolling that it is by fingers.
    "plasma": {"scrolled_by_two_fingers"},
}


async def play(kind: str, folder: Path, acts: list[str], layout: str = "us"):
    """Yield each act's name, and what went wrong with it."""
    async with screen_of(kind, folder, layout=layout) as screen:
        rules = WindowRules("work", color=FRAME)
        async with filtered(screen.there, rules) as it:
            for act in acts:
                if act in HAS_NONE.get(kind, ()):
                    continue
                yield act, await _played(screen, it, folder / f"{act}.told", act)
            if it.ends:
                yield "ends", str(it.ends)


async def _played(screen: AtDesktop, it: Stand, file: Path, act: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    screen.pointer.move(20, 400)
    child = it.run("/usr/bin/python3", act_window.__file__, str(file))
    sitting = Sitting(screen, it, file, act)
    try:
        await ready(child, lambda: sitting.has_told("place cross"), deadline=30)
        await sitting.told("focus window in")
        await sitting.frame()
        sitting.mark()
        await (ACTS | GERMAN)[act](sitting)
        await sitting.look()
    except Exception as error:
        await sitting.look()
        return f"{type(error).__name__}: {error}"
    finally:
        screen.pointer.button(False)
        await child.stop()

        async def gone() -> bool:
            return not frames(await screen.picture(), FRAME)

        await eventually(gone)
    return ""


async def main(kind: str, acts: list[str]) -> None:
    folder = Path(os.environ["VITRAIL_OUT"]) / f"acts-{kind}"
    async for act, wrong in play(kind, folder, acts or list(ACTS)):
        print(f"{kind}\t{act}\t{wrong or 'right'}", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2:])
