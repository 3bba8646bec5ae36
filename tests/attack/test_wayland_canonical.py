"""Legal orders that ended or froze a compositor, and reach none through the filter.

Each is what a program may send without an act of the user, except for the press that
begins a drag.  ``docs/wayland.md`` has the table of what is sent instead.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from tests.attack.test_wayland_alive import ask_menu
from tests.attack.test_wayland_pixels import PAINT
from tests.kit.wayland.client import ServerError, Window
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer
from tests.kit.wayland.stand import FRAME, filtered
from tests.kit.wayland.virtual import compositor

FILLS = WindowRules("work", color=FRAME, fullscreen=Fullscreen.REAL)
DECORATIONS = "zxdg_decoration_manager_v1"
DECORATION = "zxdg_toplevel_decoration_v1"
KDE_DECORATIONS = "org_kde_kwin_server_decoration_manager"
KDE_DECORATION = "org_kde_kwin_server_decoration"
EXPORTER, EXPORTED = "zxdg_exporter_v2", "zxdg_exported_v2"
IMPORTER, IMPORTED = "zxdg_importer_v2", "zxdg_imported_v2"
SERVER_SIDE = 2
ANSWER_SECONDS = 20


async def assert_alive(it) -> None:
    """Fail unless the compositor runs and shows another client its window."""
    with trio.fail_after(ANSWER_SECONDS):
        await it.client(lambda c: c.show(120, 80, PAINT))
    assert it.comp.child.popen.poll() is None


# -- decorations ------------------------------------------------------------------------


def decorate(c: Window, top: int) -> int:
    manager = c.bind(DECORATIONS)
    return c.make(manager, "get_toplevel_decoration", DECORATION, None, top)


def set_mode(c: Window, _top: int, decoration: int) -> int:
    c.send(decoration, "set_mode", SERVER_SIDE)
    return decoration


def unset_mode(c: Window, _top: int, decoration: int) -> int:
    c.send(decoration, "unset_mode")
    return decoration


def decorate_again(c: Window, top: int, decoration: int) -> int:
    c.send(decoration, "destroy")
    return decorate(c, top)


@pytest.mark.parametrize("request_", [set_mode, unset_mode, decorate_again])
@pytest.mark.parametrize("kind", ["sway", "mutter", "kwin", "weston"])
async def test_decoration_of_unmapped_window_ends_no_compositor(kind, request_):
    def attack(c: Window) -> None:
        if DECORATIONS not in c.globals:
            pytest.skip(f"{kind} draws no title bars")
        surface = c.surface()
        xdg, top = c.toplevel(surface)
        decoration = decorate(c, top)
        c.send(surface, "commit")
        c.configured(xdg)
        c.paint(surface, 300, 200, PAINT)
        c.send(surface, "commit")
        c.roundtrip()
        c.send(surface, "attach", 0, 0, 0)
        c.send(surface, "commit")
        decoration = request_(c, top, decoration)
        c.roundtrip()
        c.send(surface, "commit")
        request_(c, top, decoration)
        c.roundtrip()

    async with compositor(kind) as comp, filtered(comp, FILLS) as it:
        await it.client(attack)
        await assert_alive(it)


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("kind", ["sway", "kwin"])
async def test_kde_decoration_of_unmapped_window_ends_no_compositor(kind, again):
    def attack(c: Window) -> None:
        manager = c.bind(KDE_DECORATIONS)
        surface = c.surface()
        decoration = c.make(manager, "create", KDE_DECORATION, None, surface)
        for _ in range(2):
            xdg, top = c.toplevel(surface)
            c.send(surface, "commit")
            c.configured(xdg)
            c.paint(surface, 300, 200, PAINT)
            c.send(surface, "commit")
            c.roundtrip()
            c.send(surface, "attach", 0, 0, 0)
            c.send(surface, "commit")
            c.send(decoration, "request_mode", SERVER_SIDE)
            if again:
                c.send(decoration, "release")
                decoration = c.make(manager, "create", KDE_DECORATION, None, surface)
            c.roundtrip()
            c.send(surface, "commit")
            c.send(decoration, "request_mode", 1)
            c.roundtrip()
            c.send(top, "destroy")
            c.send(xdg, "destroy")

    async with compositor(kind) as comp, filtered(comp, FILLS) as it:
        await it.client(attack)
        await assert_alive(it)


# -- parents ------------------------------------------------------------------------------


def fill_screen(c: Window) -> None:
    """Have the compositor walk over the parents of all windows, by another window."""
    surface = c.surface()
    xdg, top = c.toplevel(surface)
    c.send(top, "set_fullscreen", 0)
    c.send(surface, "commit")
    c.configured(xdg)
    c.paint(surface, 640, 400, PAINT)
    callback = c.make(surface, "frame", "wl_callback")
    c.send(surface, "commit")
    c.wait(lambda e: e[0] == callback and e[2] == "done", ANSWER_SECONDS)
    c.sock.settimeout(ANSWER_SECONDS)
    c.roundtrip()


def attempt(c: Window, attack: Callable[[Window], None]) -> ServerError | None:
    try:
        attack(c)
    except ServerError as error:
        return error
    return None


def export(c: Window, surface: int) -> bytes:
    exported = c.make(c.bind(EXPORTER), "export_toplevel", EXPORTED, None, surface)
    return c.wait(lambda e: e[0] == exported and e[2] == "handle")[3][0]


def set_imported_parent(c: Window, handle: bytes, child: int) -> int:
    imported = c.make(c.bind(IMPORTER), "import_toplevel", IMPORTED, None, handle)
    c.send(imported, "set_parent_of", child)
    c.roundtrip()
    return imported


@pytest.mark.parametrize("kind", ["sway", "mutter", "kwin", "weston"])
async def test_ring_through_unmapped_parent_freezes_no_compositor(kind):
    def attack(c: Window) -> None:
        _, _, first = c.show(200, 100, PAINT)
        middle_surface, _, middle = c.show(200, 100, PAINT)
        _, _, last = c.show(200, 100, PAINT)
        c.send(middle, "set_parent", first)
        c.send(last, "set_parent", middle)
        c.roundtrip()
        c.send(middle_surface, "attach", 0, 0, 0)
        c.send(middle_surface, "commit")
        c.send(middle, "set_parent", 0)
        c.send(first, "set_parent", last)
        fill_screen(c)

    async with compositor(kind) as comp, filtered(comp, FILLS) as it:
        error = await it.client(lambda c: attempt(c, attack))
        assert error.text == "the window is its own parent"
        await assert_alive(it)


@pytest.mark.parametrize("kind", ["sway", "mutter", "kwin", "weston"])
async def test_ring_by_late_import_freezes_no_compositor(kind):
    async with compositor(kind) as comp, filtered(comp, FILLS) as it:

        def attack(first_client: Window) -> None:
            if EXPORTER not in first_client.globals:
                pytest.skip(f"{kind} has no xdg-foreign")
            with Window(it.path).start() as second_client:
                surface = first_client.surface()
                xdg, _ = first_client.toplevel(surface)
                handle = export(first_client, surface)
                child, _, child_top = second_client.show(200, 100, PAINT)
                third, _, _ = second_client.show(200, 100, PAINT)
                set_imported_parent(second_client, handle, child)
                second_client.send(child_top, "set_parent", 0)
                second_client.roundtrip()
                first_client.send(surface, "commit")
                first_client.configured(xdg)
                first_client.paint(surface, 200, 100, PAINT)
                first_client.send(surface, "commit")
                first_client.roundtrip()
                set_imported_parent(first_client, export(second_client, child), surface)
                set_imported_parent(second_client, handle, third)
                fill_screen(first_client)

        await it.client(attack)
        await assert_alive(it)


# -- menus -------------------------------------------------------------------------------


def unmap_window(c: Window, surface: int, _top: int) -> None:
    c.send(surface, "attach", 0, 0, 0)
    c.send(surface, "commit")


def destroy_window(c: Window, _surface: int, top: int) -> None:
    c.send(top, "destroy")


@pytest.mark.parametrize("end", [unmap_window, destroy_window])
@pytest.mark.parametrize("kind", ["mutter", "sway", "kwin", "weston"])
async def test_window_that_ends_before_its_menu_is_drawn_keeps_its_program(kind, end):
    """mutter 43 ended the program: "destroyed popup not top most popup"."""

    def attack(c: Window) -> None:
        surface, xdg, top = c.show(300, 200, PAINT)
        menu, menu_xdg, popup = ask_menu(c, xdg)
        c.send(menu, "commit")
        c.wait(lambda e: e[0] == menu_xdg and e[2] == "configure")
        end(c, surface, top)
        c.wait(lambda e: e[0] == popup and e[2] == "popup_done")
        c.roundtrip()
        for oid in (popup, menu_xdg, menu):
            c.send(oid, "destroy")
        c.roundtrip()

    async with compositor(kind) as comp, filtered(comp) as it:
        await it.client(attack)
        await assert_alive(it)
        assert [str(error) for error in it.ends] == []


# -- drags --------------------------------------------------------------------------------


def start_sourceless_drag(c: Window, pointer: GnomePointer) -> list[str]:
    """Begin a drag without a source by the user's press; return its events."""
    seat = c.bind("wl_seat", 5)
    c.wait(lambda e: e[0] == seat and e[2] == "capabilities" and e[3][0] & 1)
    c.make(seat, "get_pointer", "wl_pointer")
    data = c.bind("wl_data_device_manager")
    device = c.make(data, "get_data_device", "wl_data_device", None, seat)
    surface, _, _ = c.show(1000, 700, PAINT)
    pointer.move(640, 400)
    c.wait(lambda e: e[1:3] == ("wl_pointer", "enter"))
    pointer.button(True)
    serial = c.wait(lambda e: e[1:3] == ("wl_pointer", "button"))[3][0]
    c.send(device, "start_drag", 0, surface, 0, serial)
    c.roundtrip()
    pointer.move(660, 410)
    enter = c.wait(lambda e: e[0] == device and e[2] == "enter")
    assert enter[3][4] == 0, "a drag without a source has no offer"
    pointer.move(670, 415)
    c.wait(lambda e: e[0] == device and e[2] == "motion")
    pointer.button(False)
    c.wait(lambda e: e[0] == device and e[2] in {"drop", "leave"})
    return [e[2] for e in c.events if e[0] == device]


async def test_drag_without_source_does_not_end_mutter():
    async with compositor("mutter") as comp, filtered(comp) as it:
        bus = (comp.display.parent / "address").read_text().strip()
        with await GnomeKeyboard.of(bus) as session:
            pointer = GnomePointer(session)
            for point in ((640, 400), (5, 5)):
                pointer.move(*point)
            events = await it.client(lambda c: start_sourceless_drag(c, pointer))
        assert "drop" in events
        await assert_alive(it)


# -- seats without devices ------------------------------------------------------------------


def ask_for_devices(c: Window) -> None:
    """Ask a seat for all that it does not have, as a careless program might."""
    if "wl_seat" not in c.globals:
        pytest.skip("the compositor has no seat without devices")
    seat = c.bind("wl_seat", 5)
    c.roundtrip()
    pointer = c.make(seat, "get_pointer", "wl_pointer")
    c.make(seat, "get_keyboard", "wl_keyboard")
    c.make(seat, "get_touch", "wl_touch")
    for interface, name, kind, source in (
        ("zwp_relative_pointer_manager_v1", "get_relative_pointer", "zwp_relative_pointer_v1", pointer),
        ("zwp_pointer_gestures_v1", "get_swipe_gesture", "zwp_pointer_gesture_swipe_v1", pointer),
        ("zwp_pointer_gestures_v1", "get_pinch_gesture", "zwp_pointer_gesture_pinch_v1", pointer),
        ("wp_cursor_shape_manager_v1", "get_pointer", "wp_cursor_shape_device_v1", pointer),
        ("zwp_text_input_manager_v3", "get_text_input", "zwp_text_input_v3", seat),
        ("zwp_tablet_manager_v2", "get_tablet_seat", "zwp_tablet_seat_v2", seat),
        ("wl_data_device_manager", "get_data_device", "wl_data_device", seat),
    ):  # fmt: skip
        if interface in c.globals:
            c.make(c.bind(interface), name, kind, None, source)
    c.roundtrip()
    c.show(120, 80, PAINT)


@pytest.mark.parametrize("kind", ["mutter", "sway", "kwin", "weston"])
async def test_devices_of_bare_seat_end_no_compositor(kind):
    """mutter 43 ended by a keyboard on a seat that never had first_client."""
    async with compositor(kind) as comp, filtered(comp) as it:
        await it.client(ask_for_devices)
        await assert_alive(it)
