"""A question on Plasma, from the rule to the answer, as its user meets it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from broker.helpers.prompt.paint import _DENY
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

pytestmark = pytest.mark.long
RULES = """\
vitrail.Display + work @adminvm ask
vitrail.Display + web @adminvm allow
"""
MIDDLE = (640, 255)
"""Of the dialog's upper part, which has the colour of the sandbox that asks."""


async def test_a_question_lies_above_a_maximised_window_until_it_is_answered(tmp_path):
    """It is a layer surface there: a click into the other window does not cover it."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with (
        at_desktop("plasma", out, records("gtk3-demo"), RULES) as (screen, w),
        running(w, "web"),
    ):
        await eventually(partial(screen.counted, ORANGE))
        with screen.holding(125):  # Super
            screen.press("Prior")
        await eventually(partial(screen.shows, ORANGE, 640, 1))
        async with running(w, "work"):
            await eventually(partial(screen.shows, GREEN, *MIDDLE))
            (asked,) = await pending(w)
            screen.click(900, 700)  # into the other window
            await screen.picture("plasma-question")
            assert await screen.shows(GREEN, *MIDDLE)
            assert [one["caption"] for one in await screen.windows()].count("") == 1

            screen.click(*MIDDLE)

            # It takes answers once it has had the keyboard, untouched, for a second.
            await eventually(partial(screen.counted, _DENY))
            screen.press(*await read_yes_text(screen.picture))
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")
            await eventually(partial(named, screen, "vitrail.work.gtk3-demo"))


async def named(screen, desktop_file):
    """Whether there is a window with this id and the name of its sandbox."""
    name = desktop_file.split(".")[1]
    return any(
        one["desktopFile"] == desktop_file and one["caption"].startswith(f"[{name}] ")
        for one in await screen.windows()
    )
