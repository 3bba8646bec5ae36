"""The signs of a use on GNOME Shell and Plasma, as their users see them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_sound_panel import AUDIO, RED
from tests.kit.eventually import eventually
from tests.kit.sound.servers import microphone, needs, sound_server
from tests.kit.wayland.at_desktop import RECORD, at_desktop, running

pytestmark = pytest.mark.long
RULES = """\
vitrail.Display + work @adminvm allow
vitrail.AudioInput * work @adminvm allow
"""
WORK = RECORD.format(colour="#009e73", command="foot") + AUDIO
RECORDS = ("sh", "-c", "foot sleep 1000 & parec > /dev/null")


@pytest.mark.parametrize(("kind", "banner"), [("gnome", False), ("plasma", True)])
async def test_frame_and_banner_show_the_microphone(
    kind, banner, tmp_path, monkeypatch
):
    """The banner needs layer-shell, which GNOME lacks."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    needs("pipewire")
    async with sound_server("pipewire") as server:
        await microphone(server)
        monkeypatch.setenv("PULSE_SERVER", f"unix:{server.socket}")
        async with (
            at_desktop(kind, out, {"work": WORK}, RULES) as (screen, w),
            running(w, "work", "--", *RECORDS),
        ):
            await w.wait_event("microphone.on", deadline=90)
            # In the frame, above all windows or in the notification alone.
            await eventually(partial(screen.counted, RED))
            await screen.picture(f"signs-{kind}")

            async def banner_drawn():
                image = await screen.picture(f"signs-{kind}")
                top = image.crop((400, 0, 880, 80)).getcolors(1 << 16)
                return RED in {colour for _, colour in top}

            if banner:
                await eventually(banner_drawn)
            else:
                assert not await banner_drawn()
            await w.said("audio", "microphone", "work", "deny")

            async def no_red():
                return not await screen.counted(RED)

            await eventually(no_red)
