"""Attack: 10,000 names of every class; none that passes can leave its directory."""

from __future__ import annotations

import os
import random
import unicodedata

import pytest

from broker.core.errors import RefusedError
from broker.core.transfer.file_names import display_name, take_file_name

COUNT = 10_000
SEED = 18
CLASSES = {
    "control": [*range(0x20), 0x7F, *range(0x80, 0xA0)],
    "bidi": [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "zero width": [0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD, 0x034F, 0x180E],
    "tags": list(range(0xE0000, 0xE0080)),
    "lines": [0x2028, 0x2029],
    "private": list(range(0xE000, 0xE100)),
    "surrogates": list(range(0xD800, 0xE000, 64)),
    "not assigned": [0x378, 0x0530, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF],
    "separators": [ord("/"), ord("\\"), 0],
    "variation selectors": [*range(0xFE00, 0xFE10), 0xE0100],
    "blank letters": [0x115F, 0x1160, 0x3164, 0xFFA0],
}


def hostile(dice: random.Random, kind: str) -> bytes:
    """A name that would be harmless without one character of a class."""
    text = "".join(dice.choices("abcXYZ019 ._-äжΩ日", k=dice.randrange(1, 30)))
    place = dice.randrange(len(text) + 1)
    bad = chr(dice.choice(CLASSES[kind]))
    return (text[:place] + bad + text[place:]).encode("utf-8", "surrogatepass")


def test_no_name_with_a_hostile_character_passes():
    dice = random.Random(SEED)
    for number in range(COUNT):
        kind = list(CLASSES)[number % len(CLASSES)]
        name = hostile(dice, kind)
        with pytest.raises(RefusedError) as refused:
            take_file_name(name)
        assert str(refused.value).isprintable(), kind
        assert display_name(name).isprintable()


def test_names_of_any_characters_that_pass_are_created_where_they_should_be(tmp_path):
    """Opened by name in a directory, each is a new file of exactly that name."""
    dice = random.Random(SEED)
    assigned = [
        code for code in range(0x20, 0x3000) if unicodedata.category(chr(code)) != "Cs"
    ]
    top = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    passed: set[str] = set()
    for _ in range(COUNT):
        name = "".join(chr(dice.choice(assigned)) for _ in range(dice.randrange(1, 5)))
        try:
            passed.add(take_file_name(name.encode()))
        except RefusedError:
            continue
    assert len(passed) > 50
    for name in passed:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=top))
    os.close(top)
    assert set(os.listdir(tmp_path)) == passed


def test_nothing_that_walks_passes():
    for name in (
        b".",
        b"..",
        b"../x",
        b"/etc/passwd",
        b"a/../b",
        b"..\\x",
        b"a/",
        b"/",
    ):
        with pytest.raises(RefusedError):
            take_file_name(name)
