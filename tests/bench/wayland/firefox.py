"""Dropped frames of a page that plays generated 720p30, told in its title."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import trio

from broker.launch.compositor import HeadlessCompositor
from broker.launch.spawn import DEVNULL, spawn
from tests.bench.wayland.peers import all_peers
from tests.kit.compositor import desktop, until, windows

_PAGE = """<html><title>wait</title><body style="margin:0;background:#000">
<video id=v src="clip.webm" width=1280 height=720 autoplay loop muted></video>
<script>setInterval(()=>{let q=v.getVideoPlaybackQuality();
document.title='shown '+q.totalVideoFrames+' dropped '+q.droppedVideoFrames+' .'},250)</script>"""
_TITLE = re.compile(r"shown (\d+) dropped (\d+) ")
FRAMES_A_SECOND = 30


def clip(place: Path) -> None:
    """Twelve seconds of moving test picture, VP8."""
    (place / "page.html").write_text(_PAGE)
    words = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=1280x720:rate=30",
        "-t",
        "12",
        "-c:v",
        "libvpx",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-b:v",
        "3M",
    ]
    subprocess.run([*words, str(place / "clip.webm")], check=True, timeout=120)


async def _count(comp: HeadlessCompositor) -> tuple[int, int] | None:
    for window in windows(await comp.tree()):
        if match := _TITLE.search(window.get("name") or ""):
            return int(match[1]), int(match[2])
    return None


async def dropped(seconds: float) -> dict[str, str]:
    """``dropped/shown`` for each peer, one after the other."""
    found = {}
    want = int(seconds * FRAMES_A_SECOND)
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        place = Path(name)
        clip(place)
        async with desktop() as comp, all_peers(comp) as peers:
            for peer in peers:
                profile = place / peer.name
                profile.mkdir()
                child = spawn(
                    ["firefox-esr", "--no-remote", "--new-instance", "--profile", str(profile), str(place / "page.html")],
                    env={
                        **comp.environment,
                        "HOME": str(place),
                        "MOZ_ENABLE_WAYLAND": "1",
                        "GDK_BACKEND": "wayland",
                        "WAYLAND_DISPLAY": str(peer.path),
                    },
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                )  # fmt: skip
                try:

                    async def played(least: int) -> tuple[int, int] | None:
                        count = await _count(comp)
                        return (
                            count if count is not None and count[0] >= least else None
                        )

                    # The first second is Firefox's own start.
                    first = await until(lambda: played(FRAMES_A_SECOND), deadline=60)
                    last = await until(
                        lambda first=first: played(first[0] + want),
                        deadline=seconds * 3 + 30,
                    )
                    found[peer.name] = f"{last[1] - first[1]}/{last[0] - first[0]}"
                except trio.TooSlowError:
                    found[peer.name] = "did not play"
                finally:
                    await child.stop()
    return found
