"""A game's held pointer on real compositors: locked while its window has the keyboard.

weston 10 in a window makes no lock active, of a program without the filter neither.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import pytest

from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.handlers.constraints import MANAGER
from tests.kit.needs import requires
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.stand import CONFIG, FRAME, GUEST, SIZE, Stand, filtered, nested

LOCK, RELATIVE = "zwp_locked_pointer_v1", "zwp_relative_pointer_manager_v1"
PERSISTENT = 2


@asynccontextmanager
async def behind(kind: str):
    """A filter before sway, or before another compositor that is a window of sway."""
    rules = WindowRules("work", color=FRAME, allow=frozenset({MANAGER}))
    # Without a line about its seat sway makes no constraint active, for any program.
    config = CONFIG + "seat * pointer_constraint enable\n"
    async with desktop(config_extra=config) as comp:
        if kind == "sway":
            async with filtered(comp, rules) as it:
                yield it
            return
        async with (
            nested(comp, kind) as inner,
            filtered(comp, rules, behind=inner.display) as it,
        ):
            yield it


def moved(client: Window, mouse: Pointer, *spots: tuple[int, int]) -> list[str]:
    """Move the pointer to these places; the events that the client gets for it.

    A click follows the moves, and comes after all their events.
    """
    before = len(client.events)
    for spot in spots:
        mouse.move(*spot)
    for pressed in (True, False):
        mouse.button(pressed)
        client.wait(
            lambda e, on=pressed: e[1:3] == ("wl_pointer", "button") and e[3][3] == on,
            since=before,
        )
    return [e[2] for e in client.events[before:]]


def play(client: Window, it: Stand, mouse: Pointer, kind: str) -> None:
    seat = client.bind("wl_seat")
    pointer = client.make(seat, "get_pointer", "wl_pointer")
    client.make(
        client.bind(RELATIVE),
        "get_relative_pointer",
        "zwp_relative_pointer_v1",
        None,
        pointer,
    )
    manager = client.bind(MANAGER)
    surface, _, _ = client.show(400, 300, 0xFF000000 | GUEST)
    client.shown(surface)
    (frame,) = frames(it.settled(), FRAME)
    x, y = frame.x + frame.w // 2, frame.y + frame.h // 2
    assert "motion" in moved(client, mouse, (x, y), (x + 9, y + 5))
    for _ in range(2):  # and once more after its end
        since = len(client.events)
        lock = client.make(
            manager, "lock_pointer", LOCK, None, surface, pointer, 0, PERSISTENT
        )
        client.wait(lambda e, oid=lock: e[0] == oid and e[2] == "locked")
        heard = moved(client, mouse, (x - 30, y), (x + 30, y + 60), (x - 300, y))
        assert not {"motion", "leave"} & set(heard)
        # KWin in a window of another compositor knows where its pointer is, not its moves.
        assert kind != "sway" or "relative_motion" in heard
        states = [e[2] for e in client.events[since:] if e[0] == lock]
        assert states == ["locked"]
        client.send(lock, "destroy")
        client.roundtrip()
        assert "motion" in moved(client, mouse, (x + 5, y), (x + 9, y + 5))


@pytest.mark.parametrize(
    "kind",
    [
        "sway",
        pytest.param("kwin", marks=requires("kwin_wayland")),
    ],
)
async def test_a_locked_pointer_stays_and_moves_again_after_the_lock(kind):
    async with behind(kind) as it:
        with Pointer(it.comp.display, SIZE) as mouse:
            await it.client(partial(play, it=it, mouse=mouse, kind=kind))
        assert not it.ends
