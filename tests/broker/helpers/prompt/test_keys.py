"""The word can be typed in every layout, and means what its keys bear."""

from __future__ import annotations

import pytest

from broker.helpers.prompt.keys import Keys
from tests.kit.wayland.keymaps import compiled

ALLOW = (30, 38, 38, 24, 17)
DVORAK = (30, 25, 25, 31, 51)
"""Where Dvorak has these letters."""
LAYOUTS = ["ru", "ua", "bg", "rs", "gr", "il", "ara", "ir", "ge", "am", "th", "in", "kr", "jp,ru", "us,ru"]  # fmt: skip


def typed(text: bytes, codes, group: int = 0) -> str:
    keys = Keys()
    try:
        assert keys.keymap(text)
        keys.modifiers(0, 0, 0, group)
        return "".join(keys.read(code)[1] for code in codes)
    finally:
        keys.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_word_can_be_typed_by_the_places_of_its_keys(layout):
    group = layout.count(",")  # the last one
    assert typed(compiled(layout), ALLOW, group) == "allow"


def test_a_layout_with_latin_letters_types_its_own():
    """Of Dvorak the same places are other letters, and its word is elsewhere."""
    assert typed(compiled("us", "dvorak"), ALLOW) == "annr,"
    assert typed(compiled("us", "dvorak"), DVORAK) == "allow"
    assert typed(compiled("fr"), (16, 30)) == "aq"


def test_a_group_decides_for_itself():
    both = compiled("ru,us", "")
    assert typed(both, ALLOW, 0) == typed(both, ALLOW, 1) == "allow"
    assert typed(compiled("ru,us", ",dvorak"), DVORAK, 1) == "allow"
    assert typed(compiled("ru,us", ",dvorak"), DVORAK, 0) == "apps" + "б"


def test_with_control_a_key_types_nothing():
    keys = Keys()
    try:
        assert keys.keymap(compiled("ru"))
        keys.modifiers(4, 0, 0, 0)
        assert keys.read(30)[1] == ""
    finally:
        keys.close()
