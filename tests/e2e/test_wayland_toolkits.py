"""Typing, tooltips, menus in menus and combo boxes of GTK 3, GTK 4 and Qt.

Each program is in bubblewrap, through a real waypipe server and the filter, on
each compositor that a person may have.  Its reactions are reported by the
program itself, so a key or a click that went elsewhere is seen.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.jail.wayland.listing import windows_of
from tests.kit.eventually import eventually
from tests.kit.wayland import gtk_window
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.input import CONTROL
from tests.kit.wayland.pixels import Found
from tests.kit.wayland.world import KINDS, NEWER, FilteredDesktop, steady, world

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
]
BORDER = 4


class Told:
    """The window of ``gtk_window`` and its reports."""

    def __init__(self, there: FilteredDesktop, running, lines: Path) -> None:
        self.there, self.running, self._lines = there, running, lines
        self.frame = Found(0, 0, 0, 0, 0)
        self.head = 0
        """How far below the frame's top the area begins."""

    def lines(self) -> list[str]:
        return self._lines.read_text().splitlines() if self._lines.exists() else []

    async def wait(self, line: str) -> None:
        """Wait for that report; a failure lists the others."""
        with trio.move_on_after(30):
            while line not in self.lines():
                await trio.sleep(0.05)
            return
        await self.there.keep("missing")
        raise AssertionError(f"no {line!r} in {self.lines()}: {self.running.said()}")

    async def settle(self) -> None:
        """Learn where its frame is, once that is as the filter has it."""

        async def same() -> bool:
            self.frame = await self.running.framed(least=300)
            infos = windows_of(self.there.it.sandbox)
            if not infos:  # it has just ended; 'framed' says so the next time
                return False
            (info,) = infos
            size = (info.width + 2 * BORDER, info.height + 2 * BORDER)
            return self.frame[2:4] == size and self.frame.border == BORDER

        await eventually(same, deadline=40)
        if not self.head:
            self.head = self.frame.h - BORDER - gtk_window.AREA[1]

    def at(self, place: tuple[int, int]) -> tuple[int, int]:
        """The middle of the widget at a place of the area, on the screen."""
        x, y = place
        return (
            self.frame.x + BORDER + x + gtk_window.WIDE // 2,
            self.frame.y + self.head + y + gtk_window.HIGH // 2,
        )

    async def popup(self, at: tuple[int, int], count: int) -> list[Box]:
        """Click there until ``count`` popups are shown, each in its whole frame."""
        with trio.move_on_after(30):
            while len(self.boxes()) != count:
                await self.there.click(*at)
                # A first click may only give the window the focus.
                with trio.move_on_after(3):
                    while len(self.boxes()) != count:
                        await trio.sleep(0.05)
        return await self.shown(count)

    async def shown(self, count: int) -> list[Box]:
        """Where ``count`` popups are, once that many are in whole frames."""

        async def enough() -> bool:
            return len(self.running.shown_popups()) == count

        with trio.move_on_after(20):
            await eventually(enough)
        assert len(self.running.shown_popups()) == count, self.running.shown_popups()
        assert await self.running.popups(self.frame) == count
        boxes = self.boxes()
        await self.there.look(known=[self.frame[:4], *boxes])
        return boxes

    def boxes(self) -> list[Box]:
        """Where popups are on the screen, with their frames."""
        return [
            (self.frame.x + x, self.frame.y + y, w, h)
            for x, y, w, h in self.running.shown_popups()
        ]

    async def gone(self) -> None:
        async def none() -> bool:
            return not self.running.shown_popups()

        await eventually(none)
        await steady(self.there.it.comp)  # a compositor may let it fade


Box = tuple[int, int, int, int]


@asynccontextmanager
async def gtk(kind: str, version: str, tmp_path: Path):
    """The window, mapped, framed and with the keyboard."""
    shutil.copy(gtk_window.__file__, tmp_path / "gtk_window.py")
    words = ["python3", "/shared/gtk_window.py", version, "/shared/told"]
    async with (
        world(kind) as there,
        boxed(there.it, *words, shared=tmp_path) as running,
    ):
        told = Told(there, running, tmp_path / "told")
        await told.wait(f"ready {version}")

        await told.settle()
        yield told
        assert [str(e) for e in there.it.ends] == []


VERSIONS = ["3", "4"]
ALL = pytest.mark.parametrize("kind", [*KINDS, *NEWER])


@ALL
@pytest.mark.parametrize("version", VERSIONS)
async def test_typed_keys_arrive_as_text(kind, version, tmp_path):
    async with gtk(kind, version, tmp_path) as told:
        await told.there.click(*told.at(gtk_window.ENTRY))
        await told.there.type("vitrail types")
        await told.wait("typed vitrail types")
        await told.there.type(" 42\n")
        await told.wait("activated vitrail types 42")
        await told.there.keep("typed")
        await told.there.look()


def item(box: Box, number: int, of: int = 3) -> tuple[int, int]:
    """The middle of a menu's item on the screen; its items are equally high."""
    x, y, w, h = box
    inner = h - 2 * BORDER
    return x + w // 2, y + BORDER + inner * (2 * number + 1) // (2 * of)


def beside(box: Box, spot: tuple[int, int]) -> int:
    """How far a point is from a box, 0 when it is inside."""
    x, y, w, h = box
    away = (
        max(x - spot[0], 0, spot[0] - (x + w)),
        max(y - spot[1], 0, spot[1] - (y + h)),
    )
    return max(away)


@ALL
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_menu_in_a_menu_is_framed_and_hit_where_it_is_seen(
    kind, version, tmp_path
):
    async with gtk(kind, version, tmp_path) as told:
        button = told.at(gtk_window.MENU)
        (menu,) = await told.popup(button, 1)
        await told.there.keep("menu")
        # It hangs at its button, as far as half the button and two frames are.
        assert beside(menu, button) <= gtk_window.HIGH // 2 + 3 * BORDER, menu
        first, second = await told.popup(item(menu, 1), 2)
        await told.there.keep("submenu")
        inner = first if first != menu else second
        assert inner != menu
        assert beside(inner, item(menu, 1)) <= menu[2] // 2 + 3 * BORDER, inner
        await told.there.click(*item(inner, 1))
        await told.wait("chosen inner")
        await told.gone()
        (menu,) = await told.popup(button, 1)
        await told.there.click(*item(menu, 2))
        await told.wait("chosen lower")
        await told.gone()
        await told.there.look()


@ALL
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_combo_box_gives_the_chosen_entry(kind, version, tmp_path):
    async with gtk(kind, version, tmp_path) as told:
        combo = told.at(gtk_window.COMBO)
        (menu,) = await told.popup(combo, 1)
        await told.there.keep("combo")
        assert beside(menu, combo) <= gtk_window.HIGH // 2 + 3 * BORDER, menu
        # All of it is seen: three items, with the frame around them.
        assert menu[3] > 3 * 20, menu
        await told.there.click(*item(menu, 2))
        await told.wait("picked blue")
        await told.gone()
        await told.there.look()


@ALL
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_tooltip_is_seen_at_the_pointer(kind, version, tmp_path):
    async with gtk(kind, version, tmp_path) as told:
        x, y = told.at(gtk_window.TIP)
        for step in range(8):  # a person's hand comes slowly to rest
            await told.there.move(x - 8 + step, y)
            await trio.sleep(0.05)
        (box,) = await told.shown(1)
        await told.there.keep("tooltip")
        assert beside(box, (x, y)) <= 60, box


@ALL
@pytest.mark.parametrize("version", VERSIONS)
async def test_after_a_resize_frame_content_and_input_agree(kind, version, tmp_path):
    async with gtk(kind, version, tmp_path) as told:
        there, first = told.there, told.frame
        # By hand: its corner is dragged outwards and half the way back.
        x, y = first.x + first.w - 2, first.y + first.h - 2
        await there.move(x - 2, y)
        await there.move(x, y)
        await there.press(True)
        for step in (1, 2, 3, 4, 5, 6, 5, 4, 3):
            await there.move(x + 20 * step, y + 12 * step)
            await there.look()
        await there.press(False)

        async def grown() -> bool:
            await there.look()
            await told.settle()
            return told.frame.w > first.w + 30 and told.frame.h > first.h + 15

        await eventually(grown, deadline=40)
        await there.keep("resized")
        await picks(told, "blue", 2)
        if kind.endswith("sway"):  # which takes orders
            for wide, high in ((700, 520), (560, 440), (640, 600)):
                await ordered(told, wide, high)
            await there.keep("ordered")
            await picks(told, "green", 1)


async def picks(told: Told, word: str, number: int) -> None:
    """The combo box's value is the entry that was clicked."""
    (menu,) = await told.popup(told.at(gtk_window.COMBO), 1)
    await told.there.keep(f"picks-{word}")
    await told.there.click(*item(menu, number))
    await told.wait(f"picked {word}")
    await told.gone()


async def ordered(told: Told, wide: int, high: int) -> None:
    """The compositor's own wish for a size, with pictures until it is met."""

    async def fits() -> bool:
        # sway takes a late picture of the former size for a wish.
        await told.there.it.comp.command(
            f"resize set {wide} {high}, move position 40 40"
        )
        await told.there.look()
        await told.settle()
        return told.frame[2:4] == (wide, high)

    await eventually(fits, deadline=40)


# -- Qt ------------------------------------------------------------------------------------


@ALL
async def test_qt_takes_typed_text_and_saves_it(kind, tmp_path):
    if not shutil.which("featherpad"):
        pytest.skip("featherpad is missing")
    text = tmp_path / "text.txt"
    text.write_text("")
    async with (
        world(kind) as there,
        boxed(there.it, "featherpad", "/shared/text.txt", shared=tmp_path) as running,
    ):
        frame = await running.framed(least=300)
        await there.click(frame.x + frame.w // 2, frame.y + frame.h // 2)
        await there.type("seen in qt\n")
        await there.keep("typed")

        async def saved() -> bool:
            await there.chord(CONTROL, "s")
            await trio.sleep(0.5)
            return text.read_text() == "seen in qt\n"

        await eventually(saved, deadline=30)
        await there.look()
        assert [str(e) for e in there.it.ends] == []
