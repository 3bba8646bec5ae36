"""Dropped frames of a page that plays generated 720p30, told in its title.

Firefox counts itself (getVideoPlaybackQuality): frames that were due, and those
of them that it dropped because the last one was not yet shown.  Each peer has a
Firefox of its own with a fresh profile, in turns, as often as is asked.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.launch.compositor import HeadlessCompositor
from broker.launch.spawn import DEVNULL, spawn
from tests.bench.wayland.peers import Peer, all_peers, own_end
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
        "-nostdin",
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
    subprocess.run([*words, str(place / "clip.webm")], check=True, timeout=240)


async def _count(comp: HeadlessCompositor) -> tuple[int, int] | None:
    for window in windows(await comp.tree()):
        if match := _TITLE.search(window.get("name") or ""):
            return int(match[1]), int(match[2])
    return None


async def played(
    comp: HeadlessCompositor, least: int, deadline: float
) -> tuple[int, int]:
    """Frames so far, at least so many, and how many of them were dropped."""

    async def enough() -> tuple[int, int] | None:
        count = await _count(comp)
        return count if count is not None and count[0] >= least else None

    return await until(enough, deadline=deadline)


@dataclass(frozen=True)
class Played:
    """``due`` frames in ``seconds``, of which ``dropped`` were not shown.

    ``cpu`` is the CPU time of what stands between, as a share of a core.
    """

    due: int
    dropped: int
    seconds: float
    cpu: float


async def measure(seconds: float, repeats: int) -> dict[str, list[Played]]:
    """Every peer in turns; a peer that does not play has an empty list."""
    found: dict[str, list[Played]] = {}
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        place = Path(name)
        clip(place)
        async with (
            desktop() as comp,
            all_peers(comp) as peers,
            own_end(comp) as own,
        ):
            for turn in range(repeats):
                for peer in (*peers, own):
                    profile = place / f"{peer.name}-{turn}"
                    profile.mkdir()
                    row = await _played(comp, peer, place, profile, seconds)
                    found.setdefault(peer.name, []).extend([row] if row else [])
    return found


async def _played(
    comp: HeadlessCompositor, peer: Peer, place: Path, profile: Path, seconds: float
) -> Played | None:
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
        # The first seconds are Firefox's own start.
        first = await played(comp, 3 * FRAMES_A_SECOND, 60)
        began, cpu = trio.current_time(), peer.cpu()
        due = int(seconds * FRAMES_A_SECOND)
        last = await played(comp, first[0] + due, seconds * 3 + 30)
        took = trio.current_time() - began
        return Played(
            last[0] - first[0], last[1] - first[1], took, (peer.cpu() - cpu) / took
        )
    except trio.TooSlowError:
        return None
    finally:
        await child.stop()


def print_table(found: dict[str, list[Played]]) -> None:
    """All repetitions of a peer together."""
    print(
        f"\n{'Firefox, 720p30':18}{'due':>6}{'dropped':>9}{'%':>7}{'shown/s':>9}"
        f"{'CPU %':>8}   (each repetition's %)"
    )
    for peer, rows in found.items():
        if not rows:
            print(f"{peer:18}  did not play")
            continue
        due, lost = sum(r.due for r in rows), sum(r.dropped for r in rows)
        shown = (due - lost) / sum(r.seconds for r in rows)
        cpu = 100 * statistics.median(r.cpu for r in rows)
        each = ", ".join(f"{100 * r.dropped / r.due:.1f}" for r in rows)
        print(
            f"{peer:18}{due:6}{lost:9}{100 * lost / due:7.1f}{shown:9.1f}{cpu:8.1f}   {each}"
        )
