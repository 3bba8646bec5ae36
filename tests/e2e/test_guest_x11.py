"""The guest agent's X server: started by the first X11 program, and again by the next."""

from __future__ import annotations

import shutil

import pytest

from tests.kit.eventually import eventually
from tests.kit.plain_guests import plain
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
    pytest.mark.skipif(not shutil.which("xterm"), reason="xterm is missing"),
]
GREEN = (0, 158, 115)


async def without(w, *names):
    """Whether no process of a world has one of these words in its command line."""
    lines = w.processes().values()
    return not [line for line in lines if any(name in line for name in names)]


async def test_x11_programs_of_a_guest_have_framed_windows():
    async with world(image=False) as w, plain(w, "work"):
        for title in ("first", "second"):
            await w.run("work", "xterm", "-T", title, "-e", "sleep", "8")
            await wait_window(w.comp, title=title)
            await wait_frames(w.comp, {f"[work] {title}": {GREEN}})

            async def ended(title=title):
                titles = [window["name"] for window in windows(await w.comp.tree())]
                return not any(title in (text or "") for text in titles)

            await eventually(ended)
            # Nothing runs any more for X11 programs.
            await eventually(lambda: without(w, "vitrail_x11.py", "Xwayland"))
