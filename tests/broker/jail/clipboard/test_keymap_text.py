"""Keymaps are read as libxkbcommon reads them, and any text gives an answer."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import clipboard as limits
from broker.jail.clipboard import keymap_text
from broker.jail.clipboard.keymap import KeymapKey
from broker.jail.clipboard.keymap_text import KeymapError, read_keymap
from tests.kit.wayland.keymaps import by_library, compiled

LAYOUTS = [
    ("us", "", ""),
    ("de", "", ""),
    ("fr", "", ""),
    ("ru", "", ""),
    ("us", "dvorak", ""),
    ("us,ru", "", ""),
    ("us,ru,gr,de", "", "grp:alt_shift_toggle"),
    ("de", "neo", ""),
    ("jp", "", ""),
    ("tr", "", ""),
    ("us", "", "caps:super"),
]


@pytest.mark.parametrize(("layout", "variant", "options"), LAYOUTS)
def test_every_key_has_the_symbols_that_libxkbcommon_sees(layout, variant, options):
    text = compiled(layout, variant, options)
    ours = read_keymap(text + b"\0")
    theirs = by_library(text)
    assert len(theirs) > 200
    for code, layouts in theirs.items():
        for at, symbols in enumerate(layouts):
            found = ours.keys.get(code, KeymapKey(()))
            assert found.symbols(at) == symbols, (code, at)
    # Keys with symbols that the library does not have would be keys too many.
    assert {c for c, k in ours.keys.items() if any(k.layouts)} <= set(theirs)


def test_modifiers_are_the_bits_of_the_keys_that_drive_them():
    keymap = read_keymap(compiled("us"))
    assert keymap.mask("Shift") == 1
    assert keymap.mask("Control") == 4
    assert keymap.mask("Alt") == 8
    assert keymap.mask("NumLock") == 16
    assert keymap.mask("Super") == 64
    assert keymap.mask("ScrollLock") == 0


def test_super_on_caps_lock_is_super():
    keymap = read_keymap(compiled("us", "", "caps:super"))
    assert keymap.mask("Super") == 64
    assert keymap.modifiers[58] == 64


SMALL = b"""xkb_keymap {
xkb_keycodes "x" { minimum = 8; <K1> = 9; <K2> = 10; alias <A> = <K2>; };
xkb_types "x" { virtual_modifiers Alt;
  type "ONE_LEVEL" { modifiers= none; };
  type "TWO_LEVEL" { modifiers= Shift; map[Shift]= 2; };
};
xkb_compat "x" { interpret Super_L { action= SetMods(modifiers= modMapMods); }; };
xkb_symbols "x" { // a remark
  key <K1> { [ h, H ], [ { a, b }, NoSymbol ] };
  key <A> { groupsClamp, type= "ONE_LEVEL", symbols[Group1]= [ Super_L ] };
  modifier_map Mod4 { Super_L };
}; };"""


def test_a_virtual_keyboards_keymap_is_read():
    """wtype gives 'h' the code of Esc; several symbols on one level are legal."""
    keymap = read_keymap(SMALL)
    assert keymap.codes("h", 0) == {1}
    assert keymap.keys[1].layouts == (("h",), ("a", "b"))
    assert keymap.mask("Super") == 64
    assert keymap.modifiers == {2: 64}


def with_group(rule: bytes) -> tuple[str, ...]:
    """Return the symbols of a key of two layouts in the third of a keymap of three."""
    text = SMALL.replace(b"key <K1> { ", b"key <K1> { " + rule)
    third = b"key <K3> { [ x ], [ y ], [ z ] };\n  modifier_map"
    text = text.replace(b"modifier_map", third).replace(b"10;", b"10; <K3> = 11;")
    return read_keymap(text).keys[1].symbols(2)


def test_a_layout_that_a_key_lacks_is_wrapped_clamped_or_redirected():
    assert with_group(b"") == ("h",)  # 2 modulo 2
    assert with_group(b"groupsRedirect= Group1, ") == ("h",)
    assert with_group(b"groupsClamp, ") == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"xkb_keymap",
        b"xkb_keymap {",
        b"xkb_keymap { };",
        b"\xff\xfe",
        SMALL[:-3],
        SMALL + b" more",
        SMALL.replace(b"<K1> = 9", b"<K1> = nine"),
        SMALL.replace(b"Mod4", b"Mod9"),
        SMALL.replace(b"Group1", b"Group5"),
        SMALL.replace(b"[ h, H ]", b"[ h, H )"),
        SMALL.replace(b"modifier_map Mod4 { Super_L };", b'include "us";'),
        SMALL.replace(b"minimum = 8;", b'include "evdev";'),
        SMALL.replace(b"xkb_types", b"xkb_symbols"),
        SMALL.replace(b"[ h", b"[ a ], [ a ], [ a ], [ h"),
        SMALL.replace(b"// a remark", b"`"),
    ],
)
def test_what_cannot_be_read_says_so(text):
    with pytest.raises(KeymapError):
        read_keymap(text)


def test_a_key_without_a_code_is_left_out():
    keymap = read_keymap(SMALL.replace(b"key <K1>", b"key <K9>"))
    assert keymap.codes("h", 0) == frozenset()
    assert keymap.mask("Super") == 64


def test_without_the_library_there_is_no_keymap(monkeypatch):
    monkeypatch.setattr(keymap_text, "_LIBRARY", None)
    with pytest.raises(KeymapError, match="libxkbcommon is not installed"):
        read_keymap(SMALL + b"\n\n\n")


def test_the_largest_keymap_is_read_and_a_byte_more_is_not():
    room = limits.CLIPBOARD_KEYMAP_BYTES - len(SMALL)
    assert read_keymap(SMALL + b"\n" * room).codes("h", 0) == {1}
    with pytest.raises(KeymapError, match="larger"):
        read_keymap(SMALL + b"\n" * (room + 1))


def test_as_many_keymaps_are_kept_as_read_and_not_one_more():
    read_keymap.cache_clear()
    first = read_keymap(SMALL)
    for n in range(limits.CLIPBOARD_KEYMAPS - 1):
        read_keymap(SMALL + b"\n" * (n + 1))
    assert read_keymap(SMALL) is first
    for n in range(limits.CLIPBOARD_KEYMAPS):
        read_keymap(SMALL + b" " * (n + 1))
    assert read_keymap.cache_info().currsize == limits.CLIPBOARD_KEYMAPS
    assert read_keymap(SMALL) is not first


@functools.cache
def words() -> list[bytes]:
    return SMALL.replace(b";", b" ; ").split()


@given(st.data())
def test_no_text_gives_another_error(data):
    """Words of a real keymap in any order, some missing, some random."""
    word = st.sampled_from(words()) | st.binary(max_size=4)
    start = data.draw(st.integers(0, len(words())))
    end = data.draw(st.integers(start, len(words())))
    middle = data.draw(st.lists(word, max_size=8))
    text = b" ".join([*words()[:start], *middle, *words()[end:]])
    try:
        keymap = read_keymap(text)
    except KeymapError:
        return
    for key in keymap.keys.values():
        key.symbols(7)
    keymap.codes("h", 5)
    keymap.mask("Super")
