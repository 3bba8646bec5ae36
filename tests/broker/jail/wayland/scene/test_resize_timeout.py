"""Frames of windows whose application does not take the size it was told."""

from __future__ import annotations

import pytest

from broker.core.errors import InternalError
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.scene import commit, resize_timeout
from tests.broker.jail.wayland.scene.test_frame import guest_rects
from tests.kit.wayland.talk import Talk

SOON = limits.WAYLAND_LATE_SECONDS
MAXIMIZED, FULLSCREEN, ACTIVATED = 1, 2, 4
TILED = (5, 6, 7, 8)


def tell(t: Talk, xdg: int, w: int, h: int, *states: int) -> int:
    """The compositor's wish for a window; returns its serial."""
    serial = t.model.configure(t.server_side(xdg), w, h, states)
    t.pump()
    return serial


def wait(t: Talk, seconds: float) -> None:
    resize_timeout.hurry(t.core, seconds)
    t.pump()


def content(t: Talk) -> tuple[int, int]:
    """How large the one window's content is shown, in a whole frame."""
    ((rect, guest),) = guest_rects(t)
    assert rect == guest
    return rect[2:]


def test_a_late_window_is_cropped_to_its_configured_size(talk):
    _, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, 158, 88, ACTIVATED)
    wait(talk, SOON * 0.99)
    assert content(talk) == (200, 100)
    assert talk.core.due == SOON
    wait(talk, SOON)
    assert content(talk) == (150, 80)
    assert talk.core.due is None
    assert talk.told("xdg_surface", "ack_configure")[1:] == []


def test_one_side_may_be_the_larger(talk):
    _, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, 308, 58)
    wait(talk, SOON)
    assert content(talk) == (200, 50)


def test_its_acknowledged_size_counts_again(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = tell(talk, xdg, 158, 88)
    wait(talk, SOON)
    talk.send(xdg, "ack_configure", serial)
    talk.paint(surface, 170, 90, 0)
    talk.send(surface, "commit")
    assert content(talk) == (170, 90)


def test_who_answers_in_time_is_left_alone(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = tell(talk, xdg, 158, 88)
    talk.send(xdg, "ack_configure", serial)
    talk.paint(surface, 190, 95, 0)
    talk.send(surface, "commit")
    wait(talk, SOON)
    assert content(talk) == (190, 95)


@pytest.mark.parametrize("size", [(0, 0), (208, 108), (800, 600)])
def test_a_window_that_is_not_too_large_has_time(talk, size):
    _, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, *size)
    assert talk.core.due is None


def test_earlier_answers_do_not_put_it_off(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    first = tell(talk, xdg, 158, 88)
    tell(talk, xdg, 108, 58)
    talk.send(xdg, "ack_configure", first)
    talk.send(surface, "commit")
    wait(talk, SOON)
    assert content(talk) == (100, 50)
    second = tell(talk, xdg, 98, 48)
    tell(talk, xdg, 88, 38)
    talk.send(xdg, "ack_configure", second)
    talk.send(surface, "commit")
    assert content(talk) == (80, 30)


@pytest.mark.parametrize("states", [(MAXIMIZED,), TILED])
def test_a_size_that_is_meant_is_not_exceeded(talk, states):
    """sway cuts off the part beyond its tile, however late or early."""
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = tell(talk, xdg, 308, 208, *states)
    talk.send(xdg, "ack_configure", serial)
    talk.paint(surface, 400, 400, 0)
    talk.send(surface, "commit")
    assert content(talk) == (300, 200)
    serial = tell(talk, xdg, 0, 0)
    talk.send(xdg, "ack_configure", serial)
    talk.send(surface, "commit")
    assert content(talk) == (400, 400)


def test_nor_by_who_never_answers(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, 308, 208, *TILED)
    wait(talk, SOON)
    assert content(talk) == (200, 100)
    talk.paint(surface, 400, 400, 0)
    talk.send(surface, "commit")
    assert content(talk) == (300, 200)


def test_a_window_that_filled_the_screen_and_is_late_is_cropped(talk):
    surface, xdg, top = talk.show(200, 100, 0)
    talk.send(top, "set_maximized")
    serial = tell(talk, xdg, 308, 208, MAXIMIZED)
    talk.send(xdg, "ack_configure", serial)
    talk.send(surface, "commit")
    ((frame, guest),) = guest_rects(talk)
    assert (frame[2:], guest[2:]) == ((300, 200), (200, 100))
    tell(talk, xdg, 158, 88)
    wait(talk, SOON)
    assert content(talk) == (150, 80)


def test_a_window_tiled_at_some_sides_chooses_its_size(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = tell(talk, xdg, 308, 208, *TILED[:3])
    talk.send(xdg, "ack_configure", serial)
    talk.paint(surface, 400, 400, 0)
    talk.send(surface, "commit")
    assert content(talk) == (400, 400)


def test_who_will_not_leave_real_fullscreen_gets_its_frame_back():
    with Talk(WindowRules("work", fullscreen=Fullscreen.REAL)) as it:
        surface, xdg, top = it.start().show(200, 100, 0)
        it.send(top, "set_fullscreen", 0)
        serial = tell(it, xdg, 1280, 800, FULLSCREEN)
        it.send(xdg, "ack_configure", serial)
        it.paint(surface, 1280, 800, 0)
        it.send(surface, "commit")
        frame = it.core.by_client[xdg].frame
        assert frame.edges.wide == 0
        tell(it, xdg, 308, 208)
        wait(it, SOON)
        assert frame.edges.wide == 8
        assert content(it) == (300, 200)


def really_fullscreen(t: Talk) -> tuple[int, int, int, int]:
    """A window without a frame: surface, xdg_surface, xdg_toplevel and a serial.

    The serial is of a second configure, which is not acknowledged.
    """
    surface, xdg, top = t.start().show(200, 100, 0)
    t.send(top, "set_fullscreen", 0)
    serial = tell(t, xdg, 1280, 800, FULLSCREEN)
    t.send(xdg, "ack_configure", serial)
    t.paint(surface, 1280, 800, 0)
    t.send(surface, "commit")
    assert t.core.by_client[xdg].frame.edges.wide == 0
    return surface, xdg, top, tell(t, xdg, 1280, 800, FULLSCREEN, ACTIVATED)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((1280, 800, *TILED), (1272, 792)),
        ((1280, 800, MAXIMIZED), (1272, 792)),
        ((0, 0), (1272, 792)),
        ((2000, 900), (1280, 800)),
        ((1288, 808), (1280, 800)),
    ],
)
def test_however_large_it_may_be_after_real_fullscreen(told, expected):
    """A tile may be as large as the screen, and weston leaves the size open."""
    with Talk(WindowRules("work", fullscreen=Fullscreen.REAL)) as it:
        _, xdg, _, _ = really_fullscreen(it)
        tell(it, xdg, *told)
        wait(it, SOON)
        assert it.core.by_client[xdg].frame.edges.wide == 8
        assert content(it) == expected


def test_an_acknowledgement_kept_for_later_takes_no_frame_away():
    with Talk(WindowRules("work", fullscreen=Fullscreen.REAL)) as it:
        surface, xdg, _, kept = really_fullscreen(it)
        last = tell(it, xdg, 308, 208)
        it.send(xdg, "ack_configure", kept)
        it.send(surface, "commit")
        assert it.core.by_client[xdg].frame.edges.wide == 8
        assert content(it) == (1272, 792)
        it.send(xdg, "ack_configure", last)
        it.send(surface, "commit")
        assert it.core.by_client[xdg].frame.edges.wide == 8


def test_sizes_acknowledged_before_it_was_shown_no_longer_count():
    with Talk(WindowRules("work", fullscreen=Fullscreen.REAL)) as it:
        surface = it.start().surface()
        xdg, top = it.toplevel(surface)
        it.send(top, "set_fullscreen", 0)
        it.send(surface, "commit")
        it.send(xdg, "ack_configure", tell(it, xdg, 1280, 800, FULLSCREEN))
        it.send(surface, "commit")
        assert it.core.by_client[xdg].frame.edges.wide == 0
        tell(it, xdg, 308, 208)
        it.paint(surface, 300, 200, 0)
        it.send(surface, "commit")
        assert it.core.by_client[xdg].frame.edges.wide == 8
        assert content(it) == (300, 200)


@pytest.mark.parametrize("menu", [True, False])
def test_the_next_window_on_its_surface_has_a_frame(menu):
    """What the last one acknowledged and never committed was its own."""
    with Talk(WindowRules("work", fullscreen=Fullscreen.REAL)) as it:
        surface = it.start().surface()
        xdg, top = it.toplevel(surface)
        it.send(top, "set_fullscreen", 0)
        it.send(surface, "commit")
        serial = tell(it, xdg, 1280, 800, FULLSCREEN)
        it.send(xdg, "ack_configure", serial)
        it.send(xdg, "set_window_geometry", 0, 0, 10, 10)
        for each in (top, xdg):
            it.send(each, "destroy")
        it.events.clear()  # their ids are given again
        _, parent, _ = it.show(200, 100, 0)
        made = it.make(it.shell, "get_xdg_surface", "xdg_surface", None, surface)
        if menu:
            positioner = it.make(it.shell, "create_positioner", "xdg_positioner")
            it.send(positioner, "set_size", 80, 60)
            it.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
            it.make(made, "get_popup", "xdg_popup", None, parent, positioner)
        else:
            it.make(made, "get_toplevel", "xdg_toplevel")
        it.send(surface, "commit")
        frame = it.core.by_client[made].frame
        assert frame.edges.wide == 8
        it.configured(made)
        it.paint(surface, 80, 60, 0)
        it.send(surface, "commit")
        assert frame.edges.wide == 8
        assert frame.outer == (88, 68)


def test_two_windows_are_late_one_after_the_other(talk):
    _, one, _ = talk.show(200, 100, 0)
    _, two, _ = talk.show(200, 100, 0)
    tell(talk, one, 108, 58)
    talk.core.by_client[two].role.due = 2 * SOON
    talk.core.by_client[two].role.configured = (50, 50)
    wait(talk, SOON)
    assert talk.core.due == 2 * SOON
    wait(talk, 2 * SOON)
    assert sorted(rect[2:] for rect, _ in guest_rects(talk)) == [(50, 50), (100, 50)]


def test_a_window_that_has_gone_is_not_late(talk):
    surface, xdg, top = talk.show(200, 100, 0)
    tell(talk, xdg, 108, 58)
    for each in (top, xdg, surface):
        talk.send(each, "destroy")
    wait(talk, SOON)
    assert talk.core.due is None


def test_a_window_that_was_hidden_begins_again(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, 108, 58, MAXIMIZED)
    wait(talk, SOON)
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    role = talk.core.by_client[xdg].role
    assert (role.due, role.cap, role.told_maximized) == (None, (0, 0), {})


def test_a_mistake_of_ours_ends_one_connection(talk, monkeypatch):
    _, xdg, _ = talk.show(200, 100, 0)
    tell(talk, xdg, 108, 58)

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commit, "relayout", fails)
    resize_timeout.hurry(talk.core, SOON)
    assert isinstance(talk.core.fault, InternalError)
    resize_timeout.hurry(talk.core, SOON)
