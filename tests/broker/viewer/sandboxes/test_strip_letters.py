"""The name in frames in the desktop's font: real fontconfig and FreeType."""

from __future__ import annotations

import shutil

import pytest

from broker.helpers.prompt.name_strip import CHARACTERS
from broker.jail.wayland.scene.label import GLYPHS
from broker.viewer.sandboxes.strip_letters import StripLetters, compose

needs_fontconfig = pytest.mark.skipif(
    not shutil.which("fc-match"), reason="fontconfig is missing"
)


def test_a_name_is_composed_of_its_letters():
    letters = {"a": (2, bytes([1, 2, 3, 4])), "b": (1, bytes([5, 6]))}
    none = bytes(3)
    assert compose("ab?", letters, 2) == (
        none + bytes([1, 2, 5]) + none + none + bytes([3, 4, 6]) + none
    )


def test_there_is_a_letter_for_each_character_of_a_name():
    assert set(CHARACTERS) == set(GLYPHS)


@needs_fontconfig
async def test_letters_are_of_the_font_that_fontconfig_names():
    sans = await StripLetters("DejaVu Sans:bold").name("work-1", 18)
    mono = await StripLetters("DejaVu Sans Mono").name("work-1", 18)
    assert len(sans) % 18 == len(mono) % 18 == 0
    assert len(sans) != len(mono)
    assert max(sans) == 255
    # Nothing is cut: the first and the last row of a line are empty.
    width = len(sans) // 18
    assert not any(sans[:width])
    assert not any(sans[-width:])


@needs_fontconfig
async def test_a_height_is_drawn_once(monkeypatch):
    letters = StripLetters()
    first = await letters.name("work", 18)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert await letters.name("work", 18) == first
    assert len(await letters.name("workwork", 18)) > len(first)


@needs_fontconfig
async def test_a_strip_without_room_for_outlines_has_our_letters():
    assert await StripLetters().name("work", 9) == b""


async def test_without_fontconfig_there_are_our_letters(monkeypatch, capfd):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert await StripLetters().name("work", 18) == b""
    assert "no font of the desktop's" in capfd.readouterr().err
