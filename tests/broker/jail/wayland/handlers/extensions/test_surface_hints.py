"""Content types and pictures that wait: held for the commit, and never many."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.model import Subsurface
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk

TYPES, TYPE = "wp_content_type_manager_v1", "wp_content_type_v1"
PACING, FIFO = "wp_fifo_manager_v1", "wp_fifo_v1"
VIDEO = 2


@pytest.fixture
def talk():
    made = Talk(WindowRules("work"))
    made.start()
    yield made
    made.close()
    assert not made.machine.leaked()
    assert not any(made.sandbox.totals.values()), made.sandbox.totals


def typed(talk: Talk, surface: int) -> int:
    manager = talk.bind(TYPES)
    return talk.make(manager, "get_surface_content_type", TYPE, None, surface)


def paced(talk: Talk, surface: int) -> int:
    manager = talk.bind(PACING)
    return talk.make(manager, "get_fifo", FIFO, None, surface)


def types(talk: Talk) -> list:
    return [args[0] for args in talk.told(TYPE, "set_content_type")]


def draw(talk: Talk, surface: int, fifo: int, *names: str) -> None:
    for name in names:
        talk.send(fifo, name)
    talk.paint(surface, 40, 30, 0)
    talk.send(surface, "commit")


# -- content types -----------------------------------------------------------------------


def test_type_waits_for_the_commit(talk):
    surface, _, _ = talk.show(40, 30, 0)
    hint = typed(talk, surface)
    talk.send(hint, "set_content_type", VIDEO)
    talk.core.show_again(talk.core.by_client[surface])
    talk.pump()
    assert types(talk) == [], "a commit of ours is not the client's"
    talk.send(surface, "commit")
    assert types(talk) == [VIDEO]


@pytest.mark.parametrize("kind", [4, 0xFFFFFFFF])
def test_unknown_type_goes_nowhere(talk, kind):
    surface, _, _ = talk.show(40, 30, 0)
    talk.send(typed(talk, surface), "set_content_type", kind)
    talk.send(surface, "commit")
    assert types(talk) == []


@pytest.mark.parametrize("make", [typed, paced])
def test_second_object_of_a_surface_is_an_error(talk, make):
    surface, _, _ = talk.show(40, 30, 0)
    make(talk, surface)
    with pytest.raises(ServerError) as caught:
        make(talk, surface)
    assert caught.value.code == 0


@pytest.mark.parametrize("make", [typed, paced])
def test_surface_may_have_another_when_the_first_has_gone(talk, make):
    surface, _, _ = talk.show(40, 30, 0)
    talk.send(make(talk, surface), "destroy")
    make(talk, surface)


def test_type_of_an_object_that_is_gone_is_not_sent(talk):
    surface, _, _ = talk.show(40, 30, 0)
    hint = typed(talk, surface)
    talk.send(hint, "set_content_type", VIDEO)
    talk.send(hint, "destroy")
    talk.send(surface, "commit")
    assert types(talk) == []


def test_type_of_a_surface_that_is_gone_is_harmless(talk):
    surface = talk.surface()
    hint = typed(talk, surface)
    talk.send(surface, "destroy")
    talk.send(hint, "set_content_type", VIDEO)
    talk.send(hint, "destroy")


# -- pictures that wait ------------------------------------------------------------------


def test_whole_frame_waits(talk):
    surface, xdg, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    draw(talk, surface, fifo, "set_barrier")
    draw(talk, surface, fifo, "wait_barrier")
    root = talk.server_side(xdg).state["surface"]
    ((made, waits_on),) = talk.told(PACING, "get_fifo")
    assert waits_on is root, "not the content alone"
    assert len(talk.told(FIFO, "set_barrier")) == 1
    assert len(talk.told(FIFO, "wait_barrier")) == 1
    assert made.kind == FIFO


def test_barrier_waits_for_the_commit(talk):
    surface, _, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    talk.send(fifo, "wait_barrier")
    talk.core.show_again(talk.core.by_client[surface])
    talk.pump()
    assert talk.told(FIFO, "wait_barrier") == []


def unshown(talk: Talk) -> list:
    """The compositor shows nothing: no callback is answered."""
    kept: list = []
    real = talk.model.tell

    def tell(thing, name: str, *args) -> None:
        if (thing.kind, name) == ("wl_callback", "done") and args == (1,):
            kept.append((thing, name, args))
        else:
            real(thing, name, *args)

    talk.model.tell = tell
    gone = talk.model._remove
    talk.model._remove = lambda t: None if t.kind == "wl_callback" else gone(t)
    return kept


def test_few_pictures_wait_when_none_is_shown(talk):
    surface, _, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    unshown(talk)
    for _ in range(limits.WAYLAND_FIFO_WAITS + 20):
        draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert len(talk.told(FIFO, "wait_barrier")) == limits.WAYLAND_FIFO_WAITS


def test_pictures_wait_again_when_some_were_shown(talk):
    surface, _, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    for _ in range(10):
        draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert len(talk.told(FIFO, "wait_barrier")) == 10


def test_a_picture_that_is_shown_late_makes_room_for_one_alone(talk):
    surface, _, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    real, gone = talk.model.tell, talk.model._remove
    kept = unshown(talk)
    for shown in range(1, 20):
        for _ in range(2):
            draw(talk, surface, fifo, "set_barrier", "wait_barrier")
        thing, name, args = kept.pop(0)
        real(thing, name, *args)
        gone(thing)
        talk.pump()
        waits = len(talk.told(FIFO, "wait_barrier")) - shown
        assert waits <= limits.WAYLAND_FIFO_WAITS


def test_nothing_waits_under_a_promoted_surface(talk):
    surface, xdg, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    sub = Subsurface("wl_subsurface", 1)
    sub.promoted = SimpleNamespace(window=talk.core.by_client[xdg])
    talk.core.promoted.add(sub)
    draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert talk.told(FIFO, "wait_barrier") == []
    talk.core.promoted.clear()
    draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert len(talk.told(FIFO, "wait_barrier")) == 1


def test_nothing_waits_under_a_menu(talk):
    surface, xdg, _ = talk.show(40, 30, 0)
    fifo = paced(talk, surface)
    positioner = talk.make(talk.shell, "create_positioner", "xdg_positioner")
    talk.send(positioner, "set_size", 20, 20)
    talk.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
    menu = talk.surface()
    above = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, menu)
    popup = talk.make(above, "get_popup", "xdg_popup", None, xdg, positioner)
    draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert talk.told(FIFO, "wait_barrier") == []
    talk.send(popup, "destroy")
    draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert len(talk.told(FIFO, "wait_barrier")) == 1


def test_fifo_of_a_surface_that_is_gone_is_an_error(talk):
    surface = talk.surface()
    fifo = paced(talk, surface)
    talk.send(surface, "destroy")
    with pytest.raises(ServerError) as caught:
        talk.send(fifo, "wait_barrier")
    assert caught.value.code == 0


def test_surface_without_a_window_waits_for_nothing(talk):
    surface = talk.surface()
    fifo = paced(talk, surface)
    draw(talk, surface, fifo, "set_barrier", "wait_barrier")
    assert not talk.told(PACING, "get_fifo")


def test_window_that_ends_takes_its_fifo_along(talk):
    surface, xdg, top = talk.show(40, 30, 0)
    draw(talk, surface, paced(talk, surface), "set_barrier")
    talk.send(top, "destroy")
    talk.send(xdg, "destroy")
    assert talk.told(FIFO, "destroy") == [[]]
    assert not [t for t in talk.model.things.values() if t.kind == FIFO]


def test_commit_timing_is_not_offered(talk):
    assert "wp_commit_timing_manager_v1" not in talk.globals
