"""A row for each message: filled in, consistent with the protocol, and true."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.core.limits import wayland as limits
from broker.jail.clipboard.chord_recogniser import Recogniser
from broker.jail.wayland.protocol.signatures import events_of, requests_of
from broker.jail.wayland.protocol.tables import INTERFACES
from broker.jail.wayland.sandbox import Sandbox
from docs.tables import wayland as policies
from docs.tables.wayland import page as message_document
from docs.tables.wayland.terms import MEASURED, Cost, Descriptors, Sender, Serial
from tests.kit.wayland.talk import Talk

MESSAGES = [
    *((m, policies.REQUESTS[i, m.name]) for i in INTERFACES for m in requests_of(i)),
    *((m, policies.EVENTS[i, m.name]) for i in INTERFACES for m in events_of(i)),
]
STALE = 4711
PRESS = 50


def test_policies_row_has_no_empty_column():
    for message, row in MESSAGES:
        for column in (row.sender, row.serial, row.cost, row.descriptors):
            assert column.value.strip(), message
        assert len(row.gain) > 10, message
        assert row.gain.endswith("."), message


def test_policies_row_names_descriptors_where_the_message_has_them():
    for message, row in MESSAGES:
        assert bool(message.fds) == (row.descriptors is not Descriptors.NONE), message


def test_policies_row_with_a_serial_belongs_to_a_message_with_a_number():
    for message, row in MESSAGES:
        if row.serial is not Serial.NONE:
            assert any(a.kind == "u" for a in message.args), message


def test_policies_senders_and_costs_of_requests_and_events_are_not_mixed():
    receivers = {Sender.COMPOSITOR, Sender.FILTER}
    for row in policies.REQUESTS.values():
        assert row.sender not in receivers
        assert row.cost is not Cost.EVENT
        assert row.serial not in {Serial.GIVES, Serial.GIVES_INPUT}
    for row in policies.EVENTS.values():
        assert row.sender is not Sender.ANYBODY
        assert row.cost is Cost.EVENT


def test_policies_page_is_what_the_tables_print():
    page = Path(__file__).parents[4] / "docs/wayland-messages.md"
    assert page.read_text() == message_document.document()


def test_policies_texts_state_the_limits_in_force():
    assert str(limits.WAYLAND_SERIALS) in Serial.DELIVERED.value
    assert f"{limits.WAYLAND_ACTIVATION_SECONDS:g} s" in Serial.INPUT.value
    assert f"{limits.WAYLAND_PRESS_SECONDS:g} s" in Serial.YOUNG.value
    bell = policies.REQUESTS["xdg_system_bell_v1", "ring"].gain
    assert str(limits.WAYLAND_BELLS_PER_MINUTE) in bell
    title = policies.REQUESTS["xdg_toplevel", "set_title"].gain
    assert str(limits.WAYLAND_TITLES_PER_MINUTE) in title
    token = policies.REQUESTS["xdg_activation_token_v1", "commit"].gain
    assert str(limits.WAYLAND_ACTIVATIONS_PER_MINUTE) in token
    assert str(limits.WAYLAND_SURFACE_RECTS) in Cost.REGION.value


# -- the rows are true ---------------------------------------------------------------


class Actor:
    """A client with a window and one object of each kind that a row is about."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.seat = talk.bind("wl_seat")
        self.pointer = talk.make(self.seat, "get_pointer", "wl_pointer")
        self.keyboard = talk.make(self.seat, "get_keyboard", "wl_keyboard")
        self.win, self.xdg, self.top = talk.show(200, 100, 0)
        self.shapes = talk.bind("wp_cursor_shape_manager_v1")
        self.activation = talk.bind("xdg_activation_v1")
        self.base = talk.bind("xdg_wm_base")
        self.data = talk.bind("wl_data_device_manager")
        self.device = talk.make(
            self.data, "get_data_device", "wl_data_device", None, self.seat
        )
        self.primary = talk.bind("zwp_primary_selection_device_manager_v1")

    def says(self, oid: int, name: str, *args) -> None:
        self.talk.model.tell(self.talk.server_side(oid), name, *args)
        self.talk.pump()

    def keyboards(self, name: str, *args) -> None:
        """The client's and the filter's own, which tells it who has the focus."""
        things = [t for t in self.talk.model.things.values() if t.kind == "wl_keyboard"]
        for keyboard in reversed(things):
            self.talk.model.tell(keyboard, name, *args)
        self.talk.pump()

    def press(self) -> None:
        """The person clicks into the window, which has the keyboard."""
        surface = self.talk.server_side(self.win)
        self.keyboards("enter", PRESS - 2, self.talk.model.roots()[0], b"")
        self.says(self.pointer, "enter", PRESS - 1, surface, 256, 256)
        self.says(self.pointer, "button", PRESS, 1, 0x110, 1)

    def leave(self) -> None:
        """Pointer and keyboard go elsewhere."""
        surface = self.talk.server_side(self.win)
        self.says(self.pointer, "leave", PRESS + 1, surface)
        self.keyboards("leave", PRESS + 2, self.talk.model.roots()[0])


def _source(actor: Actor) -> int:
    made = actor.talk.make(actor.data, "create_data_source", "wl_data_source", None)
    actor.talk.send(made, "offer", b"text/plain")
    return made


def _selected(actor: Actor, serial: int) -> bool:
    actor.talk.send(actor.device, "set_selection", _source(actor), serial)
    return actor.talk.sandbox.selections["clipboard"] is not None


def _primary(actor: Actor, serial: int) -> bool:
    talk = actor.talk
    kind = "zwp_primary_selection"
    device = talk.make(
        actor.primary, "get_device", f"{kind}_device_v1", None, actor.seat
    )
    source = talk.make(actor.primary, "create_source", f"{kind}_source_v1", None)
    talk.send(device, "set_selection", source, serial)
    return talk.sandbox.selections["primary"] is not None


def _drag(actor: Actor, serial: int) -> bool:
    talk = actor.talk
    talk.send(actor.device, "start_drag", _source(actor), actor.win, 0, serial)
    return bool(talk.told("wl_data_device", "start_drag"))


def _cursor(actor: Actor, serial: int) -> bool:
    actor.talk.send(actor.pointer, "set_cursor", serial, 0, 0, 0)
    return bool(actor.talk.told("wl_pointer", "set_cursor"))


def _shape(actor: Actor, serial: int) -> bool:
    talk = actor.talk
    device = talk.make(
        actor.shapes, "get_pointer", "wp_cursor_shape_device_v1", None, actor.pointer
    )
    talk.send(device, "set_shape", serial, 1)
    return bool(talk.told("wp_cursor_shape_device_v1", "set_shape"))


def _token(actor: Actor, serial: int) -> bool:
    talk = actor.talk
    kind = "xdg_activation_token_v1"
    token = talk.make(actor.activation, "get_activation_token", kind)
    talk.send(token, "set_serial", serial, actor.seat)
    talk.send(token, "commit")
    return bool(talk.told(kind, "set_serial") + talk.told(kind, "commit"))


def _grab(actor: Actor, serial: int) -> bool:
    """Either passed on, or kept: dismissed at once means refused."""
    talk = actor.talk
    rules = talk.make(actor.base, "create_positioner", "xdg_positioner")
    talk.send(rules, "set_size", 20, 20)
    talk.send(rules, "set_anchor_rect", 0, 0, 10, 10)
    surface = talk.surface()
    xdg = talk.make(actor.base, "get_xdg_surface", "xdg_surface", None, surface)
    popup = talk.make(xdg, "get_popup", "xdg_popup", None, actor.xdg, rules)
    talk.send(popup, "grab", actor.seat, serial)
    return not talk.heard("popup_done", popup)


def _on_window(name: str, *after: int):
    def ask(actor: Actor, serial: int) -> bool:
        actor.talk.send(actor.top, name, actor.seat, serial, *after)
        return bool(actor.talk.told("xdg_toplevel", name))

    return ask


ASKED = {
    ("xdg_toplevel", "move"): _on_window("move"),
    ("xdg_toplevel", "resize"): _on_window("resize", 2),
    ("xdg_toplevel", "show_window_menu"): _on_window("show_window_menu", 1, 1),
    ("xdg_popup", "grab"): _grab,
    ("wl_data_device", "start_drag"): _drag,
    ("wl_data_device", "set_selection"): _selected,
    ("zwp_primary_selection_device_v1", "set_selection"): _primary,
    ("wl_pointer", "set_cursor"): _cursor,
    ("wp_cursor_shape_device_v1", "set_shape"): _shape,
    ("xdg_activation_token_v1", "set_serial"): _token,
}
ELSEWHERE = {
    ("xdg_wm_base", "pong"),  # test_filter: only of a ping
    ("xdg_surface", "ack_configure"),  # an error of the protocol otherwise
    ("zwp_tablet_tool_v2", "set_cursor"),  # test_tablets, with the latest enter
    ("wl_data_offer", "accept"),  # test_selection, with a drag over the window
}


class Clipboard:
    """Told of chords, focus and drags, as every worker's sandbox has one."""

    def __init__(self):
        self.drags = SimpleNamespace(
            started=lambda source: None,
            ended=lambda source: None,
            outward=lambda source: (),
        )

    def judge(self):
        return Recogniser()

    def focus(self, *, taken):
        pass


@pytest.fixture
def actor():
    sandbox = Sandbox("work")
    sandbox.hand = Clipboard()
    with Talk(sandbox=sandbox) as talk:
        talk.start()
        yield Actor(talk)
    assert talk.machine.leaked() == []


def _serial(key: tuple[str, str]) -> int:
    return PRESS - 1 if policies.REQUESTS[key].serial is Serial.ENTER else PRESS


def test_policies_each_request_with_a_serial_is_tried():
    named = {k for k, row in policies.REQUESTS.items() if row.serial is not Serial.NONE}
    assert named == ASKED.keys() | ELSEWHERE


@pytest.mark.parametrize("key", ASKED, ids=".".join)
def test_policies_request_has_an_effect_with_the_serial_of_its_row(actor, key):
    actor.press()
    assert ASKED[key](actor, _serial(key))


@pytest.mark.parametrize("key", ASKED, ids=".".join)
def test_policies_request_has_no_effect_with_a_serial_that_was_not_given(actor, key):
    actor.press()
    assert not ASKED[key](actor, STALE)


@pytest.mark.parametrize("key", ASKED, ids=".".join)
def test_policies_sender_is_who_the_row_says(actor, key):
    """The same request after the focus went elsewhere: only 'any client' may."""
    actor.press()
    actor.leave()
    may = policies.REQUESTS[key].sender in {Sender.ANYBODY, Sender.PRESSED}
    assert ASKED[key](actor, _serial(key)) is may


@pytest.mark.parametrize("key", ASKED, ids=".".join)
def test_policies_serial_is_as_young_as_the_row_says(actor, key):
    """The same press, long ago and still on the window."""
    actor.press()
    actor.talk.now += limits.WAYLAND_ACTIVATION_SECONDS + 1
    lasting = {Serial.DELIVERED, Serial.ENTER, Serial.HELD, Serial.CURRENT}
    may = policies.REQUESTS[key].serial in lasting
    assert ASKED[key](actor, _serial(key)) is may


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ((10, 20), (10, 20)),
        ((-500, -500), (0, 0)),
        ((4000, 3000), (200, 100)),
        ((-(2**31), 2**31 - 1), (0, 100)),
    ],
)
def test_window_menu_lies_in_its_window(actor, asked, shown):
    """The compositor's own menu would appear over the desktop or another window."""
    actor.press()
    actor.talk.send(actor.top, "show_window_menu", actor.seat, PRESS, *asked)
    ((*_, x, y),) = actor.talk.told("xdg_toplevel", "show_window_menu")
    edges = actor.talk.core.edges
    assert (x - edges.left, y - edges.top) == shown


def test_each_cost_was_measured():
    assert set(MEASURED) == set(Cost)
    assert all(all(MEASURED[cost]) for cost in set(Cost) - {Cost.EVENT})
