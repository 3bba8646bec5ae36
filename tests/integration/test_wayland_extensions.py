"""Content types, pictures in order and tablets on real compositors: they take our part."""

from __future__ import annotations

import pytest

from broker.core.streams.wayland_rules import WindowRules
from tests.integration.test_wayland_newer import PAINT
from tests.kit.needs import requires
from tests.kit.wayland.client import Window
from tests.kit.wayland.pixels import frames, mask
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import (
    CONFIG,
    FRAME,
    GUEST,
    NEWEST_KWIN,
    desktop,
    filtered,
    nested,
    screen_for,
)

NEEDED = {
    "sway": {"zwp_tablet_manager_v2"},
    "kwin": {"zwp_tablet_manager_v2"},
    NEWEST_KWIN: {
        *("zwp_tablet_manager_v2", "wp_fifo_manager_v1"),
        *("wp_content_type_manager_v1", "xdg_toplevel_icon_manager_v1"),
    },
}
DENIED = {"wp_pointer_warp_v1", "wp_commit_timing_manager_v1"}
KINDS = [
    "sway",
    pytest.param("kwin", marks=requires("kwin_wayland")),
    pytest.param(NEWEST_KWIN, marks=pytest.mark.long),
]


def play(c: Window, needed: set[str]) -> None:
    """Use all of them on one window, until its last picture is shown."""
    assert needed <= set(c.globals), c.globals
    assert not DENIED & set(c.globals)
    surface, _, _ = c.show(300, 200, PAINT)
    seat = c.bind("wl_seat")
    c.make(
        c.bind("zwp_tablet_manager_v2"),
        "get_tablet_seat",
        "zwp_tablet_seat_v2",
        None,
        seat,
    )
    if "wp_content_type_manager_v1" in needed:
        kind = "wp_content_type_v1"
        manager = c.bind("wp_content_type_manager_v1")
        hint = c.make(manager, "get_surface_content_type", kind, None, surface)
        c.send(hint, "set_content_type", 2)
    fifo = 0
    if "wp_fifo_manager_v1" in needed:
        manager = c.bind("wp_fifo_manager_v1")
        fifo = c.make(manager, "get_fifo", "wp_fifo_v1", None, surface)
    for _ in range(30):
        if fifo:
            c.send(fifo, "set_barrier")
            c.send(fifo, "wait_barrier")
        before = len(c.events)
        shown = c.make(surface, "frame", "wl_callback", None)
        c.paint(surface, 300, 200, PAINT)
        c.send(surface, "commit")
        c.roundtrip()
    c.wait(lambda e: e[0] == shown and e[2] == "done", since=before)


@pytest.mark.parametrize("kind", KINDS)
async def test_window_that_uses_them_is_whole_in_its_frame(kind):
    rules = WindowRules("work", color=FRAME)
    screen = desktop(config_extra=CONFIG) if kind == "sway" else screen_for(kind)

    def act(c: Window):
        play(c, NEEDED[kind])
        return it.settled()

    async with screen as comp:
        if kind == "sway":
            async with filtered(comp, rules) as it:
                image = await it.client(act)
                assert it.ends == []
        else:
            async with (
                nested(comp, kind) as inner,
                filtered(comp, rules, behind=inner.display) as it,
            ):
                image = await it.client(act)
                assert it.ends == []
    kept(picture_name(f"extensions-{kind}"), image)
    (frame,) = [f for f in frames(image, FRAME) if f.w > 250]
    assert (frame.w, frame.h, frame.border) == (308, 208, 4)
    assert mask(image, GUEST).sum() == 300 * 200
