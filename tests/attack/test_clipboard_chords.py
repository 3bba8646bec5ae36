"""A sandbox's program wants to press the person's chord, and cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.core.streams.wayland_verdicts import GLOBALS
from broker.core.streams.wayland_verdicts import GlobalVerdict as Shown
from broker.jail.clipboard.chord_recogniser import PRESSED, RELEASED, Recogniser
from tests.kit.wayland.keymaps import compiled

C, V, A, SHIFT, SUPER = 46, 47, 30, 42, 125
BITS = {SHIFT: 1, SUPER: 64}


@pytest.mark.parametrize(
    "word", ["virtual_keyboard", "virtual_pointer", "input_method", "data_control"]
)
def test_nothing_that_presses_keys_or_reads_clipboards_is_on_offer(word):
    """An interface without a table is never advertised."""
    on_offer = {name for name, row in GLOBALS.items() if row.verdict is not Shown.NO}
    assert "wl_seat" in on_offer
    assert not {name for name in on_offer if word in name}


class Person:
    """Presses keys; the client makes keyboards whenever it wants to."""

    def __init__(self) -> None:
        self.core = Recogniser()
        self.keyboards = 0
        self.held: list[int] = []
        self.chords: list[tuple[int, KeyVerdict]] = []
        self.shown: set[int] = set()
        self.serial = 0
        self.more_keyboards(1)

    def more_keyboards(self, count: int) -> None:
        """Each brings the keymap, the keys held and the modifiers once more."""
        for _ in range(count):
            self.keyboards += 1
            self.core.keymap(compiled("us"))
            self.shown.update(self.core.enter(self.held))
            self.modifiers()

    def modifiers(self) -> None:
        mask = sum(BITS.get(key, 0) for key in self.held)
        self.core.modifiers(mask, 0, 0, 0)

    def toggle(self, key: int) -> None:
        state = RELEASED if key in self.held else PRESSED
        (self.held.remove if state == RELEASED else self.held.append)(key)
        self.serial += 1
        for _ in range(self.keyboards):
            verdict = self.core.key(self.serial, key, state)
            if verdict in {KeyVerdict.COPY, KeyVerdict.PASTE}:
                self.chords.append((self.serial, verdict))
            elif verdict is KeyVerdict.FORWARD and state == PRESSED:
                self.shown.add(key)
        self.modifiers()


KEYS = st.sampled_from([C, V, A, SHIFT, SUPER])


@given(st.lists(st.tuples(KEYS, st.integers(0, 3)), max_size=40))
def test_keyboards_that_a_client_makes_change_no_chord(steps):
    """However many and whenever: the chords are those of the person's presses."""
    alone, beset = Person(), Person()
    wanted = []
    for key, keyboards in steps:
        if key in {C, V} and key not in alone.held and {SHIFT, SUPER} <= {*alone.held}:
            wanted.append(key)
        alone.toggle(key)
        beset.more_keyboards(keyboards)
        beset.toggle(key)
    assert beset.chords == alone.chords
    assert [v for _, v in beset.chords] == [
        KeyVerdict.COPY if key == C else KeyVerdict.PASTE for key in wanted
    ]
    assert beset.shown == alone.shown


def test_a_chord_held_is_not_seen_by_a_keyboard_made_meanwhile():
    person = Person()
    for key in (SUPER, SHIFT, C):
        person.toggle(key)
    person.more_keyboards(5)
    assert person.shown == {SUPER, SHIFT}
    assert len(person.chords) == 1


def focused_with(*held: int) -> Recogniser:
    """A window that came while the person held these keys."""
    made = Recogniser()
    made.keymap(compiled("us"))
    made.enter(held)
    made.modifiers(sum(BITS.get(key, 0) for key in held), 0, 0, 0)
    return made


def test_a_window_that_comes_between_modifiers_and_letter_takes_no_chord():
    made = focused_with(SUPER, SHIFT)
    assert made.key(1, C, PRESSED) is KeyVerdict.SWALLOW
    made.modifiers(0, 0, 0, 0)
    for number, (key, mask) in enumerate([(SUPER, 64), (SHIFT, 65)]):
        assert made.key(10 + number, key, PRESSED) is KeyVerdict.FORWARD
        made.modifiers(mask, 0, 0, 0)
    assert made.key(20, C, PRESSED) is KeyVerdict.COPY


def test_nor_one_that_comes_between_the_modifiers():
    made = focused_with(SUPER)
    made.key(1, SHIFT, PRESSED)
    made.modifiers(65, 0, 0, 0)
    assert made.key(2, V, PRESSED) is KeyVerdict.SWALLOW


def test_a_compositor_that_tells_modifiers_before_the_enter_only():
    """The next ones are of a press that came after it."""
    made = Recogniser()
    made.keymap(compiled("us"))
    made.modifiers(0, 0, 0, 0)
    made.enter(())
    for number, (key, mask) in enumerate([(SUPER, 64), (SHIFT, 65)]):
        made.key(10 + number, key, PRESSED)
        made.modifiers(mask, 0, 0, 0)
    assert made.key(20, C, PRESSED) is KeyVerdict.COPY
