"""The name in frames in the desktop's font: real fontconfig and FreeType."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.prompt.name_strip import CHARACTERS
from broker.jail.wayland.scene.label import GLYPHS
from broker.viewer.wayland.strip_letters import StripLetters, compose
from broker.viewer.wayland.window_rules import drawn
from tests.kit.needs import requires
from tests.kit.session import session, starter_of_orders

__all__ = ["session"]

needs_fontconfig = requires("fc-match")


FONTS = """<?xml version="1.0"?>
<fontconfig>
<include>/etc/fonts/fonts.conf</include>
<alias binding="strong"><family>Vitrail</family>
<prefer><family>{family}</family></prefer></alias>
</fontconfig>
"""


def test_a_name_is_composed_of_its_letters():
    letters = {"a": (2, bytes([1, 2, 3, 4])), "b": (1, bytes([5, 6]))}
    none = bytes(3)
    assert compose("ab?", letters, 2) == (
        none + bytes([1, 2, 5]) + none + none + bytes([3, 4, 6]) + none
    )


def test_there_is_a_letter_for_each_character_of_a_name():
    assert set(CHARACTERS) == set(GLYPHS)


@contextmanager
def letters_of(family, tmp_path):
    """The letters of a session in which frames have this font."""
    conf = tmp_path / "fonts.conf"
    conf.write_text(FONTS.format(family=family))
    with starter_of_orders(dict(os.environ, FONTCONFIG_FILE=str(conf))) as session:
        yield StripLetters(session)


@needs_fontconfig
async def test_letters_are_of_the_font_that_fontconfig_names(tmp_path):
    with letters_of("DejaVu Sans", tmp_path) as letters:
        sans = await letters.name("work-1", 18)
    with letters_of("DejaVu Sans Mono", tmp_path) as letters:
        mono = await letters.name("work-1", 18)
    assert len(sans) % 18 == len(mono) % 18 == 0
    assert len(sans) != len(mono)
    assert max(sans) == 255
    # Nothing is cut: the first and the last row of a line are empty.
    width = len(sans) // 18
    assert not any(sans[:width])
    assert not any(sans[-width:])


@needs_fontconfig
async def test_a_height_is_drawn_once():
    with starter_of_orders() as session:
        letters = StripLetters(session)
        first = await letters.name("work", 18)
        assert first
    # Its starter has ended.
    assert await letters.name("work", 18) == first
    assert len(await letters.name("workwork", 18)) > len(first)


@needs_fontconfig
async def test_a_strip_without_room_for_outlines_has_our_letters(session):
    assert await StripLetters(session).name("work", 9) == b""


async def test_without_fontconfig_there_are_our_letters(tmp_path, capfd):
    with starter_of_orders(dict(os.environ, PATH=str(tmp_path))) as session:
        assert await StripLetters(session).name("work", 18) == b""
    assert "cannot use a font of the desktop" in capfd.readouterr().err


async def test_words_too_wide_for_an_order_have_our_letters():
    class Wide:
        async def name(self, _words, height):
            return bytes(4000 * height)

    rules = WindowRules("work", label=None, top=4, named_top=64)
    assert (await drawn(rules, Wide())).strip == b""
    assert (await drawn(replace(rules, label=False), None)).strip == b""
