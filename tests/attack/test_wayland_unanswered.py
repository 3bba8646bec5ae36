"""A client that asks for configure events and acknowledges none.

wlroots keeps each until it or a later one is acknowledged: 74,000 of them took 6.4 MB
of the compositor's memory, and a sandbox could ask for 90,000 a second.
"""

from __future__ import annotations

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from tests.attack.test_wayland_unshown import COLOR, resident_kb
from tests.kit.wayland.client import Window
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.stand import stand
from tests.kit.wayland.talk import Talk

ROUNDS = 40_000
MEMORY_KB = 1_500
"""More than noise; 40,000 configure events that are kept are 3.4 MB."""
DECORATION = "zxdg_toplevel_decoration_v1"
_set = emit.request("xdg_toplevel", "set_maximized")
_unset = emit.request("xdg_toplevel", "unset_maximized")


@pytest.fixture
def talk():
    with Talk(model=Model([*GLOBALS, ("zxdg_decoration_manager_v1", 1)])) as it:
        yield it.start()


async def test_configure_events_that_wait_take_no_memory_of_the_compositor():
    async with stand() as it:
        pid = it.comp.child.popen.pid

        def toggle(c: Window) -> int:
            tops = [c.show(20, 20, COLOR)[2] for _ in range(20)]
            both = [b"".join(one(top) for top in tops) for one in (_set, _unset)]
            before = resident_kb(pid)
            for n in range(ROUNDS // len(tops)):
                c.raw(both[n % 2])
                c.roundtrip()
                c.events.clear()
            return resident_kb(pid) - before

        with trio.fail_after(120):
            assert await it.client(toggle) < MEMORY_KB


REQUESTS = (
    ("set_maximized",), ("unset_maximized",), ("set_fullscreen", 0), ("set_minimized",),
    ("set_mode", 1), ("unset_mode",),
)  # fmt: skip


@pytest.mark.parametrize("wanted", REQUESTS)
def test_who_acknowledges_nothing_asks_for_no_more(talk, wanted):
    surface = talk.surface()
    xdg, top = talk.toplevel(surface)
    manager = talk.bind("zxdg_decoration_manager_v1")
    asks = talk.make(manager, "get_toplevel_decoration", DECORATION, None, top)
    asks = asks if "mode" in wanted[0] else top
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.paint(surface, 60, 40, COLOR)
    talk.send(surface, "commit")

    def sent() -> int:
        before = len(talk.model.requests)
        talk.send(asks, *wanted)
        names = [name for _, name, _ in talk.model.requests[before:]]
        return len(names) - names.count("sync")

    for _ in range(limits.WAYLAND_UNANSWERED - 1):
        talk.model.configure(talk.server_side(xdg))
    talk.pump()
    assert sent() == 1
    for _ in range(limits.WAYLAND_UNANSWERED):
        talk.model.configure(talk.server_side(xdg))
    talk.pump()
    assert sent() == 0
    newest = [e[3][0] for e in talk.events if e[0] == xdg and e[2] == "configure"][-1]
    talk.send(xdg, "ack_configure", newest)
    assert sent() == 1


def test_a_menu_that_acknowledges_nothing_asks_for_no_other_place(talk):
    _, parent, _ = talk.show(200, 150, COLOR)
    place, surface, xdg, popup = talk.popup_on(parent)
    talk.send(surface, "commit")  # the compositor knows of it from here on
    for _ in range(limits.WAYLAND_UNANSWERED):
        talk.send(popup, "reposition", place, 1)
        talk.model.configure(talk.server_side(xdg))
    before = len(talk.told("xdg_popup", "reposition"))
    talk.pump()
    talk.send(popup, "reposition", place, 2)
    assert len(talk.told("xdg_popup", "reposition")) == before
