"""Requests that are cheap for a client and dear for the compositor.

Their costs were measured with ``python -m tests.bench.wayland.costs``; the
filter charges for that, so a sandbox that asks for more is read more slowly.
"""

from __future__ import annotations

import time

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import ServerError, Window
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.stand import stand
from tests.kit.wayland.talk import Talk

WIDTH, HEIGHT = 1200, 700
AREA = WIDTH * HEIGHT
CLEAR = 0x0100FF00
"""Almost transparent: what lies below has to be drawn as well."""


def layered(c: Window, layers: int, width: int = WIDTH, height: int = HEIGHT) -> int:
    """A window under so many surfaces of its size; the topmost of them."""
    parent, _, _ = c.show(width, height, CLEAR)
    buffer, top = c.buffer(width, height, CLEAR), parent
    for _ in range(layers):
        top = c.surface()
        c.send(c.child(top, parent, 0, 0), "set_desync")
        c.send(top, "attach", buffer, 0, 0)
        c.send(top, "damage", 0, 0, width, height)
        c.send(top, "commit")
    c.send(parent, "commit")
    c.roundtrip()
    return top


def charged(talk: Talk, *messages: bytes) -> int:
    """Pixels that these messages are charged with."""
    before = talk.core.pixels
    talk.raw(b"".join(messages))
    return talk.core.pixels - before


def test_a_picture_under_ten_layers_is_charged_ten_times(talk):
    top = layered(talk, 10)
    whole = emit.damage(top, 0, 0, WIDTH, HEIGHT) + emit.commit(top)
    assert charged(talk, whole) >= 12 * AREA
    cursor = emit.damage(top, 5, 5, 2, 20) + emit.commit(top)
    assert charged(talk, cursor) < AREA


def test_one_pixel_that_covers_the_window_is_charged_as_the_window(talk):
    """A viewport makes it as large as the window."""
    parent, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    child = talk.surface()
    talk.child(child, parent, 0, 0)
    port = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, child)
    talk.send(port, "set_destination", WIDTH, HEIGHT)
    talk.paint(child, 1, 1, CLEAR)
    talk.send(child, "commit")
    talk.send(parent, "commit")
    damage = emit.request("wl_surface", "damage_buffer")
    one = damage(child, 0, 0, 1, 1) + emit.commit(child) + emit.commit(parent)
    assert charged(talk, one) >= 3 * AREA


def test_a_moved_layer_is_charged_as_drawn(talk):
    """Moving damages as much as painting does, without a word about damage."""
    parent, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    child = talk.surface()
    sub = talk.child(child, parent, 0, 0)
    talk.paint(child, WIDTH, HEIGHT, CLEAR)
    talk.send(child, "commit")
    talk.send(parent, "commit")
    move = emit.request("wl_subsurface", "set_position")
    assert charged(talk, move(sub, 1, 1), emit.commit(parent)) >= 2 * AREA


def test_windows_over_one_another_are_charged_together(talk):
    surfaces = [talk.show(WIDTH, HEIGHT, CLEAR)[0] for _ in range(10)]
    top = surfaces[-1]
    whole = emit.damage(top, 0, 0, WIDTH, HEIGHT) + emit.commit(top)
    assert charged(talk, whole) >= 20 * AREA


def test_without_a_gpu_a_drawn_pixel_is_charged_more():
    offers = [name for name in GLOBALS if name[0] != "zwp_linux_dmabuf_v1"]
    drawn = []
    for model in (Model(), Model(offers)):
        with Talk(model=model).start() as talk:
            top = layered(talk, 2)
            before = talk.core.pixels
            talk.send(top, "damage", 0, 0, WIDTH, HEIGHT)
            talk.send(top, "commit")
            drawn.append(talk.core.pixels - before)
    assert drawn[1] >= 6 * drawn[0] > 0


@pytest.fixture
def drawn_by_cpu():
    offers = [name for name in GLOBALS if name[0] != "zwp_linux_dmabuf_v1"]
    with Talk(model=Model(offers)).start() as talk:
        yield talk


def _picture(talk: Talk, surface: int) -> int:
    whole = emit.damage(surface, 0, 0, WIDTH, HEIGHT) + emit.commit(surface)
    return charged(talk, whole)


def test_damage_of_a_single_window_is_charged(drawn_by_cpu):
    """Without a word about a buffer, sixty times a second, it takes a part of a core."""
    surface, _, _ = drawn_by_cpu.show(WIDTH, HEIGHT, CLEAR)
    assert _picture(drawn_by_cpu, surface) >= 2 * AREA * limits.WAYLAND_CPU_PIXEL_WEIGHT


@pytest.mark.parametrize("change", ["turned", "scaled"])
def test_a_picture_that_is_calculated_is_charged_more(drawn_by_cpu, change):
    talk = drawn_by_cpu
    surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    plain = _picture(talk, surface)
    if change == "turned":
        talk.send(surface, "set_buffer_transform", 1)
        talk.paint(surface, HEIGHT, WIDTH, CLEAR)
    else:
        port = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, surface)
        talk.send(port, "set_destination", WIDTH, HEIGHT)
        talk.paint(surface, WIDTH * 5 // 4, HEIGHT * 5 // 4, CLEAR)
    talk.send(surface, "commit")
    assert _picture(talk, surface) >= 3 * plain


def test_a_picture_that_is_shrunk_far_is_charged_most(drawn_by_cpu):
    talk = drawn_by_cpu
    surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    plain = _picture(talk, surface)
    port = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, surface)
    talk.send(port, "set_destination", WIDTH, HEIGHT)
    talk.paint(surface, 5 * WIDTH, 5 * HEIGHT, CLEAR)
    talk.send(surface, "commit")
    assert _picture(talk, surface) >= 5 * plain


def test_a_picture_as_large_as_the_screens_pixels_is_charged_as_plain(drawn_by_cpu):
    """By a viewport, as toolkits draw for fractional scales."""
    talk = drawn_by_cpu
    surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    plain = _picture(talk, surface)
    port = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, surface)
    talk.send(port, "set_destination", WIDTH, HEIGHT)
    talk.send(surface, "commit")
    assert _picture(talk, surface) == plain


def test_a_window_has_so_many_layers(talk):
    """Drawing of another client goes through them, too, also where its owner sends nothing."""
    shown = limits.WAYLAND_LAYERED_PIXELS // AREA
    layered(talk, shown - 2)
    with pytest.raises(ServerError, match="too many overlapping subsurfaces"):
        layered(talk, shown + 1)


def _turned(talk: Talk) -> None:
    surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    talk.send(surface, "set_buffer_transform", 1)
    talk.paint(surface, HEIGHT, WIDTH, CLEAR)
    talk.send(surface, "commit")


def test_windows_of_a_sandbox_cover_so_many_pixels(drawn_by_cpu, monkeypatch):
    """An honest picture is drawn through all, also where their owner sends nothing."""
    talk = drawn_by_cpu
    _turned(talk)
    (window,) = talk.core.windows
    assert window.painted > limits.WAYLAND_SAMPLED_WEIGHT * AREA
    screen = talk.core.screen()
    area = max(screen[0] * screen[1], 1280 * 800)
    monkeypatch.setattr(limits, "WAYLAND_PAINTED_SCREENS", 5 * window.painted / area)
    for _ in range(4):
        _turned(talk)
    with pytest.raises(ServerError, match="cover too many pixels"):
        talk.show(WIDTH, HEIGHT, CLEAR)


def test_windows_that_are_gone_cover_nothing(talk, monkeypatch):
    surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)
    (window,) = talk.core.windows
    screen = talk.core.screen()
    area = max(screen[0] * screen[1], 1280 * 800)
    monkeypatch.setattr(limits, "WAYLAND_PAINTED_SCREENS", window.painted / area)
    for _ in range(3):
        talk.send(surface, "attach", 0, 0, 0)
        talk.send(surface, "commit")
        surface, _, _ = talk.show(WIDTH, HEIGHT, CLEAR)


def test_pools_menus_and_moves_are_charged_their_cost(talk):
    """More than their messages: a mapping, a placement, a new order of all."""
    before = talk.core.messages
    talk.buffer(4, 4, CLEAR)
    assert talk.core.messages - before >= 3 + limits.WAYLAND_POOL_MESSAGES
    parent, xdg, _ = talk.show(200, 150, CLEAR)
    place = talk.make(talk.shell, "create_positioner", "xdg_positioner")
    talk.send(place, "set_size", 60, 60)
    talk.send(place, "set_anchor_rect", 0, 0, 10, 10)
    menu = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, talk.surface())
    before = talk.core.messages
    talk.make(menu, "get_popup", "xdg_popup", None, xdg, place)
    assert talk.core.messages - before > limits.WAYLAND_POPUP_MESSAGES
    sub = talk.child(talk.surface(), parent, 0, 0)
    before = talk.core.messages
    talk.send(sub, "set_position", 1, 1)
    assert talk.core.messages - before == 2


def test_a_commit_among_many_windows_is_charged_more(talk):
    surface, _, _ = talk.show(20, 20, CLEAR)
    few = talk.core.messages
    talk.send(surface, "commit")
    few = talk.core.messages - few
    for _ in range(limits.WAYLAND_WINDOWS_A_MESSAGE):
        talk.toplevel(talk.surface())
    many = talk.core.messages
    talk.send(surface, "commit")
    assert talk.core.messages - many == few + 1


async def test_pictures_of_many_layers_come_at_their_pace(monkeypatch):
    """On a real compositor: as many as the budget has, however fast it draws."""
    rate, layers, width, height = 60_000_000, 12, 300, 200
    monkeypatch.setattr(limits, "WAYLAND_COMMIT_PIXELS_PER_SECOND", rate)
    monkeypatch.setattr(limits, "WAYLAND_COMMIT_PIXELS_BURST", rate)
    pictures = 30

    def act(c: Window) -> float:
        top = layered(c, layers, width, height)
        began = time.monotonic()
        for _ in range(pictures):
            c.send(top, "damage", 0, 0, width, height)
            c.shown(top)
        return time.monotonic() - began

    async with stand() as it:
        with trio.fail_after(120):
            took = await it.client(act)
    drawn = pictures * (layers + 2) * width * height * limits.WAYLAND_CPU_PIXEL_WEIGHT
    assert drawn > 2 * rate
    assert took >= (drawn - rate) / rate - 1


def test_objects_of_screens_are_bounded_for_a_sandbox():
    """wlroots looks at all of them, of all clients, for each surface that enters a screen.

    A subsurface took 12 us of the compositor's time, and 323 beside 42,000 of them.
    """
    sandbox = Sandbox("work", {"listeners": 5})
    with Talk(sandbox=sandbox).start() as one, Talk(sandbox=sandbox).start() as other:
        outputs = [one.bind("wl_output") for _ in range(4)]
        other.bind("wl_output")
        one.send(outputs[0], "release")
        other.bind("wl_output")
        with pytest.raises(ServerError, match="5 listeners"):
            other.bind("wl_output")
        assert one.core.fault is None
    assert sandbox.totals["listeners"] == 0
