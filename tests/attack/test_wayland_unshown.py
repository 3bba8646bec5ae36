"""What a client draws into windows that are not shown, and what the compositor keeps of it.

The surfaces of a window are synchronised subsurfaces of its frame, whose commits wait for
the frame's.  wlroots keeps each that waits: 200,000 commits of a subsurface whose window
was never mapped took 106 MB of the compositor's memory in six seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import stand
from tests.kit.wayland.talk import Talk

COLOR = 0xFF00FF00
COMMITS = 20_000
MEMORY_KB = 4_000
"""More than noise; 20,000 commits that wait are 10 MB."""


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def child_of_unmapped(c: Window) -> int:
    """A desynchronised subsurface in a window that is not mapped."""
    parent = c.surface()
    c.toplevel(parent)
    child = c.surface()
    c.send(c.child(child, parent, 0, 0), "set_desync")
    return child


@pytest.fixture
def talk():
    with Talk() as it:
        yield it.start()


def commits(talk: Talk) -> int:
    return len(talk.told("wl_surface", "commit"))


async def test_commits_that_wait_take_no_memory_of_the_compositor():
    async with stand() as it:
        pid = it.comp.child.popen.pid

        def draw(c: Window) -> int:
            one = emit.commit(child_of_unmapped(c)) * 100
            c.raw(one)
            c.roundtrip()
            before = resident_kb(pid)
            for _ in range(COMMITS // 100):
                c.raw(one)
                c.roundtrip()
            return resident_kb(pid) - before

        with trio.fail_after(120):
            assert await it.client(draw) < MEMORY_KB


def test_a_child_that_is_committed_often_is_shown_with_its_window(talk):
    parent = talk.surface()
    xdg, _ = talk.toplevel(parent)
    child = talk.surface()
    talk.send(talk.child(child, parent, 5, 5), "set_desync")
    talk.paint(child, 4, 4, COLOR)
    for _ in range(limits.WAYLAND_WAITING_COMMITS):
        talk.send(child, "commit")
    before = commits(talk)
    for _ in range(10):
        talk.paint(child, 8, 8, COLOR)
        talk.send(child, "commit")
    assert commits(talk) == before
    talk.send(parent, "commit")
    talk.configured(xdg)
    talk.paint(parent, 60, 40, COLOR)
    talk.send(parent, "commit")
    assert talk.server_side(child).size() == (8, 8)
    before = commits(talk)
    talk.send(child, "commit")
    assert commits(talk) > before


def test_damage_that_waits_is_one_rectangle(talk):
    child = child_of_unmapped(talk)
    talk.paint(child, 60, 40, COLOR)
    for _ in range(limits.WAYLAND_WAITING_COMMITS + 1):
        talk.send(child, "commit")
    before = len(talk.told("wl_surface", "damage"))
    for n in range(10):
        for m in range(5):
            talk.send(child, "damage", 3 * n, 2 * m, 1, 1)
        talk.send(child, "commit")
    damaged = talk.told("wl_surface", "damage")[before:]
    assert len({tuple(rect) for rect in damaged}) == 1


def test_a_menu_that_the_compositor_has_closed_is_not_committed(talk):
    _, parent, _ = talk.show(200, 150, COLOR)
    place = talk.make(talk.shell, "create_positioner", "xdg_positioner")
    talk.send(place, "set_size", 60, 60)
    talk.send(place, "set_anchor_rect", 0, 0, 10, 10)
    surface = talk.surface()
    xdg = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, surface)
    popup = talk.make(xdg, "get_popup", "xdg_popup", None, parent, place)
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.paint(surface, 60, 60, COLOR)
    talk.send(surface, "commit")
    talk.model.tell(talk.server_side(popup), "popup_done")
    talk.pump()
    for _ in range(limits.WAYLAND_WAITING_COMMITS):
        talk.send(surface, "commit")
    before = commits(talk)
    for _ in range(10):
        talk.send(surface, "damage", 0, 0, 5, 5)
        talk.send(surface, "commit")
    assert commits(talk) == before
