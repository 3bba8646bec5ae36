"""Pointer, keyboard, touch, text input: who is told what, in which coordinates."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from broker.core.limits import wayland as limits
from broker.jail.clipboard.chord_recogniser import Recogniser
from broker.jail.wayland.handlers import cursor
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.scene import resize_timeout
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.keymaps import compiled
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

LEFT = 0x110


@pytest.fixture
def talk():
    with Talk() as it:
        it.start()
        it.seat = it.bind("wl_seat")
        it.pointer = it.make(it.seat, "get_pointer", "wl_pointer")
        it.keyboard = it.make(it.seat, "get_keyboard", "wl_keyboard")
        it.touch = it.make(it.seat, "get_touch", "wl_touch")
        it.win, it.xdg, it.top = it.show(200, 100, 0)
        yield it
    assert it.machine.leaked() == []


def says(talk: Talk, oid: int, name: str, *args) -> None:
    thing = talk.server_side(oid)
    if thing.kind in {"wl_pointer", "wl_keyboard"}:
        talk.all_hear(thing.kind, name, *args)
    else:
        talk.model.tell(thing, name, *args)
        talk.pump()


def root(talk: Talk):
    return talk.model.roots()[0]


def crop(talk: Talk, x: int, y: int) -> None:
    talk.send(talk.xdg, "set_window_geometry", x, y, 100, 50)
    talk.send(talk.win, "commit")


def test_coordinates_are_the_surfaces_own_although_it_is_cropped(talk):
    crop(talk, 20, 30)
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 256, 512)
    says(talk, talk.pointer, "motion", 1, 3 * 256, 4 * 256)
    assert talk.heard("enter", talk.pointer) == [[7, talk.win, 21 * 256, 32 * 256]]
    assert talk.heard("motion", talk.pointer) == [[1, 23 * 256, 34 * 256]]


def test_motions_do_not_fill_the_queue_of_a_client_that_reads_nothing(
    talk, monkeypatch
):
    """A suspended sandbox reads nothing for hours: it would be cut off, with its windows."""
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 256, 512)
    says(talk, talk.pointer, "frame")
    with monkeypatch.context() as full:
        full.setattr(limits, "WAYLAND_MOTION_BYTES", -1)
        says(talk, talk.pointer, "motion", 1, 512, 512)
        says(talk, talk.pointer, "axis", 1, 0, 2560)
        says(talk, talk.pointer, "frame")
    says(talk, talk.pointer, "motion", 1, 256, 256)
    says(talk, talk.pointer, "frame")
    assert talk.heard("motion", talk.pointer) == [[1, 256, 256]]
    assert talk.heard("axis", talk.pointer) == []
    assert len(talk.heard("frame", talk.pointer)) == 2


def test_a_press_after_motions_that_were_not_told_is_where_the_pointer_is(
    talk, monkeypatch
):
    """Else a program presses what was under the pointer some seconds ago."""
    crop(talk, 20, 30)
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 256, 512)
    with monkeypatch.context() as full:
        full.setattr(limits, "WAYLAND_MOTION_BYTES", -1)
        says(talk, talk.pointer, "motion", 1, 512, 512)
        says(talk, talk.pointer, "motion", 2, 3 * 256, 4 * 256)
        says(talk, talk.pointer, "button", 8, 3, LEFT, 1)
        says(talk, talk.pointer, "button", 9, 4, LEFT, 0)
    told = [e[2:] for e in talk.events if e[0] == talk.pointer and e[2] != "enter"]
    assert told == [
        ("motion", [2, 23 * 256, 34 * 256]),
        ("button", [8, 3, LEFT, 1]),
        ("button", [9, 4, LEFT, 0]),
    ]


def test_what_happens_on_the_frame_is_never_told(talk):
    says(talk, talk.pointer, "enter", 7, root(talk), 256, 256)
    says(talk, talk.pointer, "motion", 1, 256, 256)
    says(talk, talk.pointer, "button", 8, 1, 0x111, 1)
    says(talk, talk.pointer, "axis", 1, 0, 2560)
    says(talk, talk.pointer, "frame")
    says(talk, talk.pointer, "leave", 9, root(talk))
    assert [e for e in talk.events if e[0] == talk.pointer] == []


@pytest.mark.parametrize(
    ("x", "y", "request_", "edge"),
    [
        (100, 1, "move", None),
        (1, 50, "resize", 4),
        (207, 50, "resize", 8),
        (100, 107, "resize", 2),
        (1, 1, "resize", 5),
        (207, 107, "resize", 10),
        (100, 50, None, None),
    ],
)
def test_the_person_moves_and_resizes_by_the_frame(talk, x, y, request_, edge):
    says(talk, talk.pointer, "enter", 7, root(talk), x * 256, y * 256)
    before = len(talk.model.requests)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    after = [(n, a) for k, n, a in talk.model.requests[before:] if k == "xdg_toplevel"]
    if request_ is None:
        assert after == []
    else:
        ((name, args),) = after
        assert name == request_
        assert args[1] == 8
        assert edge is None or args[2] == edge


@pytest.mark.parametrize(
    ("x", "y", "shown"),
    [(100, 1, True), (1, 50, False), (1, 1, False), (100, 50, False)],
)
def test_the_right_button_on_the_upper_strip_shows_the_desktop_s_window_menu(
    talk, x, y, shown
):
    says(talk, talk.pointer, "enter", 7, root(talk), x * 256, y * 256)
    before = len(talk.model.requests)
    says(talk, talk.pointer, "button", 8, 1, 0x111, 1)
    says(talk, talk.pointer, "button", 9, 1, 0x111, 0)
    told = [(n, a) for k, n, a in talk.model.requests[before:] if k == "xdg_toplevel"]
    assert [(n, a[1:]) for n, a in told] == [("show_window_menu", [8, x, y])] * shown


def test_grip_is_none_inside_the_content():
    assert cursor.grip(50, 50, (100, 100), (4, 4, 4, 4)) is None


def opened(talk: Talk) -> int:
    """A menu of the window that has pointer and keyboard, with its grab."""
    from tests.broker.jail.wayland.scene.test_frame import popup

    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.keyboard, "enter", 7, root(talk), b"")
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    _, _, made = popup(talk, talk.xdg)
    talk.send(made, "grab", talk.seat, 8)
    assert talk.heard("popup_done", made) == []
    return made


def test_a_grab_never_reaches_the_compositor(talk):
    opened(talk)
    assert talk.told("xdg_popup", "grab") == []


def test_a_click_on_the_frame_dismisses_grabbing_popups(talk):
    made = opened(talk)
    says(talk, talk.pointer, "leave", 9, talk.server_side(talk.win))
    says(talk, talk.pointer, "enter", 10, root(talk), 0, 0)
    says(talk, talk.pointer, "button", 11, 1, LEFT, 1)
    assert talk.heard("popup_done", made) == [[]]


def test_a_menu_goes_when_its_window_loses_the_keyboard(talk):
    made = opened(talk)
    says(talk, talk.keyboard, "leave", 9, root(talk))
    assert talk.heard("popup_done", made) == [[]]


def test_a_menu_stays_where_the_keyboard_goes_to_the_menu_itself(talk):
    """Some compositors give a popup the keyboard when it is clicked."""
    made = opened(talk)
    thing = talk.model.things
    (menu,) = [s for s in talk.model.roots() if s is not root(talk)] or [root(talk)]
    for keyboard in [t for t in thing.values() if t.kind == "wl_keyboard"]:
        talk.model.tell(keyboard, "leave", 9, root(talk))
        talk.model.tell(keyboard, "enter", 10, menu, b"")
    talk.pump()
    assert talk.heard("popup_done", made) == []


def test_a_grab_in_the_background_is_refused(talk):
    from tests.broker.jail.wayland.scene.test_frame import popup

    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    talk.now += limits.WAYLAND_PRESS_SECONDS + 1
    _, _, made = popup(talk, talk.xdg)
    talk.send(made, "grab", talk.seat, 8)
    assert talk.heard("popup_done", made) == [[]]
    assert not talk.core.by_client[made].grabbing


def test_a_grab_with_a_serial_that_was_not_delivered_is_refused(talk):
    """Also where the window has the keyboard, and has had a press."""
    from tests.broker.jail.wayland.scene.test_frame import popup

    opened(talk)
    _, _, made = popup(talk, talk.xdg)
    talk.send(made, "grab", talk.seat, 12345)
    assert talk.heard("popup_done", made) == [[]]
    assert not talk.core.by_client[made].grabbing


def test_a_menu_may_come_sooner_than_the_keyboard(talk):
    """The click that opens it gives the window the keyboard, a little later."""
    from tests.broker.jail.wayland.scene.test_frame import popup

    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    _, _, made = popup(talk, talk.xdg)
    talk.send(made, "grab", talk.seat, 8)
    says(talk, talk.keyboard, "enter", 9, root(talk), b"")
    assert talk.heard("popup_done", made) == []
    says(talk, talk.keyboard, "leave", 10, root(talk))
    assert talk.heard("popup_done", made) == [[]]


def test_a_submenu_needs_no_press_of_its_own(talk):
    """Toolkits present the press that opened the first menu."""
    from tests.broker.jail.wayland.scene.test_frame import popup

    made = opened(talk)
    first = talk.core.by_client[made].xdg.cid
    _, _, second = popup(talk, first)
    talk.send(second, "grab", talk.seat, 8)
    says(talk, talk.keyboard, "leave", 9, root(talk))
    done = [e[0] for e in talk.events if e[2] == "popup_done"]
    assert done == [second, made], "the topmost first"


def test_a_press_in_another_connection_of_the_sandbox_dismisses_menus(talk):
    made = opened(talk)
    with Talk(sandbox=talk.sandbox) as other:
        other.start()
        win, _, _ = other.show(50, 50, 0)
        other.all_hear("wl_pointer", "enter", 7, other.server_side(win), 0, 0)
        other.all_hear("wl_pointer", "button", 8, 1, LEFT, 1)
    talk.pump()
    assert talk.heard("popup_done", made) == [[]]


def test_keyboard_focus_of_the_frame_is_focus_of_the_surface(talk):
    says(talk, talk.keyboard, "enter", 7, root(talk), b"")
    says(talk, talk.keyboard, "key", 8, 1, 30, 1)
    says(talk, talk.keyboard, "leave", 9, root(talk))
    says(talk, talk.keyboard, "key", 10, 1, 30, 1)
    told = [(e[2], e[3]) for e in talk.events if e[0] == talk.keyboard]
    assert told == [
        ("enter", [7, talk.win, b""]),
        ("key", [8, 1, 30, 1]),
        ("leave", [9, talk.win]),
    ]


@pytest.mark.parametrize("named", [True, False])
def test_a_window_that_is_gone_has_the_keyboard_no_more(talk, named):
    """Else its client could keep changing the sandbox's selection unseen."""
    frame = root(talk)
    says(talk, talk.keyboard, "enter", 7, frame, b"")
    assert talk.core.focused
    talk.send(talk.top, "destroy")
    talk.send(talk.xdg, "destroy")
    says(talk, talk.keyboard, "leave", 9, frame if named else 0)
    assert not talk.core.focused


@pytest.mark.parametrize("given_back", [False, True])
@pytest.mark.parametrize("kind", ["wl_pointer", "wl_keyboard", "text input"])
def test_the_leave_of_a_destroyed_surface_comes_before_its_id_is_free(
    talk, kind, given_back
):
    """Keys count as lifted after it, and the next window's enter follows it."""
    if kind == "text input":
        manager = talk.bind("zwp_text_input_manager_v3")
        oid = talk.make(manager, "get_text_input", KIND, None, talk.seat)
    else:
        oid = talk.pointer if kind == "wl_pointer" else talk.keyboard
    on = talk.server_side(talk.win) if kind == "wl_pointer" else root(talk)
    more = {"wl_pointer": [0, 0], "wl_keyboard": [b""]}.get(kind)
    says(talk, oid, "enter", *([] if more is None else [7]), on, *(more or []))
    talk.model.confirms = given_back
    for each in (talk.top, talk.xdg, talk.win):
        talk.send(each, "destroy")
    named = 0 if given_back else on
    says(talk, oid, "leave", *([] if more is None else [9]), named)
    told = [args[-1] for args in talk.heard("leave", oid)]
    assert told == ([] if given_back else [talk.win])


def test_a_leave_takes_the_focus(talk):
    """Also where the window stays: another one has the keyboard then."""
    frame = root(talk)
    says(talk, talk.keyboard, "enter", 7, frame, b"")
    assert talk.core.focused
    says(talk, talk.keyboard, "leave", 9, frame)
    assert not talk.core.focused


def test_a_keyboard_that_was_given_back_has_the_focus_no_more(talk):
    says(talk, talk.keyboard, "enter", 7, root(talk), b"")
    mine = talk.core.by_client[talk.keyboard]
    assert mine in talk.core.focused
    talk.send(talk.keyboard, "release")
    assert mine not in talk.core.focused


def test_a_finger_on_the_frame_is_never_told(talk):
    says(talk, talk.touch, "down", 7, 1, root(talk), 3, 0, 0)
    says(talk, talk.touch, "motion", 1, 3, 0, 0)
    says(talk, talk.touch, "up", 8, 1, 3)
    assert [e for e in talk.events if e[0] == talk.touch] == []


def test_a_frame_without_a_finger_of_its_own_is_not_told(talk):
    """KWin sends it to the client touched last for a finger that is on no window."""
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 0, 0)
    says(talk, talk.touch, "frame")
    says(talk, talk.touch, "up", 8, 1, 3)
    says(talk, talk.touch, "frame")
    heard = [e[2] for e in talk.events if e[0] == talk.touch]
    assert heard == ["down", "frame", "up", "frame"]
    for _ in range(3):
        says(talk, talk.touch, "frame")
    says(talk, talk.touch, "cancel")
    assert [e[2] for e in talk.events if e[0] == talk.touch] == heard


@pytest.mark.parametrize(
    "what", [("motion", 1, 3, 0, 0), ("shape", 3, 1, 1), ("orientation", 3, 1)]
)
def test_each_event_of_a_finger_ends_with_a_frame(talk, what):
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 0, 0)
    says(talk, talk.touch, "frame")
    since = len(talk.events)
    says(talk, talk.touch, *what)
    says(talk, talk.touch, "frame")
    heard = [e[2] for e in talk.events[since:] if e[0] == talk.touch]
    assert heard == [what[0], "frame"]


def test_fingers_that_the_compositor_took_over_are_told_of_once(talk):
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 0, 0)
    for _ in range(2):
        says(talk, talk.touch, "cancel")
    says(talk, talk.touch, "frame")
    says(talk, talk.touch, "up", 8, 1, 3)
    heard = [e[2] for e in talk.events if e[0] == talk.touch]
    assert heard == ["down", "cancel"]
    talk.send(talk.top, "move", talk.seat, 7)
    assert talk.told("xdg_toplevel", "move") == []


def test_a_finger_on_a_window_that_goes_does_nothing_to_the_next_one(talk):
    """The compositor continues with the finger; its events are harmless, or none."""
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 0, 0)
    for oid in (talk.top, talk.xdg, talk.win):
        talk.send(oid, "destroy")
    talk.win, talk.xdg, talk.top = talk.show(50, 50, 0)
    says(talk, talk.touch, "motion", 2, 3, 256, 256)
    says(talk, talk.touch, "up", 8, 2, 3)
    talk.send(talk.top, "move", talk.seat, 7)
    assert talk.told("xdg_toplevel", "move") == []


def test_a_finger_in_another_connection_of_the_sandbox_dismisses_menus(talk):
    made = opened(talk)
    with Talk(sandbox=talk.sandbox) as other:
        other.start()
        seat = other.bind("wl_seat")
        touch = other.make(seat, "get_touch", "wl_touch")
        win, _, _ = other.show(50, 50, 0)
        says(other, touch, "down", 8, 1, other.server_side(win), 3, 0, 0)
    talk.pump()
    assert talk.heard("popup_done", made) == [[]]


def test_a_finger_on_the_content_is_told_in_its_coordinates(talk):
    crop(talk, 20, 30)
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 256, 256)
    says(talk, talk.touch, "motion", 1, 3, 512, 512)
    says(talk, talk.touch, "up", 8, 1, 3)
    assert talk.heard("down") == [[7, 1, talk.win, 3, 21 * 256, 31 * 256]]
    assert talk.heard("motion", talk.touch) == [[1, 3, 22 * 256, 32 * 256]]
    assert talk.heard("up") == [[8, 1, 3]]


def test_moving_a_window_needs_a_serial_that_was_delivered(talk):
    talk.send(talk.top, "move", talk.seat, 99)
    assert talk.told("xdg_toplevel", "move") == []
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    talk.send(talk.top, "move", talk.seat, 8)
    assert [a[1] for a in talk.told("xdg_toplevel", "move")] == [8]


@pytest.mark.parametrize("extra", [0, 1])
def test_only_the_last_serials_are_remembered(talk, extra):
    serials = talk.core.serials
    for n in range(limits.WAYLAND_SERIALS + extra):
        serials.note(100_000 + n)
    assert serials.knows(100_000) == (not extra)


def test_a_window_entering_an_output_is_told_once(talk):
    output = talk.bind("wl_output")
    sid = talk.server_side(output)
    for thing in (talk.server_side(talk.win), root(talk)):
        talk.model.tell(thing, "enter", sid)
    talk.pump()
    assert talk.heard("enter", talk.win) == [[output]]
    talk.model.tell(root(talk), "leave", sid)
    talk.pump()
    assert talk.heard("leave", talk.win) == []
    talk.model.tell(talk.server_side(talk.win), "leave", sid)
    talk.pump()
    assert talk.heard("leave", talk.win) == [[output]]


def test_text_input_speaks_of_the_surface_and_of_the_frame(talk):
    manager = talk.bind("zwp_text_input_manager_v3")
    text = talk.make(manager, "get_text_input", "zwp_text_input_v3", None, talk.seat)
    crop(talk, 20, 30)
    says(talk, text, "enter", root(talk))
    assert talk.heard("enter", text) == [[talk.win]]
    talk.send(text, "set_cursor_rectangle", 50, 60, 2, 10)
    assert talk.told("zwp_text_input_v3", "set_cursor_rectangle") == [[34, 34, 2, 10]]


def test_a_keymap_is_a_copy_of_ours(talk):
    fd = talk.machine.fd("keymap")
    from broker.jail.wayland.protocol import emit

    sid = talk.core.by_client[talk.keyboard].sid
    talk.core.from_server(emit.event("wl_keyboard", "keymap")(sid, 1, 77), [fd], 0.0)
    talk.hear()
    assert talk.received_fds[-1] is not fd
    assert fd.closed
    assert talk.heard("keymap") == [[1, None, 77]]


def test_no_descriptor_of_the_compositors_is_passed_on():
    from broker.jail.wayland.handler_table import EVENTS
    from broker.jail.wayland.protocol.dispatch import FORWARD
    from broker.jail.wayland.protocol.signatures import event

    carry = [key for key in EVENTS if any(a.kind == "h" for a in event(*key).args)]
    assert ("wl_keyboard", "keymap") in carry
    assert [key for key in carry if EVENTS[key] is FORWARD] == []


def test_activation_needs_fresh_input_and_a_token_of_this_sandbox(talk):
    manager = talk.bind("xdg_activation_v1")

    def token(serial: int) -> int:
        made = talk.make(manager, "get_activation_token", "xdg_activation_token_v1")
        talk.send(made, "set_serial", serial, talk.seat)
        talk.send(made, "set_surface", talk.win)
        talk.send(made, "commit")
        return made

    refused = token(8)
    assert talk.heard("done", refused) == [[b"vitrail-nothing"]]
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    good = token(8)
    says(talk, good, "done", b"token-1")
    talk.send(manager, "activate", b"token-of-somebody-else", talk.win)
    assert talk.told("xdg_activation_v1", "activate") == []
    talk.send(manager, "activate", b"token-1", talk.win)
    ((text, surface),) = talk.told("xdg_activation_v1", "activate")
    assert text == b"token-1"
    assert surface is root(talk)
    talk.send(manager, "activate", b"token-1", talk.win)
    assert len(talk.told("xdg_activation_v1", "activate")) == 1, "a token is used once"


def test_input_that_is_long_past_does_not_activate(talk):
    talk.core.serials.note_input(8, 0.0)
    assert talk.core.serials.fresh(8, limits.WAYLAND_ACTIVATION_SECONDS)
    assert not talk.core.serials.fresh(8, limits.WAYLAND_ACTIVATION_SECONDS + 0.1)


@pytest.mark.parametrize("waits", [0.0, 1.0])
def test_input_that_was_named_in_time_is_still_fresh_when_its_token_is_asked_for(
    talk, waits
):
    kind = "xdg_activation_token_v1"
    manager = talk.bind("xdg_activation_v1")
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    token = talk.make(manager, "get_activation_token", kind)
    talk.send(token, "set_serial", 8, talk.seat)
    talk.now += limits.WAYLAND_ACTIVATION_SECONDS + waits
    talk.send(token, "commit")
    assert bool(talk.told(kind, "commit")) == (not waits)
    assert talk.heard("done", token) == ([[b"vitrail-nothing"]] if waits else [])


def test_a_press_on_the_frame_needs_nothing_of_the_clients(talk):
    """It may let go of its pointer and of its seat."""
    says(talk, talk.pointer, "enter", 7, root(talk), 100 * 256, 256)
    theirs = talk.server_side(talk.seat)
    talk.send(talk.pointer, "release")
    talk.send(talk.seat, "release")
    talk.all_hear("wl_pointer", "button", 8, 1, LEFT, 1)
    ((seat, serial),) = talk.told("xdg_toplevel", "move")
    assert serial == 8
    assert seat is not theirs


def test_a_press_is_as_old_as_it_says_and_not_as_when_it_is_read(talk):
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1000, LEFT, 1)
    pointer = talk.server_side(talk.pointer)
    late = limits.WAYLAND_ACTIVATION_SECONDS + 5
    talk.model.tell(pointer, "button", 9, 1001, LEFT, 0)
    data = bytes(talk.model.out)
    talk.model.out.clear()
    talk.core.from_server(data, (), late)
    assert not talk.core.serials.fresh(9, late)


def test_a_move_needs_a_press_that_lasts(talk):
    """Compositors that look (weston, mutter) ask for that; sway and KWin do not."""
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    says(talk, talk.pointer, "button", 9, 2, LEFT, 0)
    for serial in (7, 8, 9):
        talk.send(talk.top, "move", talk.seat, serial)
        talk.send(talk.top, "resize", talk.seat, serial, 1)
    assert talk.told("xdg_toplevel", "move") == []
    assert talk.told("xdg_toplevel", "resize") == []


def test_a_press_ends_with_the_pointer_that_leaves(talk):
    says(talk, talk.pointer, "enter", 7, talk.server_side(talk.win), 0, 0)
    says(talk, talk.pointer, "button", 8, 1, LEFT, 1)
    says(talk, talk.pointer, "leave", 9, talk.server_side(talk.win))
    talk.send(talk.top, "move", talk.seat, 8)
    assert talk.told("xdg_toplevel", "move") == []


def test_a_finger_that_was_given_back_presses_no_more(talk):
    says(talk, talk.touch, "down", 7, 1, talk.server_side(talk.win), 3, 0, 0)
    talk.send(talk.touch, "release")
    talk.send(talk.top, "move", talk.seat, 7)
    assert talk.told("xdg_toplevel", "move") == []


def test_what_hears_input_is_bounded(talk):
    for _ in range(limits.WAYLAND_LISTENERS - 3):
        talk.make(talk.seat, "get_pointer", "wl_pointer")
    with pytest.raises(ServerError, match="too many objects that receive input"):
        talk.make(talk.seat, "get_pointer", "wl_pointer")


def test_as_many_may_come_as_go(talk):
    for _ in range(2 * limits.WAYLAND_LISTENERS):
        made = talk.make(talk.seat, "get_pointer", "wl_pointer")
        talk.send(made, "release")


@pytest.fixture
def field(talk):
    manager = talk.bind("zwp_text_input_manager_v3")
    return talk.make(manager, "get_text_input", "zwp_text_input_v3", None, talk.seat)


KIND = "zwp_text_input_v3"


def texts(talk: Talk) -> list[str]:
    return [n for k, n, _ in talk.model.requests if k == KIND]


def test_text_input_without_the_focus_ends_no_input_method(talk, field):
    for name in ("enable", "disable", "commit"):
        talk.send(field, name)
    talk.send(field, "set_content_type", 1, 1)
    talk.send(field, "set_surrounding_text", b"abc", 1, 1)
    talk.send(field, "set_text_change_cause", 1)
    talk.send(field, "set_cursor_rectangle", 1, 2, 3, 4)
    assert texts(talk) == []
    talk.send(field, "destroy")
    assert texts(talk) == ["destroy"]


@pytest.mark.parametrize(
    ("around", "cursor", "anchor"),
    [
        (b"abc", 4, 0),
        (b"abc", 0, 4),
        (b"abc", -1, 0),
        (b"abc", 0, -(1 << 31)),
        (b"abc", (1 << 31) - 1, 0),
        ("你".encode(), 1, 0),
        ("你".encode(), 0, 2),
        (b"a" * 4001, 0, 0),
    ],
)
def test_the_input_method_gets_text_and_places_in_it(
    talk, field, around, cursor, anchor
):
    says(talk, field, "enter", root(talk))
    talk.send(field, "set_surrounding_text", around, cursor, anchor)
    assert texts(talk) == []
    good = "你好".encode()
    for place in (0, 3, 6):
        talk.send(field, "set_surrounding_text", good, place, 6 - place)
    talk.send(field, "set_surrounding_text", b"a" * 4000, 4000, 0)
    told = talk.told(KIND, "set_surrounding_text")
    assert [row[1:] for row in told] == [[0, 6], [3, 3], [6, 0], [4000, 0]]


def test_the_input_method_gets_no_bytes_that_are_not_text(talk, field):
    says(talk, field, "enter", root(talk))
    half_of_a_pair = b"\xed\xa0\x80"
    with pytest.raises(ServerError, match="utf-8"):
        talk.send(field, "set_surrounding_text", half_of_a_pair, 0, 0)
    assert texts(talk) == []


def test_the_input_method_gets_known_kinds_of_text(talk, field):
    says(talk, field, "enter", root(talk))
    for hint, purpose in ((0x3FF, 13), (0xFFFFFFFF, 14), (0, 0xFFFFFFFF)):
        talk.send(field, "set_content_type", hint, purpose)
    told = talk.told(KIND, "set_content_type")
    assert told == [[0x3FF, 13], [0x3FF, 0], [0, 0]]
    talk.send(field, "set_text_change_cause", 0xFFFFFFFF)
    assert talk.told(KIND, "set_text_change_cause") == [[1]]


def test_text_input_of_a_destroyed_surface_has_no_focus(talk, field):
    """The compositor forgets the surface, and does not say that the focus has left."""
    surface = talk.make(talk.compositor, "create_surface", "wl_surface")
    says(talk, field, "enter", talk.server_side(surface))
    talk.send(surface, "destroy")
    talk.send(field, "enable")
    talk.send(field, "set_content_type", 0, 0)
    talk.send(field, "set_cursor_rectangle", 0, 0, 1, 1)
    talk.send(field, "commit")
    for request in ("enable", "set_content_type", "set_cursor_rectangle", "commit"):
        assert talk.told(KIND, request) == [], request


def test_a_text_inputs_done_counts_the_commits_that_did_not_pass(talk, field):
    talk.send(field, "commit")
    talk.send(field, "commit")
    says(talk, field, "enter", root(talk))
    talk.send(field, "enable")
    talk.send(field, "commit")
    says(talk, field, "done", 1)
    assert talk.heard("done", field) == [[3]]


def test_a_text_input_that_comes_back_begins_again(talk, field):
    """Its 'disable' after the leave did not pass."""
    says(talk, field, "enter", root(talk))
    talk.send(field, "enable")
    talk.send(field, "commit")
    says(talk, field, "leave", root(talk))
    talk.send(field, "disable")
    talk.send(field, "commit")
    says(talk, field, "enter", root(talk))
    talk.send(field, "enable")
    talk.send(field, "commit")
    assert texts(talk) == ["enable", "commit", "disable", "commit", "enable", "commit"]
    says(talk, field, "done", 3)
    assert talk.heard("done", field) == [[3]], "three of the client's, three of ours"


def many_windows(talk) -> int:
    """Map as many as may come without input, and begin one more.

    Returns the serial of the configure event that it waits for.
    """
    for _ in range(limits.WAYLAND_MAPPINGS_PER_MINUTE):
        talk.send(talk.win, "attach", 0, 0, 0)
        talk.send(talk.win, "commit")
        told = len(talk.heard("configure", talk.xdg))
        talk.send(talk.win, "commit")
        if len(talk.heard("configure", talk.xdg)) == told:
            (window,) = talk.core.windows
            return window.serials[-1]
        talk.configured(talk.xdg)
        talk.paint(talk.win, 10, 10, 0)
        talk.send(talk.win, "commit")
    pytest.fail("all windows came at once")


def test_windows_that_come_without_input_have_a_pace(talk):
    """Also for a client that does not wait for its configure event."""
    serial = many_windows(talk)
    talk.send(talk.xdg, "ack_configure", serial)
    talk.paint(talk.win, 10, 10, 0)
    with pytest.raises(ServerError, match="too often"):
        talk.send(talk.win, "commit")


def test_a_window_that_comes_too_fast_waits_for_its_turn(talk):
    serial = many_windows(talk)
    assert talk.core.due is not None
    talk.now += 59
    resize_timeout.hurry(talk.core, talk.now)
    assert [serial] not in talk.heard("configure", talk.xdg)
    talk.now += 2
    resize_timeout.hurry(talk.core, talk.now)
    talk.send(talk.win, "damage", 0, 0, 1, 1)
    assert [serial] in talk.heard("configure", talk.xdg)
    talk.configured(talk.xdg)
    talk.paint(talk.win, 10, 10, 0)
    talk.send(talk.win, "commit")
    assert talk.core.fault is None


def answers(talk, since: int, callback: int) -> list[tuple[str, list[int]]]:
    """Events of the window and of a callback, in order."""
    wanted = {(talk.xdg, "configure"), (callback, "done")}
    seen = [(oid, name, args) for oid, _, name, args in talk.events[since:]]
    return [(name, args) for oid, name, args in seen if (oid, name) in wanted]


def test_a_sync_is_answered_after_the_configure_event_that_waits(talk):
    """wl-copy shows its window once a sync is answered, and a protocol error ends it."""
    serial = many_windows(talk)
    since = len(talk.events)
    callback = talk.make(1, "sync", "wl_callback")
    assert answers(talk, since, callback) == []
    talk.now += 61
    resize_timeout.hurry(talk.core, talk.now)
    talk.pump()
    first, second = answers(talk, since, callback)
    assert (first, second[0]) == (("configure", [serial]), "done")


def test_a_window_that_is_given_up_holds_no_sync(talk):
    many_windows(talk)
    since = len(talk.events)
    callback = talk.make(1, "sync", "wl_callback")
    talk.send(talk.top, "destroy")
    resize_timeout.hurry(talk.core, talk.core.due)
    talk.pump()
    assert [name for name, _ in answers(talk, since, callback)] == ["done"]


def test_windows_that_answer_input_have_none(talk):
    for number in range(limits.WAYLAND_MAPPINGS_PER_MINUTE + 5):
        talk.sandbox.act(talk.now)
        talk.send(talk.win, "attach", 0, 0, 0)
        talk.send(talk.win, "commit")
        talk.send(talk.win, "commit")
        talk.configured(talk.xdg)
        talk.paint(talk.win, 10, 10, number)
        talk.send(talk.win, "commit")


def test_relative_motion_on_the_frame_is_never_told():
    manager = "zwp_relative_pointer_manager_v1"
    with Talk(model=Model([*GLOBALS, (manager, 1)])) as it:
        it.start()
        it.seat = it.bind("wl_seat")
        it.pointer = it.make(it.seat, "get_pointer", "wl_pointer")
        it.win, it.xdg, it.top = it.show(200, 100, 0)
        kind = "zwp_relative_pointer_v1"
        made = it.make(it.bind(manager), "get_relative_pointer", kind, None, it.pointer)
        moved = (0, 1, 256, 256, 256, 256)
        says(it, it.pointer, "enter", 7, root(it), 0, 0)
        says(it, made, "relative_motion", *moved)
        assert it.heard("relative_motion") == []
        says(it, it.pointer, "leave", 8, root(it))
        says(it, it.pointer, "enter", 9, it.server_side(it.win), 0, 0)
        says(it, it.pointer, "frame")
        says(it, it.pointer, "frame")
        assert len(it.heard("frame", it.pointer)) == 1
        says(it, made, "relative_motion", *moved)
        assert it.heard("relative_motion") == [list(moved)]
        # A locked pointer has no other events, and Xwayland moves at its frame.
        says(it, it.pointer, "frame")
        says(it, it.pointer, "frame")
        assert len(it.heard("frame", it.pointer)) == 2


class _Chords:
    """A sandbox's part of the clipboard: it counts chords."""

    def __init__(self):
        self.chords = []
        self.drags = SimpleNamespace(
            started=lambda source: None, ended=lambda source: None
        )

    def judge(self):
        made = Recogniser()
        made.keymap(compiled("us"))
        return made

    def focus(self, *, taken):
        pass

    def pressed(self, core, seat, serial, *, paste):
        self.chords.append("paste" if paste else "copy")

    def trouble(self, reason):
        pass


def test_old_modifiers_are_not_those_of_the_enter():
    """weston tells clients under the pointer of them, and again after the enter.

    A window that came between the modifiers and the letter of somebody else's chord
    took it: the old ones, that none is held, made the ones that are held its own.
    """
    sandbox = Sandbox("work")
    sandbox.hand = hand = _Chords()
    with Talk(sandbox=sandbox) as talk:
        talk.start()
        seat = talk.bind("wl_seat")
        keyboard = talk.make(seat, "get_keyboard", "wl_keyboard")
        win, _, _ = talk.show(200, 100, 0)
        says(talk, keyboard, "modifiers", 5, 0, 0, 0, 0)
        held = struct.pack("=2I", 125, 42)
        says(talk, keyboard, "enter", 9, root(talk), held)
        says(talk, keyboard, "modifiers", 9, 65, 0, 0, 0)
        says(talk, keyboard, "key", 10, 1, 46, 1)
        assert win
        assert hand.chords == []
        # Its own chord is one.
        says(talk, keyboard, "key", 11, 2, 46, 0)
        says(talk, keyboard, "modifiers", 12, 0, 0, 0, 0)
        says(talk, keyboard, "modifiers", 13, 65, 0, 0, 0)
        says(talk, keyboard, "key", 14, 3, 46, 1)
        assert hand.chords == ["copy"]
