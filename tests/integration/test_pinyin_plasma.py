"""Pinyin by fcitx5 on Plasma: text into a sandbox, our chords, the word of our dialog."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from broker.core.clipboard.chord_settings import TEXTS
from broker.helpers.prompt.paint import _DENY
from tests.integration.test_input_method import GTK4
from tests.integration.test_pinyin_gnome import (
    RULES,
    ended,
    press,
    type_slowly,
)
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
from tests.kit.wayland.input_method import NEEDED, launcher

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)), reason="fcitx5 and dbus-daemon are needed"
    ),
]
TYPES = ("--", "/usr/bin/python3", "-c", GTK4, "text")


@pytest.mark.timeout(300)
async def test_text_chords_and_the_word_while_pinyin_is_on(tmp_path):
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    method = str(launcher(tmp_path / "method"))
    async with (
        at_desktop("plasma", out, records("gtk4-demo"), RULES, method) as (screen, w),
        running(w, "web", *TYPES),
    ):
        home = Path(w.environ["XDG_STATE_HOME"]) / "vitrail/homes/web/current/tree"
        text = home / "text"

        async def composed():
            await type_slowly(screen, "nihao ")
            return text.exists() and "你好" in text.read_text()

        await eventually(partial(screen.counted, ORANGE))
        await eventually(composed, every=2)
        await screen.picture("pinyin-plasma-text")
        count = 0
        for preset in ("vitrail", "input-method"):
            words = ("clipboard", "chords", preset)
            assert (await brokerctl(*words, env=w.environ)).code == 0
            for word in ("", "ni"):
                await type_slowly(screen, word)
                for chord in TEXTS[preset]:
                    await press(screen, chord)
                    count += 1
                    await eventually(lambda count=count: ended(w) == count)
                screen.press("Escape")
        async with running(w, "work"):
            await eventually(partial(screen.counted, GREEN))
            (asked,) = await eventually(partial(pending, w))
            await eventually(partial(screen.counted, _DENY))
            await type_slowly(screen, await read_yes_text(screen.picture))
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")
            await screen.picture("pinyin-plasma-answered")
