"""The applications of the window frame, through the waypipe servers of newer releases.

Those with this machine's own server are in test_wayland_applications; here
0.9.2 and the server in Rust are between the same programs and our end.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bench.wayland.firefox import clip
from tests.e2e.test_wayland_applications import (
    X11,
    browser,
    eyes_follow,
    playing,
    titles,
    world,
)
from tests.kit.eventually import eventually
from tests.kit.wayland.apps import boxed
from tests.kit.waypipe.stand import server_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
    pytest.mark.parametrize("suite", ["trixie", "sid"]),
]

_GROUPS = {
    "shapes": [
        ("weston-terminal",),
        ("weston-flower",),
        ("weston-clickdot",),
        ("weston-dnd",),
        ("weston-image", "/usr/share/weston/terminal.png"),
        ("weston-resizor",),
        ("weston-scaler",),
        ("weston-cliptest",),
        ("weston-stacking",),
        ("weston-transformed",),
    ],
    "surfaces": [
        ("foot", "sleep", "60"),
        ("weston-smoke",),
        ("weston-eventdemo",),
        ("weston-subsurfaces",),
        ("weston-simple-egl",),
        ("weston-presentation-shm",),
    ],
    "toolkits": [
        ("gtk3-demo",),
        ("gtk3-widget-factory",),
        ("gtk3-demo", "--run=dialog"),
        ("gtk4-demo",),
        ("gtk4-widget-factory",),
        ("featherpad",),
    ],
}


@asynccontextmanager
async def served(suite: str):
    """A stand on sway, and the display of a server of that suite before it."""
    async with (
        world("sway") as there,
        server_of(suite, Path(there.it.wire)) as display,
    ):
        yield there, display


@pytest.mark.timeout(280)
@pytest.mark.parametrize("group", _GROUPS)
async def test_applications_stand_in_their_frames(suite, group):
    async with served(suite) as (there, display):
        for argv in _GROUPS[group]:
            async with boxed(there.it, *argv, display=display) as running:
                await running.framed()
                await there.look()
                assert running.child.popen.poll() is None, running.said()
            assert [str(e) for e in there.it.ends] == [], argv

            async def gone() -> bool:
                return not titles(there.it)

            await eventually(gone, deadline=60)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A page that plays 720p30."""
    place = tmp_path_factory.mktemp("shared")
    clip(place)
    return place


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", ["firefox-esr", "chromium", "mpv"])
async def test_video_plays(suite, name, shared):
    mpv = (
        "mpv",
        "--no-config",
        "--vo=wlshm",
        "--ao=null",
        "--loop",
        "/shared/clip.webm",
    )
    argv = mpv if name == "mpv" else browser(name)
    async with (
        served(suite) as (there, display),
        boxed(there.it, *argv, shared=shared, display=display) as running,
    ):
        if name == "mpv":
            await playing(there, running)
        else:
            await running.framed(least=300, deadline=90)

            async def plays() -> bool:
                # 'shown 61 dropped 0', from Firefox's own or Chromium's counters.
                words = " ".join(titles(there.it)).split()
                return "shown" in words and int(words[words.index("shown") + 1]) > 60

            await eventually(plays, deadline=90)
            await there.look()
        assert [str(e) for e in there.it.ends] == []


@pytest.mark.timeout(280)
async def test_x11_programs_in_a_rootful_xwayland(suite):
    if not shutil.which("Xwayland") or not shutil.which("xeyes"):
        pytest.skip("Xwayland or x11-apps is missing")
    async with (
        served(suite) as (there, display),
        boxed(there.it, "sh", "-c", X11, display=display) as running,
    ):
        await eyes_follow(there, running)
