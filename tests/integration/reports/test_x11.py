"""Bug reports of X11 bridges and window managers, replayed: docs/reports.md.

Both far ends, the compositor and Xwayland, are played by the kit.
"""

from __future__ import annotations

import struct

import pytest

from tests.kit.x11 import ROOT, Ends, words

ONE, TWO = 0x400010, 0x400020
OFFER = 0xFF000005
INPUT = 1
WHEN, SINCE = 77_000, 66_000


class Asked(Ends):
    """Remembers what the bridge asked of Xwayland, and what it sent to windows."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, bytes]] = []
        super().__init__()

    def _reply(self, opcode: int, minor: int, body: bytes):
        self.requests.append((opcode, body))
        return super()._reply(opcode, minor, body)

    def focused(self) -> list[int]:
        """Windows that got X11's focus, since the last time."""
        found = [struct.unpack_from("<I", b)[0] for o, b in self.requests if o == 42]
        self.requests.clear()
        return found

    def name(self, atom: int) -> str:
        return next(n.decode() for n, number in self.atoms.items() if number == atom)

    # -- the clipboard

    def copied(self, *mimes: str, data: bytes = b"") -> None:
        """A program of the desktop copies something."""
        device = self.bridge.selections.device().device.up
        self.tell(device, "data_offer", OFFER)
        self.above[OFFER] = "wl_data_offer"
        self.run()
        for mime in mimes:
            self.tell(OFFER, "offer", mime)
        self.tell(device, "selection", OFFER)
        self.run()
        self.pasted = data
        # Xwayland tells whose it is now, and since when.
        words = (self.core.helper, self.core.helper, self.atom(b"CLIPBOARD"))
        self.event(90, "IIIII", *words, WHEN, SINCE)
        self.run()

    def asked_for(self, target: str, prop: str = "P") -> tuple[str, object] | None:
        """An X11 program pastes: type and content that it gets, None if refused."""
        atoms = [self.atom(name.encode()) for name in ("CLIPBOARD", target, prop)]
        self.requests.clear()
        self.event(30, "6I", WHEN, self.core.helper, ONE, *atoms)
        self.run()
        selections = self.bridge.selections
        while selections.readers():
            selections.ready(selections.readers())
            self.run()
        answers = [b for o, b in self.requests if o == 25 and b[8] & 0x7F == 31]
        (answer,) = answers
        given = struct.unpack_from("<5I", answer, 12)
        assert given[1:4] == (ONE, *atoms[:2]), "for whom, of what, as what"
        return self.property_of(atoms[2]) if given[4] else None

    def property_of(self, atom: int) -> tuple[str, object]:
        """Type and content of the window's property, as it was last set."""
        sets = [b for o, b in self.requests if o == 18]
        for body in reversed(sets):
            window, prop, kind, form, items = struct.unpack_from("<IIIB3xI", body)
            if (window, prop) == (ONE, atom):
                data = body[20 : 20 + items * (form // 8)]
                values = struct.unpack(f"<{items}I", data) if form == 32 else data
                return self.name(kind), values
        raise AssertionError("the property was not set")


@pytest.fixture
def ends():
    it = Asked()
    it.show(ONE)
    return it


TEXT = "Grüße".encode()


@pytest.mark.parametrize(
    "offered", ["text/plain", "text/plain;charset=utf-8", "text/plain;charset=UTF-8"]
)
def test_a_text_type_that_is_listed_is_given(ends, offered):
    ends.copied(offered, data=TEXT)
    kind, listed = ends.asked_for("TARGETS")
    assert kind == "ATOM"
    names = [ends.name(atom) for atom in listed]
    assert {"UTF8_STRING", "STRING", "TEXT", offered} <= set(names)
    for name in names:
        if name not in ("TARGETS", "TIMESTAMP", "MULTIPLE"):
            assert ends.asked_for(name) is not None, name


def test_text_is_of_the_type_that_its_bytes_have(ends):
    ends.copied("text/plain;charset=utf-8", data=TEXT + "Ω".encode())
    assert ends.asked_for("UTF8_STRING") == ("UTF8_STRING", TEXT + "Ω".encode())
    assert ends.asked_for("STRING") == ("STRING", "Grüße?".encode("latin-1"))
    # ICCCM 2.6.2: the owner chooses the encoding, and the answer is still for TEXT.
    assert ends.asked_for("TEXT") == ("UTF8_STRING", TEXT + "Ω".encode())


def test_a_copy_says_since_when_it_is_there(ends):
    ends.copied("text/plain")
    assert "TIMESTAMP" in [ends.name(a) for a in ends.asked_for("TARGETS")[1]]
    assert ends.asked_for("TIMESTAMP") == ("INTEGER", (SINCE,))


def test_several_types_are_given_at_once_and_a_refused_one_is_named(ends):
    ends.copied("text/plain", data=TEXT)
    pairs = [("UTF8_STRING", "A"), ("image/png", "B"), ("TIMESTAMP", "C")]
    atoms = [ends.atom(name.encode()) for pair in pairs for name in pair]
    ends.properties[ONE, "P"] = (32, struct.pack("<6I", *atoms))
    kind, answered = ends.asked_for("MULTIPLE")
    assert kind == "ATOM_PAIR"
    assert answered == (*atoms[:3], 0, *atoms[4:])
    assert ends.property_of(atoms[1]) == ("UTF8_STRING", TEXT)
    assert ends.property_of(atoms[5]) == ("INTEGER", (SINCE,))


def test_several_types_within_others_are_no_loop(ends):
    ends.copied("text/plain", data=TEXT)
    atoms = [ends.atom(name) for name in (b"MULTIPLE", b"P")]
    ends.properties[ONE, "P"] = (32, struct.pack("<2I", *atoms))
    assert ends.asked_for("MULTIPLE") == ("ATOM_PAIR", (atoms[0], 0))


def test_no_more_pairs_are_answered_than_a_list_may_have(ends):
    ends.copied("text/plain", data=TEXT)
    pairs = [ends.atom(name) for name in (b"TIMESTAMP", b"Q")] * 200
    ends.properties[ONE, "P"] = (32, struct.pack("<400I", *pairs))
    assert ends.asked_for("MULTIPLE") == ("ATOM_PAIR", tuple(pairs[:32]))


def told_keyboard(ends: Asked, name: str, surface: int) -> None:
    keyboard = ends.up(ends.keyboard)
    more = (b"",) if name == "enter" else ()
    ends.tell(keyboard, name, 70, ends.up(surface), *more)


def test_a_window_that_takes_the_focus_itself_is_told_the_time(ends):
    ends.properties[TWO, "WM_HINTS"] = (32, words(INPUT, 0).data)
    take = ends.atom(b"WM_TAKE_FOCUS")
    ends.properties[TWO, "WM_PROTOCOLS"] = (32, words(take).data)
    surface = ends.show(TWO)
    ends.focused()
    told_keyboard(ends, "enter", surface)
    ends.run()
    assert ends.focused() == [], "it has the server give it the focus (ICCCM 4.1.7)"
    ((kind, values),) = ends.x_messages(TWO)
    assert kind == "WM_PROTOCOLS"
    assert values[:2] == [take, int(ends.now * 1000)]


def test_a_window_without_input_gets_no_focus(ends):
    """As dialogs of IntelliJ, beside a window that takes the focus itself."""
    ends.properties[TWO, "WM_HINTS"] = (32, words(INPUT, 0).data)
    surface = ends.show(TWO)
    ends.focused()
    told_keyboard(ends, "enter", surface)
    ends.run()
    assert ends.focused() == []
    assert ends.x_messages(TWO) == []


def test_a_menu_that_gets_the_keyboard_takes_no_focus_from_its_window():
    ends = Asked()
    surface = ends.show(ONE)
    told_keyboard(ends, "enter", surface)
    ends.run()
    assert ends.focused() == [ONE]
    menu = ends.show(TWO, (1300, 820, 100, 100), own=True)
    ends.focused()
    told_keyboard(ends, "leave", surface)
    told_keyboard(ends, "enter", menu)
    ends.run()
    assert ends.focused() == [], "X11 knows of no change"
    told_keyboard(ends, "leave", menu)
    told_keyboard(ends, "enter", surface)
    ends.run()
    assert ends.focused() == []
    told_keyboard(ends, "leave", surface)
    ends.run()
    assert ends.focused() == [ends.core.helper]


def test_a_menu_left_of_the_first_screen_is_beside_its_window():
    ends = Asked()
    ends.show(ONE)
    window = ends.core.windows[ONE]
    x, y = window.x - 60, window.y + 20
    ends.show(TWO, (x, y, 50, 50), own=True)
    (place,) = [
        v for i, n, v in ends.asked if (i, n) == ("xdg_positioner", "set_anchor_rect")
    ]
    assert place == [-60, 20, 1, 1]
    assert ends.count("xdg_surface", "get_popup") == 1


def test_a_menu_with_four_shadows_is_shown_whole():
    """As plug-ins of Wine make them: a window for each side, one of them 1x1 at first."""
    ends = Asked()
    ends.show(ONE)
    sides = [
        (1300, 820, 1, 1),
        (1300, 900, 80, 6),
        (1296, 820, 4, 80),
        (1380, 820, 4, 80),
    ]
    for number, place in enumerate([*sides, (1300, 820, 80, 80)]):
        ends.show(TWO + number, place, own=True)
    assert ends.count("xdg_surface", "get_popup") == 5
    assert ends.count("xdg_popup", "destroy") == 0
    assert ends.count("xdg_surface", "get_toplevel") == 1


def test_a_root_property_of_the_focus_is_the_window_with_the_keyboard():
    ends = Asked()
    surface = ends.show(ONE)
    told_keyboard(ends, "enter", surface)
    ends.run()
    active = ends.atom(b"_NET_ACTIVE_WINDOW")
    sets = [b for o, b in ends.requests if o == 18]
    found = [struct.unpack_from("<IIIB3xII", b) for b in sets if len(b) == 24]
    assert (ROOT, active, ONE) in [(w, p, v) for w, p, _, _, _, v in found]
