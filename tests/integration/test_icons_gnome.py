"""A window's icon on GNOME is its own sandbox's, whatever the program calls itself."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.eventually import eventually
from tests.kit.wayland.at_desktop import GREEN, ORANGE, at_desktop, records, running

pytestmark = pytest.mark.long
BROKERCTL = Path(__file__).parents[2] / "brokerctl"
RULES = "vitrail.Display * @anyvm @adminvm allow\n"
IDS = ("vitrail.work.foot", "work.foot", "no entry", "foot.desktop")
"""What a hostile program may call itself; the third has no entry, whatever is done."""


async def test_no_program_takes_the_icon_of_another_sandbox(tmp_path):
    """The shell looks by id, by the start of a program, and by the process number."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with at_desktop("gnome", out, records("foot"), RULES) as (screen, w):
        # An entry whose program is not there is none for GLib.
        words = [str(BROKERCTL), "menu", "refresh"]
        await run_tool(words, env={**os.environ, **w.environ}, deadline=60)
        async with running(w, "work"):
            await eventually(partial(screen.counted, GREEN))
            await eventually(partial(has_icon, screen))
            for untrusted_id in IDS:
                words = ("foot", "--app-id", untrusted_id, "sleep", "1000")
                async with running(w, "web", "--", *words):
                    await eventually(partial(screen.counted, ORANGE))
                    (theirs,) = await eventually(partial(windows_of, screen, "web"))
                    print(untrusted_id, theirs)
                    assert not is_works(theirs), theirs
                    await screen.picture("gnome-icons")
                await eventually(partial(gone, screen, "web"))


async def windows_of(screen, sandbox):
    return [
        one
        for one in await screen.windows()
        if one.get("wm-class", "").startswith(f"vitrail.{sandbox}.")
    ]


async def gone(screen, sandbox):
    return not await windows_of(screen, sandbox)


async def has_icon(screen):
    """Whether the window of 'work' has its entry."""
    return any(map(is_works, await windows_of(screen, "work")))


def is_works(window):
    """Whether the shell shows a window with an entry of 'work'."""
    entries = ("vitrail.work.", "vitrail-sandbox-work.")
    return window.get("app-id", "").startswith(entries)
