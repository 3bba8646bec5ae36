"""X11 programs in each launcher's sandboxes, by the command that a person types."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.launchers.test_own_command import newest
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import (
    Distrobox,
    Flatpak,
    Nspawn,
    PodmanImage,
    RecordedBox,
    RecordedPodman,
    Toolbox,
)
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
    pytest.mark.skipif(not shutil.which("xterm"), reason="xterm is missing"),
]


class X11Flatpak(Flatpak):
    """An application that has only an X11 program."""

    program = "xterm"

    def typed(self, *words):
        return super().typed(words[0], "--", *words[1:])


WAYS = {
    "bwrap-record": RecordedBox,
    "podman-record": RecordedPodman,
    "podman-image": PodmanImage,
    "nspawn": Nspawn,
    "flatpak": X11Flatpak,
}
SHARED_BOXES = {"toolbox": Toolbox, "distrobox": Distrobox}
XTERM = ("xterm", "-T", "own", "-e", "sleep", "1000")
OUTSIDE = (
    *("env", f"LD_LIBRARY_PATH=/run/host/usr/lib/{os.uname().machine}-linux-gnu"),
    f"/run/host/usr/bin/{XTERM[0]}",
    *XTERM[1:],
)
"""This machine's program, in a box that has none and sees this machine's files."""


@pytest.mark.parametrize("name", WAYS)
async def test_a_sandbox_shows_x11_programs(name):
    await shown(WAYS[name], XTERM)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHARED_BOXES)
async def test_a_shared_box_shows_x11_programs(name):
    await shown(SHARED_BOXES[name], OUTSIDE)


async def shown(kind, words):
    """An X11 window of it has its frame, and goes with it."""
    async with stage(kind) as (w, way):
        output = w.base / "output"
        async with way.running(output, *words):
            try:
                await wait_window(w.comp, title="own", deadline=240)
            except BaseException:
                print(output.read_text(errors="replace"))
                raise
            begin = newest(w)
            title = way.frame.format(begin["sandbox"]) + "own"
            await wait_frames(w.comp, {title: {way.colour}})
            shots = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
            shots.mkdir(parents=True, exist_ok=True)
            await w.comp.screenshot(shots / f"x11-{way.kind}.png")
            await way.kill(begin["pid"])
            await w.wait_event("lease.end", sandbox=begin["sandbox"])

            async def gone():
                return windows(await w.comp.tree()) == []

            await eventually(gone, deadline=60)


@asynccontextmanager
async def stage(kind):
    """A world in which a person has set this launcher up, with X11 in its records."""
    async with (
        kind.settings() as extra,
        world(start=False, image=False, extra=extra) as w,
    ):
        folder = w.base / "shared"
        folder.mkdir()
        await w.start()
        way = kind(w, folder)
        async with way.prepared():
            for file in (w.paths.config[0] / "sandboxes.d").glob("*.toml"):
                file.write_text(file.read_text() + "[window]\nx11 = true\n")
            yield w, way
