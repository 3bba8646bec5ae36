"""What a request names is alive, mapped and shown: each answer of the table is tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.core.streams.wayland_verdicts import OPTIONS
from broker.jail.wayland import handler_table
from broker.jail.wayland.canonical import ORDERS
from broker.jail.wayland.protocol.dispatch import FORWARD
from broker.jail.wayland.protocol.signatures import requests_of
from broker.jail.wayland.protocol.tables import INTERFACES
from broker.jail.wayland.scene import resize_timeout
from docs.tables.wayland.needs import NEEDS, Needs
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

OFFERS = [
    *(pair for pair in GLOBALS if pair[0] != "wl_seat"),
    ("zwp_relative_pointer_manager_v1", 1),
    ("zwp_pointer_gestures_v1", 3),
    ("xdg_wm_dialog_v1", 1),
    ("xdg_system_bell_v1", 1),
    ("wl_seat", 8),
]
PRESS = 50
POINTERLESS = 6
"""wl_seat.capability: a keyboard and a touch screen."""


class Actor(Talk):
    """A client with a window, a pressed button, and the keyboard if ``focused``."""

    def __init__(self, *, focused: bool = True) -> None:
        rules = WindowRules("work", fullscreen=Fullscreen.REAL, allow=OPTIONS)
        super().__init__(rules, model=Model(OFFERS))
        self.start()
        self.seat = self.bind("wl_seat")
        self.screen = self.bind("wl_output")
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.win, self.xdg, self.top = self.show(200, 100, 0)
        surface = self.server_side(self.win)
        if focused:
            self.all_hear("wl_keyboard", "enter", PRESS - 2, self.root(), b"")
        self.all_hear("wl_pointer", "enter", PRESS - 1, surface, 256, 256)
        self.all_hear("wl_pointer", "button", PRESS, 1, 0x110, 1)

    def root(self):
        return self.server_side(self.xdg).state["surface"]

    def manager(self, interface: str) -> int:
        return self.bind(interface)

    def gone(self, interface: str) -> None:
        """The compositor takes a global away."""
        (name,) = [n for n, (i, _) in self.model.offers.items() if i == interface]
        for registry in self.model.registries:
            self.model.tell(self.model.things[registry], "global_remove", name)
        self.pump()

    def unmap(self) -> None:
        self.send(self.win, "attach", 0, 0, 0)
        self.send(self.win, "commit")

    def menu(self, parent: int) -> tuple[int, int, int]:
        self.rules_of_menu, surface, xdg, popup = self.popup_on(parent, 20)
        return surface, xdg, popup


@pytest.fixture
def actor():
    made = Actor()
    yield made
    made.close()
    assert made.machine.leaked() == []


# -- how each request is sent ------------------------------------------------------------


def _of_manager(interface: str, name: str, kind: str, *args: str | int) -> Callable:
    """A request of a global that makes an object; words name the actor's objects."""

    def ask(a: Actor) -> None:
        values = [getattr(a, x) if isinstance(x, str) else x for x in args]
        a.make(a.manager(interface), name, kind, None, *values)
        a.roundtrip()

    return ask


def _of_seat(name: str, kind: str) -> Callable:
    return lambda a: a.make(a.seat, name, kind)


def _on_window(name: str, *after: int) -> Callable:
    return lambda a: a.send(a.top, name, a.seat, PRESS, *after)


def _start_drag(a: Actor, serial: int = PRESS) -> None:
    data = a.manager("wl_data_device_manager")
    device = a.make(data, "get_data_device", "wl_data_device", None, a.seat)
    source = a.make(data, "create_data_source", "wl_data_source", None)
    a.send(device, "start_drag", source, a.win, 0, serial)


def _set_serial(a: Actor) -> None:
    kind = "xdg_activation_token_v1"
    token = a.make(a.manager("xdg_activation_v1"), "get_activation_token", kind)
    a.send(token, "set_serial", PRESS, a.seat)


def _set_parent(a: Actor) -> None:
    _, _, top = a.show(80, 60, 0)
    a.send(top, "set_parent", a.top)


def _shape(a: Actor) -> None:
    shapes = a.manager("wp_cursor_shape_manager_v1")
    kind = "wp_cursor_shape_device_v1"
    device = a.make(shapes, "get_pointer", kind, None, a.pointer)
    a.send(device, "set_shape", PRESS - 1, 1)


def _popup(a: Actor) -> None:
    surface, _, _ = a.menu(a.xdg)
    a.send(surface, "commit")


DIALOGS = "xdg_wm_dialog_v1"
CONSTRAINTS, GESTURES = "zwp_pointer_constraints_v1", "zwp_pointer_gestures_v1"
SHORTCUTS = "zwp_keyboard_shortcuts_inhibit_manager_v1"
INHIBITOR = "zwp_keyboard_shortcuts_inhibitor_v1"
RELATIVE = "zwp_relative_pointer_manager_v1"


def _gesture(kind: str) -> Callable:
    made = f"zwp_pointer_gesture_{kind}_v1"
    return _of_manager(GESTURES, f"get_{kind}_gesture", made, "pointer")


def _constrained(name: str, kind: str) -> Callable:
    return _of_manager(CONSTRAINTS, name, kind, "win", "pointer", 0, 2)


ASK: dict[tuple[str, str], Callable[[Actor], object]] = {
    ("wl_seat", "get_pointer"): _of_seat("get_pointer", "wl_pointer"),
    ("wl_seat", "get_keyboard"): _of_seat("get_keyboard", "wl_keyboard"),
    ("wl_seat", "get_touch"): _of_seat("get_touch", "wl_touch"),
    ("wl_data_device_manager", "get_data_device"): _of_manager(
        "wl_data_device_manager", "get_data_device", "wl_data_device", "seat"
    ),
    ("wl_data_device", "start_drag"): _start_drag,
    ("xdg_activation_token_v1", "set_serial"): _set_serial,
    (SHORTCUTS, "inhibit_shortcuts"): _of_manager(
        SHORTCUTS, "inhibit_shortcuts", INHIBITOR, "win", "seat"
    ),
    ("zwp_tablet_manager_v2", "get_tablet_seat"): _of_manager(
        "zwp_tablet_manager_v2", "get_tablet_seat", "zwp_tablet_seat_v2", "seat"
    ),
    ("zwp_text_input_manager_v3", "get_text_input"): _of_manager(
        "zwp_text_input_manager_v3", "get_text_input", "zwp_text_input_v3", "seat"
    ),
    ("wp_cursor_shape_manager_v1", "get_pointer"): _of_manager(
        "wp_cursor_shape_manager_v1",
        "get_pointer",
        "wp_cursor_shape_device_v1",
        "pointer",
    ),
    (CONSTRAINTS, "lock_pointer"): _constrained(
        "lock_pointer", "zwp_locked_pointer_v1"
    ),
    (CONSTRAINTS, "confine_pointer"): _constrained(
        "confine_pointer", "zwp_confined_pointer_v1"
    ),
    (GESTURES, "get_swipe_gesture"): _gesture("swipe"),
    (GESTURES, "get_pinch_gesture"): _gesture("pinch"),
    (GESTURES, "get_hold_gesture"): _gesture("hold"),
    (RELATIVE, "get_relative_pointer"): _of_manager(
        RELATIVE, "get_relative_pointer", "zwp_relative_pointer_v1", "pointer"
    ),
    ("wl_pointer", "set_cursor"): lambda a: a.send(
        a.pointer, "set_cursor", PRESS - 1, 0, 0, 0
    ),
    ("wp_cursor_shape_device_v1", "set_shape"): _shape,
    ("xdg_toplevel", "set_fullscreen"): lambda a: a.send(
        a.top, "set_fullscreen", a.screen
    ),
    ("zxdg_output_manager_v1", "get_xdg_output"): _of_manager(
        "zxdg_output_manager_v1", "get_xdg_output", "zxdg_output_v1", "screen"
    ),
    ("xdg_toplevel", "set_parent"): _set_parent,
    ("xdg_toplevel", "show_window_menu"): _on_window("show_window_menu", 1, 1),
    ("xdg_toplevel", "move"): _on_window("move"),
    ("xdg_toplevel", "resize"): _on_window("resize", 2),
    ("zwp_idle_inhibit_manager_v1", "create_inhibitor"): _of_manager(
        "zwp_idle_inhibit_manager_v1",
        "create_inhibitor",
        "zwp_idle_inhibitor_v1",
        "win",
    ),
    ("xdg_surface", "get_popup"): _popup,
}
ELSEWHERE = {
    ("wp_cursor_shape_manager_v1", "get_tablet_tool_v2"),  # test_tablets
    ("zwp_tablet_tool_v2", "set_cursor"),  # test_tablets
    *(ORDERS.keys() - ASK.keys()),  # test_canonical
    ("zxdg_exporter_v1", "export"),  # test_exported_windows
    ("zxdg_imported_v1", "set_parent_of"),  # test_exported_windows
    ("xdg_popup", "reposition"),  # below
}
HAPPENS: dict[Needs, tuple[Callable[[Actor], None], ...]] = {
    Needs.SEAT: (lambda a: a.gone("wl_seat"),),
    Needs.DEVICE: (
        lambda a: a.gone("wl_seat"),
        lambda a: a.all_hear("wl_seat", "capabilities", 0),
    ),
    Needs.SEAT_AND_MAPPED_ORIGIN: (lambda a: a.gone("wl_seat"), Actor.unmap),
    Needs.SCREEN: (lambda a: a.gone("wl_output"),),
    Needs.SHOWN_SCREEN: (lambda a: a.gone("wl_output"),),
    Needs.POINTER: (
        lambda a: a.all_hear("wl_seat", "capabilities", POINTERLESS),
        lambda a: a.gone("wl_seat"),
    ),
    Needs.FOCUS: (lambda a: a.all_hear("wl_seat", "capabilities", POINTERLESS),),
    Needs.MAPPED: (Actor.unmap,),
    Needs.MAPPED_PARENT: (Actor.unmap,),
    Needs.SEAT_AND_MAPPED: (lambda a: a.gone("wl_seat"), Actor.unmap),
    Needs.SHOWN: (Actor.unmap,),
}
TRIED = [
    pytest.param(key, happens, id=f"{'.'.join(key)}-{number}")
    for key in ASK
    for number, happens in enumerate(HAPPENS[NEEDS[key]])
]


def _named(actor: Actor, key: tuple[str, str]) -> bool:
    """Whether the request went up with what the table says it needs."""
    told = actor.told(*key)
    if key in {("xdg_toplevel", "set_fullscreen"), ("xdg_toplevel", "set_parent")}:
        return any(args[0] is not None for args in told)
    return bool(told)


def test_each_request_that_names_an_object_has_an_answer():
    named = {
        (interface, message.name)
        for interface in INTERFACES
        for message in requests_of(interface)
        if any(a.kind == "o" for a in message.args)
    }
    assert named <= NEEDS.keys()
    known = {(i, m.name) for i in INTERFACES for m in requests_of(i)}
    assert NEEDS.keys() <= known


def test_the_answer_of_menus_names_the_limit():
    assert f"waits {limits.WAYLAND_SHOWN_SECONDS:g} s" in Needs.SHOWN.value


def test_each_answer_is_tried():
    tried = {k for k, needs in NEEDS.items() if needs not in {Needs.LIVE, Needs.UNSENT}}
    assert tried == ASK.keys() | ELSEWHERE


def test_no_forwarded_request_has_descriptors():
    """One that names something inert would have to close them."""
    for interface in INTERFACES:
        for message in requests_of(interface):
            if handler_table.REQUESTS[interface, message.name] is FORWARD:
                assert not message.fds, message


@pytest.mark.parametrize("key", ASK, ids=".".join)
def test_a_request_is_sent_while_all_is_there(actor, key):
    before = len(actor.told(*key))
    ASK[key](actor)
    assert len(actor.told(*key)) > before
    assert _named(actor, key)


@pytest.mark.parametrize(("key", "happens"), TRIED)
def test_a_request_that_names_what_is_not_there_is_not_sent(actor, key, happens):
    happens(actor)
    actor.model.requests.clear()
    ASK[key](actor)
    actor.roundtrip()
    assert not _named(actor, key)
    assert actor.core.fault is None


def test_what_was_made_of_a_seat_that_is_gone_is_used_and_ended(actor):
    """The client notices nothing but silence; the compositor hears nothing."""
    actor.gone("wl_seat")
    actor.model.requests.clear()
    pointer = actor.make(actor.seat, "get_pointer", "wl_pointer")
    touch = actor.make(actor.seat, "get_touch", "wl_touch")
    text = actor.make(
        actor.manager("zwp_text_input_manager_v3"), "get_text_input", "zwp_text_input_v3", None, actor.seat
    )  # fmt: skip
    for name in ("enable", "disable", "commit", "destroy"):
        actor.send(text, name)
    actor.send(pointer, "set_cursor", PRESS - 1, 0, 0, 0)
    actor.send(pointer, "release")
    actor.send(touch, "release")
    actor.send(actor.pointer, "release")
    actor.send(actor.seat, "release")
    actor.roundtrip()
    told = [(k, n) for k, n, _ in actor.model.requests if k.startswith(("wl_p", "wl_t", "wl_se", "zwp_text_input_v3"))]  # fmt: skip
    assert told == [("wl_pointer", "release"), ("wl_seat", "release")]


@pytest.mark.parametrize("interface", ["wl_seat", "wl_output"])
def test_what_is_bound_too_late_is_local(actor, interface):
    actor.gone(interface)
    actor.model.requests.clear()
    made = actor.bind(interface)
    actor.send(made, "release")
    actor.roundtrip()
    assert not actor.told("wl_registry", "bind")
    assert not actor.told(interface, "release")


def test_a_pointer_that_comes_again_is_another(actor):
    actor.all_hear("wl_seat", "capabilities", POINTERLESS)
    actor.all_hear("wl_seat", "capabilities", 7)
    ask = ASK[RELATIVE, "get_relative_pointer"]
    ask(actor)
    assert not actor.told("zwp_relative_pointer_manager_v1", "get_relative_pointer")
    actor.pointer = actor.make(actor.seat, "get_pointer", "wl_pointer")
    ask(actor)
    assert actor.told("zwp_relative_pointer_manager_v1", "get_relative_pointer")


def test_a_press_ends_with_its_pointer(actor):
    actor.all_hear("wl_seat", "capabilities", POINTERLESS)
    actor.send(actor.top, "move", actor.seat, PRESS)
    assert not actor.told("xdg_toplevel", "move")


@pytest.mark.parametrize("key", [("wl_data_device", "start_drag"), ("xdg_toplevel", "move")])  # fmt: skip
def test_a_finger_that_is_still_down_needs_its_seat(actor, key):
    actor.make(actor.seat, "get_touch", "wl_touch")
    surface = actor.server_side(actor.win)
    actor.all_hear("wl_touch", "down", PRESS + 1, 1, surface, 0, 256, 256)
    actor.gone("wl_seat")
    actor.model.requests.clear()
    if key[1] == "move":
        actor.send(actor.top, "move", actor.seat, PRESS + 1)
    else:
        _start_drag(actor, PRESS + 1)
    assert not actor.told(*key)
    assert actor.core.fault is None


@pytest.mark.parametrize("name", ["set_modal", "unset_modal"])
def test_a_dialog_ends_with_its_window(actor, name):
    dialog = actor.make(
        actor.manager(DIALOGS), "get_xdg_dialog", "xdg_dialog_v1", None, actor.top
    )
    actor.send(dialog, name)
    assert len(actor.told("xdg_dialog_v1", name)) == 1
    actor.send(actor.top, "destroy")
    actor.send(dialog, name)
    actor.send(dialog, "destroy")
    assert len(actor.told("xdg_dialog_v1", name)) == 1


# -- menus ---------------------------------------------------------------------------------


@pytest.fixture
def unfocused():
    made = Actor(focused=False)
    yield made
    made.close()


def test_a_menu_without_the_keyboard_waits_until_its_window_is_drawn(unfocused):
    a = unfocused
    surface, xdg, _ = a.menu(a.xdg)
    assert not a.told("xdg_surface", "get_popup")
    a.send(surface, "commit")
    assert a.told("xdg_surface", "get_popup")
    assert a.told("wl_surface", "frame")
    assert a.heard("configure", xdg)


class Hiding(Model):
    """A compositor that draws nothing while ``hides``."""

    hides = False

    def wl_surface_frame(self, surface, callback) -> None:
        if not self.hides:
            super().wl_surface_frame(surface, callback)


def hidden_actor() -> Actor:
    a = Actor(focused=False)
    a.model.__class__ = Hiding
    a.model.hides = True
    return a


def later(a: Actor, seconds: float) -> None:
    a.now += seconds
    resize_timeout.hurry(a.core, a.now)
    a.pump()


def test_a_menu_of_a_window_that_is_not_drawn_is_dismissed_after_a_while():
    a = hidden_actor()
    surface, xdg, popup = a.menu(a.xdg)
    a.send(surface, "commit")
    a.paint(surface, 20, 20, 0)  # whatever a client does meanwhile
    later(a, 1.9)
    assert not a.heard("popup_done", popup)
    later(a, 0.2)
    assert a.heard("popup_done", popup) == [[]]
    a.send(surface, "commit")
    assert not a.told("xdg_surface", "get_popup")
    for oid in (popup, xdg, surface):
        a.send(oid, "destroy")
    a.roundtrip()
    assert a.core.fault is None
    a.close()


def test_a_window_that_was_just_changed_is_asked_for_later(unfocused):
    """sway 1.7 draws what it is about to hide for up to 200 ms."""
    a = unfocused
    a.model.configure(a.server_side(a.xdg))
    a.pump()
    surface, _, _ = a.menu(a.xdg)
    a.send(surface, "commit")
    assert not a.told("wl_surface", "frame")
    later(a, 0.2)
    assert not a.told("wl_surface", "frame")
    later(a, 0.06)
    assert a.told("wl_surface", "frame")
    assert a.told("xdg_surface", "get_popup")


def asks_again(a):
    """What was drawn shows no menu; the next picture does."""
    a.pump()
    assert not a.told("xdg_surface", "get_popup")
    a.model.hides = False
    later(a, 0.3)
    assert a.told("xdg_surface", "get_popup")
    a.close()


def test_a_window_that_changes_while_it_is_drawn_is_asked_for_again():
    a = hidden_actor()
    surface, _, _ = a.menu(a.xdg)
    a.send(surface, "commit")
    (asked,) = a.told("wl_surface", "frame")
    a.model.configure(a.server_side(a.xdg))
    a.model.tell(asked[0], "done", 1)
    asks_again(a)


def test_a_window_that_changes_right_after_it_is_drawn_is_asked_for_again():
    """sway 1.7 ended: the configure event was read with the frame's answer, behind it."""
    a = hidden_actor()
    surface, _, _ = a.menu(a.xdg)
    a.send(surface, "commit")
    (asked,) = a.told("wl_surface", "frame")
    a.model.tell(asked[0], "done", 1)
    a.model.configure(a.server_side(a.xdg))
    asks_again(a)


def test_what_was_drawn_before_it_was_unmapped_shows_no_menu():
    a = hidden_actor()
    surface, _, popup = a.menu(a.xdg)
    a.send(surface, "commit")
    (asked,) = a.told("wl_surface", "frame")
    a.unmap()
    assert a.heard("popup_done", popup)
    a.model.tell(asked[0], "done", 1)
    a.pump()
    assert not a.told("xdg_surface", "get_popup")
    a.close()


@pytest.mark.parametrize("kind", ["toplevel", "popup"])
def test_a_configure_event_of_before_the_unmapping_is_none_after_it(actor, kind):
    """KWin 5.27 ended by a menu on one that it did not take for mapped again."""
    surface, xdg = actor.win, actor.xdg
    if kind == "popup":
        surface, xdg, _ = actor.menu(xdg)
        actor.send(surface, "commit")
        actor.configured(xdg)
        actor.paint(surface, 20, 20, 0)
        actor.send(surface, "commit")
    before = len(actor.heard("configure", xdg))
    serial = actor.model.configure(actor.server_side(xdg), 800, 600)
    with actor.in_one_piece():
        actor.send(surface, "attach", 0, 0, 0)
        actor.send(surface, "commit")
    assert len(actor.heard("configure", xdg)) == before
    actor.send(xdg, "ack_configure", serial)
    actor.send(surface, "commit")
    actor.model.configure(actor.server_side(xdg), 800, 600)
    actor.pump()
    assert len(actor.heard("configure", xdg)) == before + 2
    assert [serial] not in actor.told("xdg_surface", "ack_configure")


def test_a_menu_is_not_moved_on_what_is_unmapped(actor):
    surface, xdg, popup = actor.menu(actor.xdg)
    actor.send(surface, "commit")
    actor.configured(xdg)
    actor.paint(surface, 20, 20, 0)
    actor.send(surface, "commit")
    actor.send(popup, "reposition", actor.rules_of_menu, 1)
    assert len(actor.told("xdg_popup", "reposition")) == 1
    actor.unmap()
    actor.send(popup, "reposition", actor.rules_of_menu, 2)
    assert len(actor.told("xdg_popup", "reposition")) == 1


def test_a_menu_that_waits_has_its_last_place():
    a = hidden_actor()
    surface, _, popup = a.menu(a.xdg)
    a.send(surface, "commit")
    a.send(a.rules_of_menu, "set_size", 40, 30)
    a.send(popup, "reposition", a.rules_of_menu, 7)
    assert a.heard("repositioned", popup) == [[7]]
    assert not a.told("xdg_popup", "reposition")
    a.model.hides = False
    (asked,) = a.told("wl_surface", "frame")
    a.model.tell(asked[0], "done", 1)
    a.pump()
    assert len(a.told("xdg_surface", "get_popup")) == 1
    assert a.told("xdg_positioner", "set_size") == [[48, 38]]
    a.close()


def test_a_menu_whose_parent_is_unmapped_before_its_first_commit_is_dismissed(actor):
    surface, xdg, popup = actor.menu(actor.xdg)
    assert actor.told("xdg_surface", "get_popup")
    actor.unmap()
    assert actor.heard("popup_done", popup)
    actor.send(surface, "commit")
    assert not actor.server_side(xdg).state.get("first")
