"""The pointer's picture over a frame is ours."""

from __future__ import annotations

import pytest

from broker.jail.wayland.handlers.cursor import MANAGER
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

NO_SHAPES = [row for row in GLOBALS if row[0] != MANAGER]


def started(offers=None) -> Talk:
    it = Talk(model=Model(offers)).start()
    it.seat = it.bind("wl_seat")
    it.pointer = it.make(it.seat, "get_pointer", "wl_pointer")
    it.win, it.xdg, it.top = it.show(200, 100, 0)
    return it


def says(talk: Talk, name: str, *args) -> None:
    talk.all_hear("wl_pointer", name, *args)


def onto_frame(talk: Talk, x: int, y: int, serial: int = 7) -> None:
    says(talk, "enter", serial, talk.model.roots()[0], x * 256, y * 256)


@pytest.mark.parametrize(
    ("x", "y", "shape"),
    [
        (100, 1, 1),
        (1, 50, 25),
        (207, 50, 18),
        (100, 107, 22),
        (1, 1, 21),
        (207, 1, 20),
        (1, 107, 24),
        (207, 107, 23),
        (100, 50, 1),
    ],
)
def test_the_shape_says_what_a_press_would_do(x, y, shape):
    with started() as it:
        onto_frame(it, x, y)
        told = it.told("wp_cursor_shape_device_v1", "set_shape")
        assert told == [[7, shape]]


def test_the_shape_follows_the_pointer_along_the_frame():
    with started() as it:
        onto_frame(it, 1, 50)
        says(it, "motion", 1, 256, 51 * 256)
        says(it, "motion", 2, 256, 256)
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == [[7, 25], [7, 21]]


def test_an_arrow_where_the_compositor_has_no_shapes():
    with started(NO_SHAPES) as it:
        onto_frame(it, 100, 1)
        onto_frame(it, 1, 50, serial=9)
        first, second = it.told("wl_pointer", "set_cursor")
        assert first[0] == 7
        assert second[0] == 9
        assert first[1] is second[1], "one surface for all"
        assert first[1].now["buffer"].state["size"] == (12, 18)
    assert it.machine.leaked() == []


def test_a_pointer_on_the_content_is_the_applications():
    with started() as it:
        says(it, "enter", 7, it.server_side(it.win), 256, 256)
        says(it, "motion", 5, 0, 0)
        says(it, "motion", 6, 512, 512)
        # One of ours at the enter, and then no more.
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == [[7, 1]]
        assert it.told("wl_pointer", "set_cursor") == []


def test_a_client_without_a_pointer_leaves_no_picture_on_its_frame():
    with started() as it:
        says(it, "enter", 6, it.server_side(it.win), 256, 256)
        it.send(it.pointer, "set_cursor", 6, it.surface(), 0, 0)
        it.send(it.pointer, "release")
        says(it, "leave", 7, it.server_side(it.win))
        onto_frame(it, 1, 50, serial=8)
        shapes = it.told("wp_cursor_shape_device_v1", "set_shape")
        assert shapes == [[6, 1], [8, 25]]


def test_nor_the_picture_of_where_the_pointer_came_from_on_its_content():
    with started() as it:
        it.send(it.pointer, "release")
        says(it, "enter", 6, it.server_side(it.win), 256, 256)
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == [[6, 1]]


def test_nor_on_the_content_of_a_client_that_has_not_set_one_yet():
    """It may never do so; its own comes after ours."""
    with started() as it:
        says(it, "enter", 6, it.server_side(it.win), 256, 256)
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == [[6, 1]]
        image = it.surface()
        it.send(it.pointer, "set_cursor", 6, image, 0, 0)
        assert it.told("wl_pointer", "set_cursor")[-1][0] == 6
        assert it.server_side(image).role == "cursor"


def test_our_pointer_goes_and_comes_with_the_seats():
    with started() as it:
        onto_frame(it, 1, 1)
        it.all_hear("wl_seat", "capabilities", 2)
        assert it.told("wp_cursor_shape_device_v1", "destroy") == [[]]
        assert it.told("wl_pointer", "release") == [[]]
        it.all_hear("wl_seat", "capabilities", 3)
        assert len(it.told("wl_seat", "get_pointer")) == 3


def test_a_last_word_about_the_picture_comes_too_late_on_the_frame():
    """Some compositors look neither at serials nor at which surface it is."""
    with started() as it:
        manager = it.bind(MANAGER)
        device = it.make(
            manager, "get_pointer", "wp_cursor_shape_device_v1", None, it.pointer
        )
        says(it, "enter", 6, it.server_side(it.win), 256, 256)
        says(it, "leave", 7, it.server_side(it.win))
        onto_frame(it, 1, 50, serial=8)
        before = it.told("wp_cursor_shape_device_v1", "set_shape")
        for serial in (6, 7, 8):
            it.send(it.pointer, "set_cursor", serial, it.surface(), 0, 0)
            it.send(device, "set_shape", serial, 3)
        assert it.told("wl_pointer", "set_cursor") == []
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == before


def test_only_the_serial_of_the_latest_enter_sets_a_picture():
    with started() as it:
        device = it.make(
            it.bind(MANAGER),
            "get_pointer",
            "wp_cursor_shape_device_v1",
            None,
            it.pointer,
        )
        for serial in (6, 8):
            says(it, "enter", serial, it.server_side(it.win), 256, 256)
            says(it, "leave", serial + 1, it.server_side(it.win))
        says(it, "enter", 10, it.server_side(it.win), 256, 256)
        for serial in (6, 8, 10):
            it.send(it.pointer, "set_cursor", serial, 0, 0, 0)
            it.send(device, "set_shape", serial, 3)
        assert [a[0] for a in it.told("wl_pointer", "set_cursor")] == [10]
        ours = [[6, 1], [8, 1], [10, 1]]
        assert it.told("wp_cursor_shape_device_v1", "set_shape") == [*ours, [10, 3]]


def test_an_image_that_the_compositor_was_not_told_of_has_no_offset():
    """For it that surface is none of a pointer's; the fuzz target found it."""
    with Talk(model=Model(GLOBALS)).start(compositor=4) as it:
        pointer = it.make(it.bind("wl_seat"), "get_pointer", "wl_pointer")
        it.show(200, 100, 0)
        cursor = it.surface()
        it.send(pointer, "set_cursor", 9, cursor, 0, 0)
        it.send(cursor, "attach", it.buffer(8, 8), 5, 5)
        it.send(cursor, "commit")
        assert it.told("wl_surface", "attach")[-1][1:] == [0, 0]
