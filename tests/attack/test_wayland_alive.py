"""Requests that name what the compositor has no more, has unmapped, or does not show.

Each of these orders is legal, needs no input, and ended the compositor with all of the
user's programs: sway 1.7 (wlroots 0.15) by a pointer that was unplugged and by a menu of a
window in the scratchpad, KWin 5.27 by a menu on what is not mapped.
"""

from __future__ import annotations

import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from tests.attack.test_wayland_pixels import PAINT, popup
from tests.kit.eventually import eventually
from tests.kit.wayland.client import GoneError, ServerError, Window
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer
from tests.kit.wayland.player import through_the_filter
from tests.kit.wayland.stand import FRAME, SIZE, filtered, stand
from tests.kit.wayland.virtual import compositor

LOCKS = WindowRules(
    "work", color=FRAME, allow=frozenset({"zwp_pointer_constraints_v1"})
)
FILLS = WindowRules("work", color=FRAME, fullscreen=Fullscreen.REAL)
PROMOTES = WindowRules("work", color=FRAME, promote=True)
FULLSCREEN = 2
"""xdg_toplevel.state"""
RELATIVE = "zwp_relative_pointer_manager_v1"
CONSTRAINTS = "zwp_pointer_constraints_v1"


async def lives(it) -> None:
    """The compositor runs, and shows another client of the sandbox its window."""
    await it.client(lambda c: c.show(120, 80, PAINT))
    assert it.comp.child.popen.poll() is None


def seat_with(c: Window, seat: int, *, pointer: bool) -> None:
    """Wait until the seat's last word is that it has a pointer, or has none."""

    def last() -> bool:
        said = [e[3][0] for e in c.events if e[0] == seat and e[2] == "capabilities"]
        return bool(said) and bool(said[-1] & 1) is pointer

    while not last():
        c.read()


def constrain(c: Window, pointer: int) -> None:
    surface, _, _ = c.show(200, 150, PAINT)
    manager = c.bind(CONSTRAINTS)
    for name, kind in (("lock", "locked"), ("confine", "confined")):
        made = c.make(
            manager, f"{name}_pointer", f"zwp_{kind}_pointer_v1", None, surface, pointer, 0, 2
        )  # fmt: skip
        c.send(made, "set_region", 0)
        c.send(surface, "commit")
        c.send(made, "destroy")


def relate(c: Window, pointer: int) -> None:
    made = c.make(
        c.bind(RELATIVE),
        "get_relative_pointer",
        "zwp_relative_pointer_v1",
        None,
        pointer,
    )
    c.roundtrip()
    c.send(made, "destroy")


@pytest.mark.parametrize("ask", [relate, constrain])
@pytest.mark.parametrize("again", [False, True])
async def test_pointer_that_was_unplugged_is_named_to_no_compositor(ask, again):
    async with stand(LOCKS) as it:
        display = it.comp.display

        def act(c: Window) -> None:
            with Pointer(display, SIZE):
                seat = c.bind("wl_seat")
                seat_with(c, seat, pointer=True)
                pointer = c.make(seat, "get_pointer", "wl_pointer")
                c.roundtrip()
            seat_with(c, seat, pointer=False)
            if again:
                with Pointer(display, SIZE):
                    seat_with(c, seat, pointer=True)
                    ask(c, pointer)
                    c.roundtrip()
            else:
                ask(c, pointer)
            c.roundtrip()

        await it.client(act)
        await lives(it)


async def test_pointer_of_a_seat_that_is_asked_before_it_answers():
    """The seat has none: all is said before the filter can know."""
    async with stand(LOCKS) as it:
        with Pointer(it.comp.display, SIZE):
            pass  # the seat has had one

        def act(c: Window) -> None:
            relate(c, c.make(c.bind("wl_seat"), "get_pointer", "wl_pointer"))

        for _ in range(5):
            await it.client(act)
        await lives(it)


async def test_pointer_that_is_there_tells_its_motion():
    """What the mend may not take: a game's relative motion."""
    async with stand(LOCKS) as it:
        display = it.comp.display

        def act(c: Window) -> None:
            with Pointer(display, SIZE) as mouse:
                seat = c.bind("wl_seat")
                seat_with(c, seat, pointer=True)
                pointer = c.make(seat, "get_pointer", "wl_pointer")
                manager = c.bind(RELATIVE)
                kind = "zwp_relative_pointer_v1"
                c.make(manager, "get_relative_pointer", kind, None, pointer)
                c.show(600, 400, PAINT)
                mouse.move(SIZE[0] // 2, SIZE[1] // 2)
                c.wait(lambda e: e[1:3] == ("wl_pointer", "enter"))
                mouse.move(SIZE[0] // 2 + 9, SIZE[1] // 2)
                c.wait(lambda e: e[1:3] == (kind, "relative_motion"))

        await it.client(act)


# -- menus -----------------------------------------------------------------------------


def ask_menu(c: Window, parent: int) -> tuple[int, int, int]:
    """Request a popup, without its first commit: surface, xdg_surface, xdg_popup."""
    rules = c.make(c.shell, "create_positioner", "xdg_positioner")
    c.send(rules, "set_size", 60, 40)
    c.send(rules, "set_anchor_rect", 0, 0, 10, 10)
    surface = c.surface()
    xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
    menu = c.make(xdg, "get_popup", "xdg_popup", None, parent, rules)
    c.send(rules, "destroy")
    return surface, xdg, menu


def unmap(c: Window, surface: int) -> None:
    c.send(surface, "attach", 0, 0, 0)
    c.send(surface, "commit")


def dismissed(c: Window, menu: int) -> None:
    c.wait(lambda e: e[0] == menu and e[2] == "popup_done")
    c.roundtrip()


def ended(c: Window, asked: tuple[int, int, int]) -> None:
    """Await the end of a menu and destroy it, as programs do."""
    surface, xdg, menu = asked
    dismissed(c, menu)
    for oid in (menu, xdg, surface):
        c.send(oid, "destroy")
    c.roundtrip()


def on_an_unmapped_menu(c: Window) -> None:
    _, xdg, _ = c.show(300, 200, PAINT)
    surface, menu = popup(c, xdg)
    unmap(c, surface)
    asked = ask_menu(c, menu)
    c.send(asked[0], "commit")
    ended(c, asked)


def on_a_menu_of_an_unmapped_window(c: Window) -> None:
    window, xdg, _ = c.show(300, 200, PAINT)
    _, menu = popup(c, xdg)
    unmap(c, window)
    asked = ask_menu(c, menu)
    c.send(asked[0], "commit")
    ended(c, asked)


def before_its_parent_is_unmapped(c: Window) -> None:
    _, xdg, _ = c.show(300, 200, PAINT)
    surface, menu = popup(c, xdg)
    asked = ask_menu(c, menu)
    unmap(c, surface)
    c.send(asked[0], "commit")
    ended(c, asked)


def on_a_window_that_was_never_shown(c: Window) -> None:
    surface = c.surface()
    xdg, _ = c.toplevel(surface)
    asked = ask_menu(c, xdg)
    c.send(asked[0], "commit")
    ended(c, asked)


ORDERS = [
    on_an_unmapped_menu,
    on_a_menu_of_an_unmapped_window,
    before_its_parent_is_unmapped,
    on_a_window_that_was_never_shown,
]


@pytest.mark.parametrize("kind", ["kwin", "sway", "weston", "mutter"])
async def test_menu_on_what_is_not_mapped_is_dismissed(kind):
    async with compositor(kind) as comp, filtered(comp) as it:
        for order in ORDERS:
            await it.client(order)
            await lives(it)


@pytest.mark.parametrize("kind", ["kwin", "sway", "weston", "mutter"])
async def test_menus_of_a_window_open_as_soon_as_it_is_mapped(kind):
    """Whatever the compositor says of screens, and without a keyboard at the window."""

    def act(c: Window) -> None:
        surface = c.surface()
        xdg, _ = c.toplevel(surface)
        c.send(surface, "commit")
        c.configured(xdg)
        c.paint(surface, 300, 200, PAINT)
        c.send(surface, "commit")
        _, menu = popup(c, xdg)
        popup(c, menu)
        assert not [e for e in c.events if e[2] == "popup_done"]

    async with compositor(kind) as comp, filtered(comp) as it:
        await it.client(act)
        assert [str(e) for e in it.ends] == []


# -- the scratchpad ---------------------------------------------------------------------


def overhang(c: Window, surface: int) -> None:
    """A subsurface that a record shows in a popup."""
    child = c.surface()
    c.child(child, surface, 50, 100)
    c.paint(child, 120, 300, PAINT)
    c.send(child, "commit")
    c.send(surface, "commit")
    c.roundtrip()


@pytest.mark.parametrize("focused", [False, True])
async def test_menu_of_a_window_in_the_scratchpad_is_dismissed(focused):
    async with stand() as it:

        def act(c: Window) -> None:
            _, xdg, _ = c.show(300, 200, PAINT)
            if focused:
                with Keyboard(it.comp.display) as keys:
                    keys.type("x")
                    it.order("move scratchpad")
                    inner, _, asked = ask_menu(c, xdg)
                    c.send(inner, "commit")
                    dismissed(c, asked)
                return
            it.order("move scratchpad")
            inner, _, asked = ask_menu(c, xdg)
            c.send(inner, "commit")
            dismissed(c, asked)
            it.order("scratchpad show")
            popup(c, xdg)  # and opens once it is there again

        await it.client(act)
        await lives(it)


async def test_menu_of_a_window_that_was_born_in_the_scratchpad_is_dismissed():
    async with stand() as it:
        await it.comp.command("for_window [title=.*] move scratchpad")

        def act(c: Window) -> None:
            _, xdg, _ = c.show(300, 200, PAINT)
            inner, _, asked = ask_menu(c, xdg)
            c.send(inner, "commit")
            dismissed(c, asked)

        await it.client(act)
        await lives(it)


async def test_promoted_surface_of_a_window_in_the_scratchpad_waits_for_the_window():
    async with stand(PROMOTES) as it:

        def act(c: Window) -> None:
            surface, _, _ = c.show(300, 200, PAINT)
            it.order("move scratchpad")
            overhang(c, surface)
            c.roundtrip()
            (core,) = it.sandbox.filters
            assert not core.promoted or not any(s.promoted for s in core.promoted)
            it.order("scratchpad show")
            trio.from_thread.run(eventually, lambda: bool(core.promoted))

        await it.client(act)
        await lives(it)


async def test_a_window_in_the_scratchpad_becomes_fullscreen_once_it_is_shown():
    """sway 1.7 ended when the user then moved it to a workspace by its title."""
    async with stand(FILLS) as it:

        def act(c: Window) -> None:
            _, _, top = c.show(300, 200, PAINT)
            c.send(top, "set_title", b"one")
            c.roundtrip()
            it.order("move scratchpad")
            c.send(top, "set_fullscreen", 0)
            c.roundtrip()
            it.order("[title=one] move to workspace 2")
            it.order("workspace 2")
            c.wait(
                lambda e: (
                    e[0] == top
                    and e[2] == "configure"
                    and FULLSCREEN in struct.unpack(f"={len(e[3][2]) // 4}I", e[3][2])
                )
            )

        await it.client(act)
        await lives(it)


# -- a seat that loses its pointer while a request is on its way --------------------------


def keep_asking(path: Path, ask, over: threading.Event) -> None:
    """Ask about a seat's pointer without a pause, and start again where that is refused."""
    while not over.is_set():
        with (
            suppress(GoneError, OSError, ServerError, TimeoutError),
            Window(path, deadline=20) as c,
        ):
            c.start()
            seat = c.bind("wl_seat")
            while not over.is_set():
                seat_with(c, seat, pointer=True)
                pointer = c.make(seat, "get_pointer", "wl_pointer")
                for _ in range(20):
                    ask(c, pointer)
                c.send(pointer, "release")
                c.roundtrip()


def hurry(manager: str, name: str, kind: str, *more: int):
    """Make and end one object of a pointer; ``more``: a constraint's region and lifetime."""

    def ask(c: Window, pointer: int) -> None:
        bound = getattr(c, "hurried", None) or c.bind(manager)
        c.hurried = bound
        if not more:
            c.send(c.make(bound, name, kind, None, pointer), "destroy")
            return
        surface = c.surface()
        c.send(c.make(bound, name, kind, None, surface, pointer, *more), "destroy")
        c.send(surface, "destroy")

    return ask


@pytest.mark.parametrize(
    "ask",
    [
        hurry(RELATIVE, "get_relative_pointer", "zwp_relative_pointer_v1"),
        hurry(CONSTRAINTS, "lock_pointer", "zwp_locked_pointer_v1", 0, 2),
    ],
    ids=["relate", "lock"],
)
async def test_pointer_that_is_unplugged_while_a_request_is_on_its_way(ask):
    """mutter 43 read the request after the unplugging, of which the filter cannot know."""
    async with compositor("mutter") as comp, through_the_filter(comp) as path:
        bus = (comp.display.parent / "address").read_text().strip()
        (await GnomeKeyboard.of(bus)).__exit__()
        over = threading.Event()

        def unplug_often() -> None:
            for _ in range(200):
                with GnomeKeyboard(bus) as session:
                    GnomePointer(session).move(300, 200)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, keep_asking, path, ask, over)
            try:
                await trio.to_thread.run_sync(unplug_often)
            finally:
                over.set()
        assert comp.child.popen.poll() is None
