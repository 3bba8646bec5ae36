"""Which keys a symbol means, layout by layout."""

from __future__ import annotations

import pytest

from broker.jail.clipboard.keymap import Keymap, KeymapKey
from broker.jail.clipboard.keymap_text import read_keymap
from tests.kit.wayland.keymaps import compiled

# Wayland's codes: the key right of X, and the letter there elsewhere.
C, V, LETTER_I, PERIOD = 46, 47, 23, 52


@pytest.mark.parametrize(
    ("layout", "variant", "active", "copy", "paste"),
    [
        ("us", "", 0, C, V),
        ("de", "", 0, C, V),
        ("fr", "", 0, C, V),
        ("us", "dvorak", 0, LETTER_I, PERIOD),
        ("us,ru", "", 0, C, V),
        ("us,ru", "", 1, C, V),
        ("ru,us", "", 0, C, V),
        ("gr,us", "", 0, C, V),
        # Dvorak's c and us's c are different keys; the active layout says which.
        ("us,us", "dvorak,", 0, LETTER_I, PERIOD),
        ("us,us", "dvorak,", 1, C, V),
        # A layout that the keymap does not have wraps.
        ("us,us", "dvorak,", 2, LETTER_I, PERIOD),
    ],
)
def test_the_active_layout_says_first(layout, variant, active, copy, paste):
    keymap = read_keymap(compiled(layout, variant))
    assert keymap.codes("c", active) == {copy}
    assert keymap.codes("v", active) == {paste}


def test_a_keymap_with_latin_letters_but_this_one_has_none():
    keymap = Keymap({C: KeymapKey((("Greek_psi",),)), 1: KeymapKey((("x",),))}, {})
    assert keymap.codes("c", 0) == frozenset()


@pytest.mark.parametrize("layout", ["ru", "gr", "il", "ara", "ge", "th"])
def test_without_any_latin_letter_the_place_of_the_key_counts(layout):
    keymap = read_keymap(compiled(layout))
    assert keymap.codes("c", 0) == {C}
    assert keymap.codes("v", 0) == {V}
    assert keymap.codes("F1", 0) == {59}
    assert keymap.codes("eacute", 0) == frozenset()


def test_a_key_that_reads_as_another_letter_is_not_taken():
    """In the active layout it bears q: pressed, the person means q."""
    keymap = Keymap(
        {1: KeymapKey((("q",), ("c",))), 2: KeymapKey((("Greek_psi",), ("c",)))}, {}
    )
    assert keymap.codes("c", 0) == {2}
    assert keymap.codes("c", 1) == {1, 2}


def test_a_key_without_symbols_bears_none():
    assert KeymapKey(()).symbols(0) == ()
    assert Keymap({1: KeymapKey(())}, {}).codes("c", 0) == frozenset()


def test_shift_and_control_are_no_part_of_another_modifier():
    keymap = Keymap({1: KeymapKey((("Super_L",),))}, {1: 1 | 4 | 64})
    assert keymap.mask("Super") == 64
