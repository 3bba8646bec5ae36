"""Chords: seen once, never shown, never made by anything but a press."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.clipboard.chord_settings import TEXTS
from broker.core.clipboard.chords import DEFAULT, PRESETS, QUBES, Chord, ChordPair
from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.core.errors import SetupError
from broker.core.limits import clipboard as limits
from broker.jail.clipboard.chord_recogniser import (
    PRESSED,
    RELEASED,
    REPEATED,
    Recogniser,
)
from tests.kit.wayland.keymaps import compiled

FORWARD, SWALLOW = KeyVerdict.FORWARD, KeyVerdict.SWALLOW
C, V, A, LSHIFT, LCTRL, SUPER = 46, 47, 30, 42, 29, 125
SHIFT, LOCK, CTRL, ALT, NUM, WIN = 1, 2, 4, 8, 16, 64


class InputListener:
    """A person at a keyboard, through a compositor."""

    def __init__(
        self, chords: ChordPair = DEFAULT, keymap: bytes | None = None
    ) -> None:
        self.core = Recogniser(chords)
        self.core.keymap(compiled("us") if keymap is None else keymap)
        self.core.enter([])
        self.core.modifiers(0, 0, 0, 0)
        self.serial = 1

    def hold(self, mask: int, group: int = 0) -> None:
        self.core.modifiers(mask, 0, 0, group)

    def key(self, key: int, state: int = PRESSED) -> KeyVerdict:
        self.serial += 1
        return self.core.key(self.serial, key, state)


def test_copy_and_paste_are_seen_and_their_keys_never_shown():
    hand = InputListener()
    assert hand.core.trouble == ""
    assert hand.key(SUPER) is FORWARD
    hand.hold(WIN)
    assert hand.key(LSHIFT) is FORWARD
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is KeyVerdict.COPY
    assert hand.key(C, REPEATED) is SWALLOW
    assert hand.key(C, RELEASED) is SWALLOW
    assert hand.key(V) is KeyVerdict.PASTE
    # The modifiers first: still swallowed, and the modifiers are let go.
    assert hand.key(SUPER, RELEASED) is FORWARD
    assert hand.key(LSHIFT, RELEASED) is FORWARD
    hand.hold(0)
    assert hand.key(V, RELEASED) is SWALLOW
    assert hand.key(V) is FORWARD
    assert hand.key(V, REPEATED) is FORWARD
    assert hand.key(V, RELEASED) is FORWARD


def test_a_program_that_types_by_a_virtual_keyboard_is_no_trouble():
    """Its keymap stays until the user's next key: the warning stayed, and was wrong."""
    # That of wtype has keys for its characters alone, and no modifiers' keys.
    typed = re.sub(rb"modifier_map[^;]*;", b"", compiled("us"))
    alone = InputListener(keymap=typed)
    assert "does not distinguish" in alone.core.trouble, "there is no other keyboard"
    hand = InputListener()
    assert hand.core.keymap(typed) == ""
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is FORWARD, "and it makes no chord"
    hand.key(C, RELEASED)
    assert hand.core.keymap(compiled("us")) == ""
    hand.hold(0)
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is KeyVerdict.COPY
    other = re.sub(rb"\bc, +C\b", b"eacute, Eacute", compiled("us"))
    assert "layout" in hand.core.keymap(other), "of a keyboard it is told"


def test_bits_of_virtual_modifiers_do_not_matter():
    """mutter 43 tells Super as Mod4 and as bit 19."""
    hand = InputListener()
    hand.hold(WIN | SHIFT | 1 << 19)
    assert hand.key(C) is KeyVerdict.COPY
    hand.hold(WIN | SHIFT | ALT | 1 << 19)
    assert hand.key(V) is FORWARD


@pytest.mark.parametrize("more", [0, LOCK, NUM, LOCK | NUM])
def test_caps_lock_and_num_lock_do_not_matter(more):
    hand = InputListener()
    hand.hold(WIN | SHIFT | more)
    assert hand.key(C) is KeyVerdict.COPY


@pytest.mark.parametrize("mask", [0, WIN, SHIFT, WIN | SHIFT | CTRL, ALT | SHIFT, 256])
def test_other_modifiers_are_no_chord(mask):
    hand = InputListener()
    hand.hold(mask)
    assert hand.key(C) is FORWARD


@pytest.mark.parametrize("bit", [1 << at for at in range(2, 8) if at not in {4, 6}])
def test_no_further_modifier_makes_a_chord(bit):
    hand = InputListener()
    hand.hold(WIN | SHIFT | bit)
    assert hand.key(C) is FORWARD


def test_sticky_keys_press_a_chord():
    hand = InputListener()
    hand.core.modifiers(0, WIN, SHIFT, 0)
    assert hand.key(C) is KeyVerdict.COPY


def test_the_preset_of_qubes():
    hand = InputListener(QUBES)
    hand.hold(CTRL | SHIFT)
    assert hand.key(C) is KeyVerdict.COPY
    assert hand.key(V) is KeyVerdict.PASTE
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is FORWARD
    assert PRESETS["qubes"] is QUBES


def test_the_preset_for_input_methods_has_no_shift():
    """With Shift the pinyin of ibus takes the letter, as that of a Latin word."""
    hand = InputListener(PRESETS["input-method"])
    hand.hold(WIN | CTRL)
    assert hand.key(C) is KeyVerdict.COPY
    assert hand.key(V) is KeyVerdict.PASTE
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is FORWARD


def test_each_preset_is_written_as_it_is_pressed():
    assert list(TEXTS) == list(PRESETS)
    for name, (copy, paste) in TEXTS.items():
        assert ChordPair(Chord.parse(copy), Chord.parse(paste)) == PRESETS[name]


@pytest.mark.parametrize(
    ("layout", "variant", "group", "key"),
    [
        ("us,ru", "", 1, C),
        ("us", "dvorak", 0, 23),
        ("us,us", "dvorak,", 1, C),
        ("fr", "", 0, C),
        ("ru", "", 0, C),
        ("gr", "", 0, C),
    ],
)
def test_under_other_layouts(layout, variant, group, key):
    hand = InputListener(keymap=compiled(layout, variant))
    assert hand.core.trouble == ""
    hand.hold(WIN | SHIFT, group)
    assert hand.key(key) is KeyVerdict.COPY


def test_a_virtual_keyboards_codes_are_not_taken_for_others():
    """With its keymap gone, code 46 is what the new keymap says."""
    hand = InputListener()
    hand.core.keymap(
        b"xkb_keymap { xkb_keycodes { <A> = 54; <B> = 9; <S> = 133; };"
        b'xkb_types { type "ONE_LEVEL" { modifiers= none; };'
        b'type "ALPHABETIC" { modifiers= Shift; map[Shift]= 2; }; };'
        b"xkb_compat { interpret Super_L { action= SetMods(modifiers= modMapMods); }; };"
        b"xkb_symbols { key <A> {[ x ]}; key <B> {[ c, C ]}; key <S> {[ Super_L ]};"
        b"modifier_map Mod4 { <S> }; }; };"
    )
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is FORWARD
    assert hand.key(1) is KeyVerdict.COPY
    assert "paste" in hand.core.trouble


def test_without_a_readable_keymap_there_are_no_chords_and_it_says_so():
    hand = InputListener()
    for text, word in [
        (None, "did not send a keymap"),
        (b"junk", "libxkbcommon cannot read"),
    ]:
        assert word in hand.core.keymap(text)
        hand.hold(WIN | SHIFT)
        assert hand.key(C) is FORWARD
        assert hand.key(C, RELEASED) is FORWARD
    assert hand.core.keymap(compiled("us")) == ""
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is KeyVerdict.COPY


def test_a_keymap_without_the_letter_says_so():
    core = Recogniser(
        ChordPair(Chord.parse("Super+Shift+eacute"), Chord.parse("Super+Shift+v"))
    )
    assert "copy" in core.keymap(compiled("ru"))
    assert "layout 1" in core.trouble
    own = ChordPair(
        Chord.parse("Super+Shift+Cyrillic_es"), Chord.parse("Super+Shift+Cyrillic_em")
    )
    assert Recogniser(own).keymap(compiled("ru")) == ""


def test_a_key_that_would_be_both_is_neither():
    both = ChordPair(
        Chord.parse("Super+Shift+c"), Chord.parse("Super+Shift+Cyrillic_es")
    )
    hand = InputListener(both, compiled("us,ru"))
    assert hand.core.trouble
    hand.hold(WIN | SHIFT, 0)
    assert hand.key(C) is KeyVerdict.COPY  # the key bears a Latin letter there
    hand.hold(WIN | SHIFT, 1)
    assert hand.key(C) is FORWARD


def test_each_event_is_judged_once_for_all_keyboards():
    hand = InputListener()
    hand.hold(WIN | SHIFT)
    assert hand.core.key(50, C, PRESSED) is KeyVerdict.COPY
    assert hand.core.key(50, C, PRESSED) is SWALLOW
    assert hand.core.key(51, C, RELEASED) is SWALLOW
    assert hand.core.key(51, C, RELEASED) is SWALLOW
    hand.hold(0)
    assert [hand.core.key(52, A, PRESSED) for _ in range(2)] == [FORWARD] * 2
    assert [hand.core.key(53, A, RELEASED) for _ in range(2)] == [FORWARD] * 2


def test_verdicts_are_remembered_up_to_the_limit():
    hand = InputListener()
    hand.hold(WIN | SHIFT)
    assert hand.core.key(1000, C, PRESSED) is KeyVerdict.COPY
    for serial in range(limits.CLIPBOARD_KEY_EVENTS - 1):
        hand.core.key(2000 + serial, A, PRESSED)
    assert hand.core.key(1000, C, PRESSED) is SWALLOW
    hand.core.key(3000, A, PRESSED)
    assert hand.core.key(1000, C, PRESSED) is KeyVerdict.COPY  # a new event by now


def test_the_layouts_kept_ready_are_limited():
    hand = InputListener(keymap=compiled("us,ru"))
    for group in range(limits.CLIPBOARD_LAYOUTS + 3):
        hand.hold(WIN | SHIFT, group)
        assert hand.key(C) is KeyVerdict.COPY
        assert len(hand.core._ready) <= limits.CLIPBOARD_LAYOUTS


def test_a_new_window_in_mid_chord_sees_modifiers_only():
    """The chord's key held over a change of focus types in neither window."""
    hand = InputListener()
    hand.hold(WIN | SHIFT)
    assert hand.key(C) is KeyVerdict.COPY
    hand.core.leave()
    assert hand.core.enter([LSHIFT, C, SUPER]) == (LSHIFT, SUPER)
    hand.hold(WIN | SHIFT)
    assert hand.key(C, RELEASED) is SWALLOW
    assert hand.key(LSHIFT, RELEASED) is FORWARD
    assert hand.key(SUPER, RELEASED) is FORWARD


def test_no_chord_without_focus_or_before_the_modifiers_are_known():
    hand = InputListener()
    hand.hold(WIN | SHIFT)
    hand.core.leave()
    assert hand.key(C) is SWALLOW
    hand.core.enter([])
    assert hand.key(C) is FORWARD  # the state of before is forgotten
    hand.hold(WIN | SHIFT)
    hand.core.keymap(compiled("de"))
    assert hand.key(C) is FORWARD  # bits in another keymap's terms


def test_the_same_keymap_again_changes_nothing():
    """As each new wl_keyboard of a client brings it."""
    hand = InputListener()
    hand.hold(WIN | SHIFT)
    assert hand.core.keymap(compiled("us")) == ""
    assert hand.key(C) is KeyVerdict.COPY


@pytest.mark.parametrize(
    "text", ["", "C", "Shift+C", "Super+", "Hyper+C", "Super+Super+C", "Super+C D"]
)
def test_malformed_chords(text):
    with pytest.raises(SetupError):
        Chord.parse(text)


def test_one_chord_for_both_is_refused():
    with pytest.raises(SetupError):
        ChordPair(Chord.parse("Super+C"), Chord.parse("super+c"))


EVENTS = st.one_of(
    st.tuples(
        st.just("key"),
        st.sampled_from([C, V, A, LSHIFT, SUPER]),
        st.sampled_from([RELEASED, PRESSED, REPEATED]),
    ),
    st.tuples(st.just("mods"), st.sampled_from([0, SHIFT, WIN, WIN | SHIFT, 255])),
    st.tuples(st.just("enter"), st.lists(st.sampled_from([C, A, LSHIFT, SUPER]))),
    st.tuples(st.just("leave")),
    st.tuples(st.just("keymap"), st.sampled_from(["us", "de", None])),
)


@given(st.lists(EVENTS, max_size=60))
def test_a_client_sees_the_release_of_each_key_that_it_saw_pressed(events):
    """And nothing else; and a chord needs a press, with exactly its modifiers."""
    core = Recogniser()
    seen: set[int] = set()
    held = None
    for serial, (kind, *what) in enumerate(events):
        match kind, what:
            case "key", [key, state]:
                verdict = core.key(serial, key, state)
                if verdict in {KeyVerdict.COPY, KeyVerdict.PASTE}:
                    assert state == PRESSED
                    assert held == WIN | SHIFT
                    assert key == (C if verdict is KeyVerdict.COPY else V)
                elif state == PRESSED:
                    seen |= {key} if verdict is FORWARD else set()
                else:
                    assert (verdict is FORWARD) == (key in seen)
                    seen -= {key} if state == RELEASED else set()
            case "mods", [mask]:
                core.modifiers(mask, 0, 0, 0)
                held = mask
            case "enter", [keys]:
                seen |= set(core.enter(keys))
            case "keymap", [name]:
                core.keymap(compiled(name) if name else None)
            case _:
                core.leave()
                seen.clear()
