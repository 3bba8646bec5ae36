"""Bug reports of Wayland programs and proxies, replayed by raw clients: docs/reports.md.

Each conversation is held twice, with the compositor directly and through the filter, and
must end alike: with the same protocol error, or alive with the same events.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio

from tests.kit.wayland.client import GoneError, ServerError, Window, memfd
from tests.kit.wayland.input import CONTROL, Keyboard, Pointer
from tests.kit.wayland.stand import GUEST, SIZE, Stand, stand

BLUE = 0xFF0000FF
LEFT_CONTROL = 29


def told(talk: Callable[[Window], Any]) -> Callable[[Window], Any]:
    """Have a conversation end with what it returns, or with the error it was ended by.

    An error is the interface of the object that it names, and its code.
    """

    def held(w: Window) -> Any:
        try:
            found = talk(w)
            w.roundtrip()
        except ServerError as error:
            return w.kinds.get(error.object_id, "gone"), error.code
        except (GoneError, ConnectionError):
            assert w.error is not None, "ended without a word"
            return w.kinds.get(w.error.object_id, "gone"), w.error.code
        return found

    return held


def pool_grows(w: Window) -> bool:
    fd, size = memfd(6912), 6912
    pool = w.make(w.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    for _ in range(8):
        os.ftruncate(fd, size * 2)
        size *= 2
        w.send(pool, "resize", size)
    surface, _, _ = w.show(40, 30, BLUE)
    offset = size - 48 * 30 * 4
    buffer = w.make(pool, "create_buffer", "wl_buffer", None, offset, 48, 30, 48 * 4, 0)
    w.send(surface, "attach", buffer, 0, 0)
    w.shown(surface)
    os.close(fd)
    return True


def pool_shrinks(w: Window) -> None:
    fd = memfd(8192)
    pool = w.make(w.shm, "create_pool", "wl_shm_pool", None, 8192, fds=[fd])
    os.close(fd)
    w.send(pool, "resize", 4096)


def pool_of_nothing(w: Window) -> None:
    fd = memfd(0)
    w.make(w.shm, "create_pool", "wl_shm_pool", None, 0, fds=[fd])
    os.close(fd)


def _viewport(w: Window) -> tuple[int, int]:
    surface, _, _ = w.show(64, 64, BLUE)
    return surface, w.make(w.viewporter, "get_viewport", "wp_viewport", None, surface)


def source_outside(w: Window) -> None:
    surface, port = _viewport(w)
    w.send(port, "set_source", 0, 0, 96 << 8, 96 << 8)
    w.send(port, "set_destination", 64, 64)
    w.send(surface, "commit")


def source_outside_by_a_part_of_a_pixel(w: Window) -> None:
    surface, port = _viewport(w)
    w.send(port, "set_source", 0, 0, (64 << 8) + 1, 64 << 8)
    w.send(port, "set_destination", 64, 64)
    w.send(surface, "commit")


def destination_of_nothing(w: Window) -> None:
    surface, port = _viewport(w)
    w.send(port, "set_destination", 0, 0)
    w.send(surface, "commit")


def destination_taken_back(w: Window) -> None:
    surface, port = _viewport(w)
    w.send(port, "set_source", 0, 0, 32 << 8, 32 << 8)
    w.send(port, "set_destination", 50, 50)
    w.send(surface, "commit")
    w.send(port, "set_source", -256, -256, -256, -256)
    w.send(port, "set_destination", -1, -1)
    w.shown(surface)


def odd_size_of_scale_two(w: Window) -> None:
    surface, _, _ = w.show(64, 64, BLUE)
    w.send(surface, "set_buffer_scale", 2)
    w.paint(surface, 101, 51, BLUE)
    w.send(surface, "commit")


def scale_and_destination(w: Window) -> None:
    surface, port = _viewport(w)
    w.send(surface, "set_buffer_scale", 2)
    w.send(port, "set_destination", 80, 40)
    w.paint(surface, 120, 60, BLUE)
    w.shown(surface)


def attached_at_an_offset(w: Window) -> None:
    surface, _, _ = w.show(64, 64, BLUE)
    buffer = w.buffer(64, 64, BLUE)
    w.send(surface, "attach", buffer, 5, 5)
    w.send(surface, "commit")


def resized_by_no_edge(w: Window) -> None:
    _, _, top = w.show(64, 64, BLUE)
    seat = w.bind("wl_seat")
    w.send(top, "resize", seat, 1, 3)


def _popup(w: Window, parent: int | None, *, mapped: bool = True) -> tuple[int, ...]:
    surface = w.surface()
    xdg = w.make(w.shell, "get_xdg_surface", "xdg_surface", None, surface)
    place = w.make(w.shell, "create_positioner", "xdg_positioner")
    w.send(place, "set_size", 20, 20)
    w.send(place, "set_anchor_rect", 0, 0, 10, 10)
    popup = w.make(xdg, "get_popup", "xdg_popup", None, parent or 0, place)
    w.send(surface, "commit")
    if mapped:
        w.configured(xdg)
        w.paint(surface, 20, 20, BLUE)
        w.send(surface, "commit")
        w.roundtrip()
    return surface, xdg, popup


def menu_ends_before_its_submenu(w: Window) -> None:
    _, xdg, _ = w.show(64, 64, BLUE)
    first = _popup(w, xdg)
    _popup(w, first[1])
    w.send(first[2], "destroy")


def menu_of_no_window(w: Window) -> None:
    _popup(w, None, mapped=False)


def menu_made_and_ended_at_once(w: Window) -> None:
    _, xdg, _ = w.show(64, 64, BLUE)
    for _ in range(3):
        surface, menu, popup = _popup(w, xdg, mapped=False)
        w.send(popup, "destroy")
        w.send(menu, "destroy")
        w.send(surface, "destroy")


def menu_without_its_picture_ends(w: Window) -> None:
    _, xdg, _ = w.show(64, 64, BLUE)
    surface, menu, popup = _popup(w, xdg)
    w.send(surface, "attach", 0, 0, 0)
    w.send(surface, "commit")
    w.send(popup, "destroy")
    w.send(menu, "destroy")
    w.send(surface, "destroy")


def subsurfaces_are_ordered(w: Window) -> None:
    window, _, _ = w.show(64, 64, BLUE)
    one, other = w.surface(), w.surface()
    first, second = w.child(one, window, 0, 0), w.child(other, window, 5, 5)
    w.send(first, "place_above", other)
    w.send(second, "place_below", window)
    w.send(first, "place_above", window)
    w.send(window, "commit")


def subsurface_above_a_stranger(w: Window) -> None:
    window, _, _ = w.show(64, 64, BLUE)
    one, other = w.surface(), w.surface()
    first = w.child(one, window, 0, 0)
    w.send(first, "place_above", other)


def subsurface_has_another_parent(w: Window) -> None:
    window, _, _ = w.show(64, 64, BLUE)
    middle, leaf = w.surface(), w.surface()
    w.child(middle, window, 2, 2)
    role = w.child(leaf, window, 1, 1)
    w.paint(leaf, 10, 10, GUEST)
    w.send(leaf, "commit")
    w.shown(window)
    w.send(role, "destroy")
    w.child(leaf, middle, 0, 0)
    w.paint(middle, 20, 20, BLUE)
    w.send(leaf, "commit")
    w.send(middle, "commit")
    w.shown(window)


def token_of_a_surface_alone(w: Window) -> bool:
    surface, _, _ = w.show(64, 64, BLUE)
    manager = w.bind("xdg_activation_v1")
    token = w.make(manager, "get_activation_token", "xdg_activation_token_v1")
    w.send(token, "set_surface", surface)
    w.send(token, "commit")
    name = w.wait(lambda e: e[0] == token and e[2] == "done")[3][0]
    w.send(manager, "activate", name, surface)
    return bool(name)


TALKS = {
    pool_grows: True,
    pool_shrinks: ("wl_shm_pool", 2),
    pool_of_nothing: ("wl_shm", 1),
    source_outside: ("wp_viewport", 2),
    source_outside_by_a_part_of_a_pixel: ("wp_viewport", 2),
    destination_of_nothing: ("wp_viewport", 0),
    destination_taken_back: None,
    odd_size_of_scale_two: None,
    scale_and_destination: None,
    attached_at_an_offset: None,
    resized_by_no_edge: ("xdg_toplevel", 0),
    menu_ends_before_its_submenu: ("xdg_wm_base", 2),
    menu_of_no_window: ("xdg_wm_base", 3),
    menu_made_and_ended_at_once: None,
    menu_without_its_picture_ends: None,
    subsurfaces_are_ordered: None,
    subsurface_above_a_stranger: ("wl_subsurface", 0),
    subsurface_has_another_parent: None,
    token_of_a_surface_alone: True,
}
OLD = {
    source_outside: None,
    source_outside_by_a_part_of_a_pixel: None,
    resized_by_no_edge: None,
    menu_of_no_window: ("xdg_surface", 1),
}
"""What sway 1.7 answers in place of the error that the protocol has for it."""


async def both(it: Stand, talk: Callable[[Window], Any]) -> tuple[Any, Any]:
    """Hold a conversation with the compositor, and through the filter."""
    held = told(talk)

    def direct() -> Any:
        with Window(it.comp.display).start() as client:
            return held(client)

    return await trio.to_thread.run_sync(direct), await it.client(held)


async def test_a_conversation_ends_as_it_does_without_the_filter():
    async with stand() as it:
        found = {}
        for talk in TALKS:
            found[talk] = await both(it, talk)
            print(talk.__name__, found[talk])
        expected = {talk: (OLD.get(talk, end), end) for talk, end in TALKS.items()}
        assert found == expected


async def test_modifiers_that_are_held_are_told_when_a_window_gets_the_keyboard():
    def talk(w: Window) -> list[Any]:
        seat = w.bind("wl_seat")
        keyboard = w.make(seat, "get_keyboard", "wl_keyboard")
        w.show(64, 64, BLUE)
        w.wait(lambda e: e[0] == keyboard and e[2] == "modifiers")
        names = ("enter", "modifiers")
        events = [e for e in w.events if e[0] == keyboard and e[2] in names]
        return [(name, args[1:] if name == "modifiers" else None)
                for _, _, name, args in events[:2]]  # fmt: skip

    async with stand() as it:
        with Keyboard(it.comp.display) as keys:
            keys.change(LEFT_CONTROL, 1)
            keys.modifiers(CONTROL)
            told_so = [("enter", None), ("modifiers", [CONTROL, 0, 0, 0])]
            assert await both(it, talk) == (told_so, told_so)


async def test_a_keyboard_that_is_taken_away_ends_no_program_that_asks_for_it():
    async with stand() as it:

        def talk(w: Window) -> bool:
            seat = w.bind("wl_seat")
            w.show(64, 64, BLUE)
            with Keyboard(it.comp.display):
                w.wait(
                    lambda e: e[0] == seat and e[2] == "capabilities" and e[3][0] & 2
                )
                before = len(w.events)
            keyboard = w.make(seat, "get_keyboard", "wl_keyboard")
            w.wait(
                lambda e: e[0] == seat and e[2] == "capabilities" and not e[3][0] & 2,
                since=before,
            )
            w.send(keyboard, "release")
            w.roundtrip()
            return True

        assert await both(it, talk) == (True, True)


async def test_a_picture_that_waits_for_a_screen_is_shown_when_it_is_back():
    async with stand() as it:

        def talk(w: Window) -> bool:
            surface, _, _ = w.show(64, 64, BLUE)
            it.order("output HEADLESS-1 disable")
            callback = w.make(surface, "frame", "wl_callback")
            w.paint(surface, 64, 64, GUEST)
            w.send(surface, "commit")
            w.roundtrip()
            it.order("output HEADLESS-1 enable")
            w.wait(lambda e: e[0] == callback and e[2] == "done")
            return True

        assert await both(it, talk) == (True, True)


def _drag(w: Window, it: Stand, mouse: Pointer) -> tuple[int, int, int]:
    """Begin a drag inside of a window; return the offer, its serial and the source."""
    manager, seat = w.bind("wl_data_device_manager"), w.bind("wl_seat")
    pointer = w.make(seat, "get_pointer", "wl_pointer")
    device = w.make(manager, "get_data_device", "wl_data_device", None, seat)
    surface, _, _ = w.show(200, 200, BLUE)
    w.roundtrip()
    (node,) = it.tree()
    x, y = node["rect"]["x"] + 100, node["rect"]["y"] + 100
    mouse.move(x, y)
    w.wait(lambda e: e[0] == pointer and e[2] == "enter")
    mouse.button(True)
    serial = w.wait(lambda e: e[0] == pointer and e[2] == "button")[3][0]
    source = w.make(manager, "create_data_source", "wl_data_source")
    for mime in (b"text/x-moz-url", b"text/uri-list", b"text/plain"):
        w.send(source, "offer", mime)
    w.send(source, "set_actions", 3)
    w.send(device, "start_drag", source, surface, 0, serial)
    w.roundtrip()
    mouse.move(x + 9, y + 9)
    enter = w.wait(lambda e: e[0] == device and e[2] == "enter")
    return enter[3][4], enter[3][0], source


async def test_a_drop_is_finished_once_its_bytes_were_read():
    async with stand() as it:

        def talk(w: Window) -> list[Any]:
            with Pointer(it.comp.display, SIZE) as mouse:
                offer, serial, source = _drag(w, it, mouse)
                mimes = [e[3][0] for e in w.events if e[0] == offer and e[2] == "offer"]
                for _ in range(3):  # as Dolphin does at each motion
                    w.send(offer, "set_actions", 3, 1)
                    w.send(offer, "accept", serial, b"text/uri-list")
                w.wait(lambda e: e[0] == source and e[2] == "action")
                mouse.button(False)
                w.wait(lambda e: e[1] == "wl_data_device" and e[2] == "drop")
                reading, writing = os.pipe()
                w.send(offer, "receive", b"text/uri-list", fds=[writing])
                os.close(writing)
                mime = w.wait(lambda e: e[0] == source and e[2] == "send")[3][0]
                with open(w.fds.pop(0), "wb") as file:
                    file.write(b"file:///tmp/a\r\n")
                with open(reading, "rb") as file:
                    content = file.read()
                w.send(offer, "finish")
                w.send(offer, "destroy")
                w.wait(lambda e: e[0] == source and e[2] == "dnd_finished")
                return [sorted(mimes), mime, content]

        end = [
            [b"text/plain", b"text/uri-list", b"text/x-moz-url"],
            b"text/uri-list",
            b"file:///tmp/a\r\n",
        ]
        assert await both(it, talk) == (end, end)


async def test_a_drop_that_was_not_is_not_finished():
    async with stand() as it:

        def talk(w: Window) -> None:
            with Pointer(it.comp.display, SIZE) as mouse:
                offer, _, _ = _drag(w, it, mouse)
                try:
                    w.send(offer, "finish")
                    w.roundtrip()
                finally:
                    mouse.button(False)

        # The compositor's refusal ends it, which the filter tells as the connection's end.
        assert await both(it, talk) == (("wl_data_offer", 0), ("wl_display", 3))
