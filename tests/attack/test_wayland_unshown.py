"""What a client draws into windows that are not shown, and what the compositor keeps of it.

The surfaces of a window are synchronised subsurfaces of its frame, whose commits wait for
the frame's.  wlroots keeps each that waits: 200,000 commits of a subsurface whose window
was never mapped took 106 MB of the compositor's memory in six seconds.  sway 1.7 applies them
when the subsurface ends, and dies of that where the window's role is gone: any sandbox
could end the user's session.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from broker.cli import headless_sway
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol import emit
from tests.attack.test_wayland_alive import ask_menu
from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import FRAME, TRANSACTION, stand
from tests.kit.wayland.talk import Talk

COLOR = 0xFF00FF00
COMMITS = 20_000
MEMORY_KB = 4_000
"""More than noise; 20,000 commits that wait are 10 MB."""


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def grown_kb(c: Window, pid: int, hundred: bytes) -> int:
    """By how much the compositor grows while it gets so many requests."""
    c.raw(hundred)
    c.roundtrip()
    before = resident_kb(pid)
    for _ in range(COMMITS // 100):
        c.raw(hundred)
        c.roundtrip()
    return resident_kb(pid) - before


def child_of_unmapped(c: Window) -> int:
    """A desynchronised subsurface in a window that is not mapped."""
    parent = c.surface()
    c.toplevel(parent)
    child = c.surface()
    c.send(c.child(child, parent, 0, 0), "set_desync")
    return child


def commits(talk: Talk) -> int:
    return len(talk.told("wl_surface", "commit"))


async def test_commits_that_wait_take_no_memory_of_the_compositor():
    async with stand() as it:
        pid = it.comp.child.popen.pid

        def draw(c: Window) -> int:
            return grown_kb(c, pid, emit.commit(child_of_unmapped(c)) * 100)

        with trio.fail_after(120):
            assert await it.client(draw) < MEMORY_KB


def role_goes(c: Window, *, shown: bool, ends: bool) -> None:
    """A subsurface is committed after its window's role has ended."""
    surface, xdg, top = c.show(200, 150, COLOR)
    if not shown:
        c.send(surface, "attach", 0, 0, 0)
        c.send(surface, "commit")
    child = c.surface()
    sub = c.make(
        c.subcompositor, "get_subsurface", "wl_subsurface", None, child, surface
    )
    c.send(sub, "set_desync")
    if not shown:
        c.send(child, "commit")
    c.send(top, "destroy")
    c.roundtrip()
    c.raw(emit.commit(child) * 3)
    c.roundtrip()
    time.sleep(2 * TRANSACTION)  # sway's end of the window has no event
    if ends:
        c.send(xdg, "destroy")
        c.roundtrip()


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("ends", [True, False])
async def test_commits_after_a_role_do_not_end_sway(shown, ends):
    async with stand() as it:
        with trio.fail_after(60):
            await it.client(lambda c: role_goes(c, shown=shown, ends=ends))
            await it.client(lambda c: c.show(60, 40, COLOR))


def show_menu(c: Window, xdg: int) -> tuple[int, int, int]:
    """Show a menu on a window: its surface, xdg_surface and xdg_popup."""
    surface, menu_xdg, menu = ask_menu(c, xdg)
    c.send(surface, "commit")
    c.configured(menu_xdg)
    c.paint(surface, 60, 40, COLOR)
    c.send(surface, "commit")
    c.roundtrip()
    return surface, menu_xdg, menu


def add_part(c: Window, parent: int, *, overhangs: bool = False) -> int:
    """Make a subsurface of a surface, and commit it."""
    part = c.surface()
    c.child(part, parent, 40, 20)
    c.paint(part, 400 if overhangs else 10, 10, COLOR)
    c.send(part, "commit")
    return part


def end_window(c: Window, surface: int, *shell: int) -> None:
    c.send(surface, "attach", 0, 0, 0)
    c.send(surface, "commit")
    for oid in shell:
        c.send(oid, "destroy")
    c.roundtrip()
    time.sleep(2 * TRANSACTION)  # sway frees the window then, and sends no event


def leave_with_closed_menu(c: Window) -> None:
    """Disconnect after the compositor has closed a menu with a promoted part."""
    surface, xdg, _ = c.show(300, 200, COLOR)
    menu_surface, _, menu = show_menu(c, xdg)
    add_part(c, menu_surface, overhangs=True)
    c.send(menu_surface, "commit")
    c.roundtrip()
    c.show(100, 100, COLOR)  # takes the keyboard, so sway closes the menu
    c.wait(lambda e: e[0] == menu and e[2] == "popup_done")
    end_window(c, surface)


def add_part_after_window(c: Window) -> None:
    """Nest a subsurface in one whose window has been freed."""
    surface, xdg, top = c.show(300, 200, COLOR)
    part = add_part(c, surface)
    c.send(surface, "commit")
    c.roundtrip()
    end_window(c, surface, top, xdg)
    add_part(c, part)
    c.send(part, "commit")
    c.send(surface, "commit")
    c.roundtrip()


def add_part_after_menu(c: Window) -> None:
    """The same in a menu that ended before its window."""
    surface, xdg, top = c.show(300, 200, COLOR)
    menu_surface, menu_xdg, menu = show_menu(c, xdg)
    part = add_part(c, menu_surface)
    c.send(menu_surface, "commit")
    c.roundtrip()
    c.send(menu, "destroy")
    c.send(menu_xdg, "destroy")
    end_window(c, surface, top, xdg)
    add_part(c, part)
    c.send(part, "commit")
    c.send(menu_surface, "commit")
    c.roundtrip()


def add_part_after_subsurface(c: Window) -> None:
    """The same in a tree that was taken out of its window before."""
    surface, xdg, top = c.show(300, 200, COLOR)
    outer = c.surface()
    outer_sub = c.child(outer, surface, 0, 0)
    c.paint(outer, 50, 50, COLOR)
    part = add_part(c, outer)
    c.send(outer, "commit")
    c.send(surface, "commit")
    c.roundtrip()
    c.send(outer_sub, "destroy")
    end_window(c, surface, top, xdg)
    add_part(c, part)
    c.send(part, "commit")
    c.send(outer, "commit")
    c.roundtrip()


@pytest.mark.parametrize(
    "attack",
    [
        leave_with_closed_menu,
        add_part_after_window,
        add_part_after_menu,
        add_part_after_subsurface,
    ],
)
async def test_subsurface_of_freed_window_does_not_end_sway(attack, monkeypatch):
    """sway 1.7 keeps a pointer to its window with each subsurface."""
    spawn = headless_sway.spawn

    def spawn_strictly(argv, *, env, **more):
        """Start a program whose freed memory is overwritten (mallopt(3))."""
        return spawn(argv, env={**env, "MALLOC_PERTURB_": "165"}, **more)

    monkeypatch.setattr(headless_sway, "spawn", spawn_strictly)
    async with stand(WindowRules("work", color=FRAME, promote=True)) as it:
        with trio.fail_after(60):
            await it.client(attack)
            await it.client(lambda c: c.show(60, 40, COLOR))
        assert it.comp.child.popen.poll() is None


async def test_commits_of_what_lost_its_parent_take_no_memory_of_the_compositor():
    async with stand() as it:
        pid = it.comp.child.popen.pid

        def draw(c: Window) -> int:
            parent, child, grandchild = c.surface(), c.surface(), c.surface()
            c.child(child, parent, 0, 0)
            c.send(c.child(grandchild, child, 0, 0), "set_desync")
            c.send(parent, "destroy")
            return grown_kb(c, pid, emit.commit(grandchild) * 100)

        with trio.fail_after(120):
            assert await it.client(draw) < MEMORY_KB


def test_children_are_shown_with_their_window(talk):
    parent = talk.surface()
    xdg, _ = talk.toplevel(parent)
    child, grandchild = talk.surface(), talk.surface()
    for one, above in ((child, parent), (grandchild, child)):
        talk.send(talk.child(one, above, 5, 5), "set_desync")
    talk.paint(child, 20, 20, COLOR)
    talk.send(child, "commit")
    talk.send(parent, "commit")
    before = commits(talk)
    talk.paint(grandchild, 8, 8, COLOR)
    talk.make(grandchild, "frame", "wl_callback")
    talk.send(grandchild, "commit")
    assert commits(talk) == before
    assert talk.told("wl_surface", "frame") == []
    talk.configured(xdg)
    talk.paint(parent, 60, 40, COLOR)
    talk.send(parent, "commit")
    assert talk.server_side(child).size() == (20, 20)
    assert talk.server_side(grandchild).size() == (8, 8)
    before = commits(talk)
    talk.send(grandchild, "commit")
    assert commits(talk) > before


def test_a_buffer_that_is_replaced_before_its_window_is_shown_is_given_back(talk):
    child = child_of_unmapped(talk)
    first, second = talk.buffer(8, 8, COLOR), talk.buffer(8, 8, COLOR)
    for buffer in (first, second, second):
        talk.send(child, "attach", buffer, 0, 0)
        talk.send(child, "commit")
    given = [e[0] for e in talk.events if e[2] == "release"]
    assert given == [first]


def test_a_menu_that_the_compositor_has_closed_is_not_committed(talk):
    _, parent, _ = talk.show(200, 150, COLOR)
    _, surface, xdg, popup = talk.popup_on(parent)
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.paint(surface, 60, 60, COLOR)
    talk.send(surface, "commit")
    talk.model.tell(talk.server_side(popup), "popup_done")
    talk.pump()
    before = commits(talk)
    for _ in range(10):
        talk.send(surface, "damage", 0, 0, 5, 5)
        talk.send(surface, "commit")
    assert commits(talk) == before
