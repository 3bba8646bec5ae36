"""Chords and the person's own selection, seen by objects of the filter's own."""

from __future__ import annotations

import struct

import pytest

from broker.jail.clipboard.chord_recogniser import Recogniser
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.keymaps import compiled
from tests.kit.wayland.talk import Talk

C, V, A, SHIFT, SUPER = 46, 47, 30, 42, 125
TEXT = b"text/plain;charset=utf-8"


class Heard:
    """An input listener that notes its calls."""

    def __init__(self):
        self.said, self.presses = [], []

    def judge(self):
        return Recogniser()

    def focus(self, *, taken):
        self.said.append("taken" if taken else "gone")

    def pressed(self, core, seat, serial, *, paste):
        self.said.append("paste" if paste else "copy")
        self.presses.append((core, seat, serial))

    def foreign_drag(self):
        self.said.append("foreign drag")

    def trouble(self, reason):
        self.said.append(reason)


class Content:
    """The exported content."""

    def __init__(self, *mimes):
        self.mimes, self.did = mimes, []

    def send(self, mime, fd):
        self.did.append(mime)
        return False

    def cancel(self):
        self.did.append("ended")

    def taken(self):
        self.did.append("taken")


class Sandboxed(Talk):
    """A client with a window; the compositor's side of all its keyboards."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.machine.keymap = compiled("us")

    def things(self, kind):
        return [t for t in self.model.things.values() if t.kind == kind]

    def start(self, *, keyboards=1, devices=1):
        super().start()
        self.seat = self.bind("wl_seat")
        self.keyboards = [
            self.make(self.seat, "get_keyboard", "wl_keyboard")
            for _ in range(keyboards)
        ]
        self.win, _, _ = self.show(100, 100, 0)
        self.manager = self.bind("wl_data_device_manager")
        self.devices = [self.device() for _ in range(devices)]
        self.keymap()
        return self

    def device(self):
        return self.make(
            self.manager, "get_data_device", "wl_data_device", None, self.seat
        )

    def keymap(self, form=1):
        """To our own keyboard: the client's is passed on and has a descriptor."""
        own = self.things("wl_keyboard")[0]
        message = emit.event("wl_keyboard", "keymap")(own.oid, form, 9)
        self.core.from_server(message, [self.machine.fd("keymap")], 0.0)

    def all(self, name, *args):
        """Say it to every keyboard, the newest first as wlroots does."""
        for keyboard in reversed(self.things("wl_keyboard")):
            self.model.tell(keyboard, name, *args)
        self.pump()

    def enter(self, keys=()):
        held = struct.pack(f"={len(keys)}I", *keys)
        self.all("enter", 50, self.model.roots()[0], held)

    def key(self, serial, code, state, time=1):
        self.all("key", serial, time, code, state)

    def chord(self, code, serial=60):
        for number, (key, held) in enumerate([(SUPER, 64), (SHIFT, 65)]):
            self.key(serial + number, key, 1)
            self.all("modifiers", 1, held, 0, 0, 0)
        self.key(serial + 2, code, 1)
        self.key(serial + 3, code, 0)
        for number, (key, held) in enumerate([(SHIFT, 64), (SUPER, 0)]):
            self.key(serial + 4 + number, key, 0)
            self.all("modifiers", 1, held, 0, 0, 0)

    def typed(self):
        return [(a[2], a[3]) for a in self.heard("key")]

    def host_selects(self, *mimes, device=None):
        """The compositor's selection, on the newest device or another one."""
        device = device or self.things("wl_data_device")[-1]
        offer = self.model.server_offer(device)
        for mime in mimes:
            self.model.tell(offer, "offer", mime)
        self.model.tell(device, "selection", offer)
        self.pump()
        return offer


@pytest.fixture
def hand():
    return Heard()


@pytest.fixture
def sandbox(hand):
    made = Sandbox("work")
    made.hand = hand
    return made


@pytest.fixture
def one(sandbox):
    with Sandboxed(sandbox=sandbox) as made:
        yield made.start()


def test_a_chord_is_told_once_and_its_letter_never(one, hand):
    one.enter()
    one.chord(C)
    one.chord(V, 70)
    assert hand.said == ["", "taken", "copy", "paste"]
    modifiers = [(SUPER, 1), (SHIFT, 1), (SHIFT, 0), (SUPER, 0)]
    assert one.typed() == modifiers * 2
    assert [serial for *_, serial in hand.presses] == [62, 72]


@pytest.mark.parametrize("keyboards", [0, 3])
def test_whatever_keyboards_the_client_has(sandbox, hand, keyboards):
    with Sandboxed(sandbox=sandbox) as one:
        one.start(keyboards=keyboards).enter()
        one.chord(C)
        assert hand.said == ["", "taken", "copy"]
        assert one.typed().count((C, 1)) == 0
        assert one.typed().count((SUPER, 1)) == keyboards


def test_typed_keys_pass(one):
    one.enter()
    one.key(60, A, 1)
    one.key(61, A, 0)
    assert one.typed() == [(A, 1), (A, 0)]


def test_a_destroyed_window_leaves_no_focus_for_the_next_one(one, hand):
    """The compositor does not say that it left it; the next one comes into a chord."""
    win, xdg, top = one.show(100, 100, 0)
    (_, root) = one.model.roots()
    one.all("enter", 50, root, b"")
    one.all("modifiers", 1, 0, 0, 0, 0)
    for thing in (top, xdg, win):
        one.send(thing, "destroy")
    one.enter([SUPER, SHIFT])
    one.all("modifiers", 1, 65, 0, 0, 0)
    one.key(60, C, 1)
    assert "copy" not in hand.said
    assert (C, 1) not in one.typed()


def test_a_swallowed_serial_proves_nothing(one):
    one.enter()
    one.chord(C)
    source = one.make(one.manager, "create_data_source", "wl_data_source")
    one.send(one.devices[0], "set_selection", source, 62)
    assert one.heard("cancelled", source) == [[]]


def test_of_the_keys_held_at_an_enter_only_modifiers_are_told(one):
    one.enter([C, SHIFT, SUPER])
    (_, _, keys) = one.heard("enter", one.keyboards[0])[0]
    assert struct.unpack("=2I", keys) == (SHIFT, SUPER)


def test_a_window_without_the_focus_makes_no_selection(one, sandbox):
    """Or one in the background could change what the person just copied."""
    one.enter()
    one.all("leave", 51, one.model.roots()[0])
    source = one.make(one.manager, "create_data_source", "wl_data_source")
    one.send(one.devices[0], "set_selection", source, 50)
    assert one.heard("cancelled", source) == [[]]
    assert sandbox.selections["clipboard"] is None


def test_focus_is_told_when_it_comes_and_goes(one, hand):
    one.enter()
    one.all("leave", 51, one.model.roots()[0])
    one.enter()
    one.send(one.keyboards[0], "release")  # its leave would go nowhere
    one.all("leave", 52, one.model.roots()[0])
    assert hand.said[1:] == ["taken", "gone"] * 2


def test_a_connection_that_ends_has_no_focus(one, hand):
    one.enter()
    one.core.close()
    assert hand.said[1:] == ["taken", "gone"]


def test_two_connections_of_a_sandbox_are_one_focus(sandbox, hand):
    with Sandboxed(sandbox=sandbox) as one, Sandboxed(sandbox=sandbox) as two:
        one.start()
        two.start()
        one.enter()
        two.enter()
        one.all("leave", 51, one.model.roots()[0])
        assert hand.said[-1] == "taken"
        two.all("leave", 52, two.model.roots()[0])
        assert hand.said[-1] == "gone"


def test_no_keymap_no_chords_and_the_reason(one, hand):
    one.keymap(form=0)
    one.enter()
    one.chord(C)
    assert hand.said[1:] == ["the compositor did not send a keymap", "taken"]
    assert (C, 1) in one.typed()


def test_a_keyboard_that_goes_and_comes(one, hand):
    (seat, _) = one.things("wl_seat")
    one.enter()
    one.model.tell(seat, "capabilities", 1)
    one.pump()
    assert hand.said[1:] == ["taken", "gone", "the seat has no keyboard"]
    one.model.tell(seat, "capabilities", 3)
    one.pump()
    assert len(one.told("wl_seat", "get_keyboard")) == 3
    one.send(one.keyboards[0], "release")
    one.core.from_server(
        emit.event("wl_keyboard", "keymap")(one.things("wl_keyboard")[0].oid, 1, 9),
        [one.machine.fd("keymap")],
        0.0,
    )
    one.enter()
    one.chord(C)
    assert hand.said[-1] == "copy"


# -- the person's own selection ---------------------------------------------------------


def test_a_device_of_ours_stands_in_for_one_of_the_clients(sandbox):
    with Sandboxed(sandbox=sandbox) as one:
        one.start(devices=0)
        (own,) = one.things("wl_data_device")
        one.host_selects(TEXT)
        assert one.core.hands.offer.mimes == [TEXT]
        device = one.device()
        (theirs,) = one.things("wl_data_device")
        assert theirs is not own
        one.send(device, "release")
        assert len(one.things("wl_data_device")) == 1


@pytest.mark.parametrize("devices", [0, 1, 2])
def test_the_persons_selection_is_kept_unread_and_never_told(sandbox, devices):
    with Sandboxed(sandbox=sandbox) as one:
        one.start(devices=devices).enter()
        first = one.host_selects(b"text/secret")
        one.host_selects(TEXT)
        assert one.core.hands.offer.mimes == [TEXT]
        assert one.told("wl_data_offer", "destroy") == [[]]
        assert first.oid not in one.model.things
        assert one.told("wl_data_offer", "receive") == []
        assert not any(b"secret" in str(e).encode() for e in one.events)
        assert all(a[0] == 0 for a in one.heard("selection"))


def test_the_persons_selection_is_read_by_its_types_only(one):
    one.enter()
    one.host_selects(TEXT)
    fd = one.machine.fd("pipe")
    assert not one.core.hands.read(b"image/png", fd)
    assert one.core.hands.read(TEXT, fd)
    one.pump()
    assert one.told("wl_data_offer", "receive") == [[TEXT, None]]


def exported(one, hand, *mimes):
    one.enter()
    one.chord(C)
    (core, seat, serial) = hand.presses[-1]
    content = Content(TEXT, b"x-mark")
    assert core.hands.export(seat, serial, content, b"x-mark")
    one.pump()
    return content


@pytest.mark.parametrize("devices", [0, 1])
def test_an_export_has_the_serial_of_its_chord(sandbox, hand, devices):
    with Sandboxed(sandbox=sandbox) as one:
        one.start(devices=devices)
        content = exported(one, hand)
        ((source, serial),) = one.told("wl_data_device", "set_selection")
        assert serial == 62
        assert one.told("wl_data_source", "offer") == [[TEXT], [b"x-mark"]]
        assert content.did == []
        one.host_selects(TEXT)
        assert content.did == []
        one.host_selects(TEXT, b"x-mark")
        assert content.did == ["taken"]
        fd = one.machine.fd("pipe")
        send = emit.event("wl_data_source", "send")(source.oid, TEXT)
        one.core.from_server(send, [fd], 0.0)
        assert content.did == ["taken", TEXT]
        assert fd.closed


def test_an_export_is_cancelled_once_however_often_it_is_said(one, hand):
    content = exported(one, hand)
    ((source, _),) = one.told("wl_data_device", "set_selection")
    cancelled = emit.event("wl_data_source", "cancelled")(source.oid)
    one.core.from_server(cancelled * 2, [], 0.0)
    one.pump()
    assert content.did == ["ended"]
    assert one.told("wl_data_source", "destroy") == [[]]


def test_the_next_export_ends_the_one_before(one, hand):
    first = exported(one, hand)
    second = Content(TEXT)
    core, seat, serial = hand.presses[-1]
    assert core.hands.export(seat, serial + 9, second, b"x-other")
    one.pump()
    assert first.did == ["ended"]
    one.core.hands.take_back(first)
    assert second.did == []
    one.core.hands.take_back(second)
    one.pump()
    assert second.did == ["ended"]
    assert len(one.told("wl_data_source", "destroy")) == 2


def test_an_export_ends_with_its_connection(one, hand):
    content = exported(one, hand)
    one.core.close()
    assert content.did == ["ended"]


def test_without_a_hand_there_is_nothing_of_it():
    with Sandboxed() as one:
        super(Sandboxed, one).start()
        assert one.things("wl_data_device") == []
        (keyboard,) = one.things("wl_keyboard")
        assert one.core.by_server[keyboard.oid].judge is None


def test_a_drag_over_our_own_device_is_held_until_it_leaves(sandbox):
    with Sandboxed(sandbox=sandbox) as one:
        one.start(devices=0)
        (device,) = one.things("wl_data_device")
        offer = one.model.server_offer(device)
        root = one.model.roots()[0]
        one.model.tell(device, "enter", 70, root, 0, 0, offer)
        one.model.tell(device, "drop")
        one.pump()
        assert one.told("wl_data_offer", "destroy") == []
        one.model.tell(device, "leave")
        one.pump()
        assert one.told("wl_data_offer", "destroy") == [[]]


def test_a_seat_that_goes_leaves_nothing(one, hand):
    one.enter()
    name = next(n for n, (i, _) in one.model.offers.items() if i == "wl_seat")
    registry = one.model.things[one.model.registries[0]]
    one.model.tell(registry, "global_remove", name)
    one.pump()
    assert hand.said[-1] == "gone"
    with pytest.raises(ServerError):
        one.bind("wl_compositor", 99)


def test_a_chord_that_is_heard_late_does_nothing(one, hand):
    """It was meant for what the selection and the focus were then."""
    one.enter()
    one.chord(C, serial=60)
    one.now = 5.0
    one.core.now = 5.0
    for number, (code, held) in enumerate([(SUPER, 64), (SHIFT, 65)]):
        one.key(80 + number, code, 1, time=5000)
        one.all("modifiers", 1, held, 0, 0, 0)
    # Read three seconds after it was pressed.
    for keyboard in reversed(one.things("wl_keyboard")):
        one.model.tell(keyboard, "key", 90, 5001, V, 1)
    data = bytes(one.model.out)
    one.model.out.clear()
    one.core.from_server(data, (), 8.0)
    one.pump()
    assert "copy" in hand.said
    assert "paste" not in hand.said
    assert V not in [a[2] for a in one.heard("key")]
