"""A window after its screen has become smaller: it has a frame on that screen.

Until then the window was as large as the screen, with its frame.  Afterwards its
frame would lie beyond every edge, and its content on all of the screen.
"""

from __future__ import annotations

import pytest

from broker.jail.wayland.scene import resize_timeout
from tests.attack.test_wayland_pixels import PAINT
from tests.broker.jail.wayland.scene.test_frame import guest_rects, popup
from tests.kit.wayland.client import Window
from tests.kit.wayland.pixels import frames, mask
from tests.kit.wayland.stand import FRAME, GUEST, SIZE, Stand, stand
from tests.kit.wayland.talk import Talk

MAXIMIZED = 1


def screen(t: Talk, width: int, height: int, scale: int = 1) -> None:
    """The compositor changes all its screens."""
    for thing in list(t.model.things.values()):
        if thing.kind == "wl_output":
            t.model.tell(thing, "mode", 3, width, height, 60000)
            t.model.tell(thing, "scale", scale)
            t.model.tell(thing, "done")
    t.pump()


def second_screen(t: Talk, width: int, height: int) -> None:
    registry = t.model.things[t.model.registries[0]]
    t.model.offers[50] = ("wl_output", 4)
    before = set(t.model.things)
    t.model.tell(registry, "global", 50, b"wl_output", 4)
    t.pump()
    for oid in set(t.model.things) - before:
        thing = t.model.things[oid]
        if thing.kind == "wl_output":
            t.model.tell(thing, "mode", 3, width, height, 60000)
    t.pump()


def unplug(t: Talk) -> None:
    registry = t.model.things[t.model.registries[0]]
    t.model.tell(registry, "global_remove", 50)
    t.pump()


def wish(t: Talk, xdg: int, w: int, h: int, *states: int) -> None:
    """A configure of the compositor's, which the client acknowledges."""
    serial = t.model.configure(t.server_side(xdg), w, h, states)
    t.pump()
    t.send(xdg, "ack_configure", serial)


def draw(t: Talk, surface: int, w: int, h: int) -> None:
    t.paint(surface, w, h, 0)
    t.send(surface, "commit")


def outer(t: Talk, xdg: int) -> tuple[int, int]:
    return t.server_side(xdg).state["geometry"][2:]


def whole(t: Talk) -> bool:
    """Whether each window's content is inside of its frame."""
    return all(rect == guest for rect, guest in guest_rects(t))


@pytest.fixture
def full(talk):
    """A floating window as large as the screen, and the compositor's echo of that."""
    surface, xdg, top = talk.show(3000, 2000, 0)
    assert outer(talk, xdg) == (1280, 800)
    wish(talk, xdg, 1280, 800)
    return surface, xdg, top


def test_a_window_has_its_frame_when_the_screen_has_shrunk(talk, full):
    surface, xdg, _ = full
    screen(talk, 1280, 800, scale=2)
    assert outer(talk, xdg) == (640, 400), "without a commit of the client's"
    assert whole(talk)
    draw(talk, surface, 3000, 2000)
    assert outer(talk, xdg) == (640, 400), "nor with one"


def test_the_compositors_echo_of_the_former_size_makes_no_window_larger(talk, full):
    """Its picture before it has got our smaller window is its size of before."""
    surface, xdg, _ = full
    screen(talk, 640, 400)
    for size in ((1280, 800), (1200, 700)):
        wish(talk, xdg, *size)
        draw(talk, surface, 3000, 2000)
        assert outer(talk, xdg) == (640, 400)


def test_a_maximised_window_does_not_keep_its_former_size(talk):
    """Its floating size, which the compositor restores, is the client's own."""
    surface, xdg, _ = talk.show(3000, 2000, 0)
    wish(talk, xdg, 1280, 800, MAXIMIZED)
    draw(talk, surface, 1272, 792)
    screen(talk, 640, 400)
    wish(talk, xdg, 640, 400, MAXIMIZED)
    draw(talk, surface, 632, 392)
    assert outer(talk, xdg) == (640, 400)
    wish(talk, xdg, 1280, 800)
    draw(talk, surface, 3000, 2000)
    assert outer(talk, xdg) == (640, 400)


def test_a_window_over_two_screens_ends_with_one_of_them(talk):
    second_screen(talk, 1280, 800)
    surface, xdg, _ = talk.show(200, 100, 0)
    wish(talk, xdg, 2560, 800)
    draw(talk, surface, 2552, 792)
    assert outer(talk, xdg) == (2560, 800), "the user has stretched it"
    unplug(talk)
    assert outer(talk, xdg) == (1280, 800)
    assert whole(talk)


def test_the_user_stretches_a_window_again_once_the_compositor_knows(talk, full):
    surface, xdg, _ = full
    screen(talk, 640, 400)
    wish(talk, xdg, 600, 400)
    draw(talk, surface, 592, 392)
    wish(talk, xdg, 1000, 400)
    draw(talk, surface, 3000, 2000)
    assert outer(talk, xdg) == (1000, 400)


def test_a_screen_that_grows_or_comes_takes_nothing_back(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    wish(talk, xdg, 2560, 800)
    draw(talk, surface, 2552, 792)
    second_screen(talk, 1280, 800)
    screen(talk, 1300, 900)
    assert outer(talk, xdg) == (2560, 800)
    draw(talk, surface, 2552, 792)
    assert outer(talk, xdg) == (2560, 800)


def test_a_menu_larger_than_the_new_screen_is_closed(talk):
    """It has its place and size from a positioner of the former screen."""
    _, parent, _ = talk.show(200, 100, 0)
    small, made, role = popup(talk, parent, (100, 60))
    talk.configured(made)
    draw(talk, small, 100, 60)
    large, made, other = popup(talk, parent, (1100, 700))
    talk.configured(made)
    draw(talk, large, 1100, 700)
    assert len(talk.model.roots()) == 3
    screen(talk, 640, 400)
    assert len(talk.heard("popup_done", other)) == 1
    assert len(talk.heard("popup_done", role)) == 0
    assert len(talk.model.roots()) == 2


def test_least_sizes_follow_the_screen(talk, full):
    """Some compositors make a window as large as the least size that it names."""
    surface, _, top = full
    talk.send(top, "set_min_size", 5000, 4000)
    talk.send(surface, "commit")
    assert talk.server_side(top).state["min"] == (1280, 800)
    screen(talk, 640, 400)
    assert talk.server_side(top).state["min"] == (640, 400)


def test_a_late_window_is_still_cropped_by_the_compositors_size(talk, full):
    _, xdg, _ = full
    screen(talk, 640, 400)
    talk.model.configure(talk.server_side(xdg), 500, 300, (MAXIMIZED,))
    talk.pump()
    resize_timeout.hurry(talk.core, 60.0)
    talk.pump()
    assert outer(talk, xdg) == (500, 300)


async def test_sway_shows_the_frame_after_a_change_of_scale():
    """Seen before: no pixel of the frame, and 1,024,000 of the client's."""

    def act(c: Window) -> tuple[tuple[int, int], ...]:
        surface, _, _ = c.show(*SIZE, PAINT)
        assert frames(it.settled(), FRAME)
        it.order("output HEADLESS-1 scale 2")
        it.order("[title=.*] move position center")
        seen = look(it)
        c.paint(surface, *SIZE, PAINT)
        c.send(surface, "commit")
        c.roundtrip()
        return seen, look(it)

    async with stand() as it:
        for framed, painted in await it.client(act):
            assert framed, "no frame is seen"
            assert 0 < painted < SIZE[0] * SIZE[1]


def look(it: Stand) -> tuple[int, int]:
    """Frames that are seen whole, and pixels of the client's."""
    image = it.settled()
    return len(frames(image, FRAME, least=9)), int(mask(image, GUEST).sum())
