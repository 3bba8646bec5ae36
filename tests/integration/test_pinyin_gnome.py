"""Pinyin by ibus on GNOME: which chords reach Vitrail, and the word of its dialog."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.clipboard.chord_settings import TEXTS
from broker.helpers.prompt.paint import _DENY
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.prompting import read_yes_text
from tests.kit.wayland.at_desktop import (
    GREEN,
    ORANGE,
    at_desktop,
    pending,
    records,
    running,
)
from tests.kit.wayland.input import CODES

_ENGINE = Path("/usr/share/ibus/component/libpinyin.xml")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (shutil.which("ibus-daemon") and _ENGINE.exists()),
        reason="ibus-libpinyin is missing",
    ),
]
SETTINGS = """\
[org/gnome/desktop/input-sources]
sources=[('ibus', 'libpinyin')]
"""
RULES = """\
vitrail.Display + work @adminvm ask
vitrail.Display + web @adminvm allow
"""
TYPES = ("--", "foot", "sh", "-c", "stty raw; exec cat > text")
HELD = {"Super": 125, "Shift": 42, "Ctrl": 29}
CODE = {key.upper(): CODES[key] for key in "cv"}
GREY = (0x30, 0x30, 0x30)
"""Of the shell's list of candidates."""


async def type_slowly(screen, text):
    """mutter 43 on a busy machine tells a key's modifiers too late."""
    for char in text:
        screen.keys.press(CODES[char])
        await trio.sleep(0.1)


async def press(screen, chord):
    *held, key = chord.split("+")
    with screen.holding(*(HELD[name] for name in held)):
        await trio.sleep(0.1)
        screen.keys.press(CODE[key])
        await trio.sleep(0.1)


async def composes(screen):
    """Whether the shell shows candidates for what is typed."""
    await type_slowly(screen, "ni")
    await trio.sleep(0.5)
    there = await screen.counted(GREY) > 9000
    screen.press("Escape")
    await trio.sleep(0.5)
    return there


def ended(w):
    return len(w.events("clipboard.ended"))


async def test_the_chords_for_input_methods_reach_us_and_so_does_the_word(tmp_path):
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with (
        at_desktop("gnome", out, records("foot"), RULES, SETTINGS) as (screen, w),
        running(w, "web", *TYPES),
    ):
        await eventually(partial(screen.counted, ORANGE))
        await eventually(partial(composes, screen), every=1)
        for chord in TEXTS["vitrail"]:
            await press(screen, chord)
            await trio.sleep(1)
            await screen.picture("pinyin-taken")
            screen.press("Escape")
        assert ended(w) == 0, "ibus takes these for Latin letters"

        words = ("clipboard", "chords", "input-method")
        assert (await brokerctl(*words, env=w.environ)).code == 0
        for n, chord in enumerate(TEXTS["input-method"], 1):
            await press(screen, chord)
            await eventually(lambda n=n: ended(w) == n)
            await screen.picture(f"pinyin-{n}")

        async with running(w, "work"):
            await eventually(partial(screen.counted, GREEN))
            (asked,) = await eventually(partial(pending, w))
            await eventually(partial(screen.counted, _DENY))
            await type_slowly(screen, await read_yes_text(screen.picture))
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")
            await screen.picture("pinyin-answered")
