"""Dropped frames of a page that plays a generated film, told in its title.

Firefox counts itself (getVideoPlaybackQuality): frames that were due, and those
of them that it dropped because the last one was not yet shown.  Each peer has a
Firefox with a fresh profile, in turns, as often as is asked; the
next one starts when nothing of the last one is left on the screen.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.bench.wayland.peers import Peer, all_peers, own_end
from tests.kit.eventually import NeverError, eventually
from tests.kit.wayland.compositor import desktop, windows

_PAGE = """<html><title>wait</title><body style="margin:0;background:#000">
<video id=v src="clip.webm" width=WIDTH height=HEIGHT autoplay loop muted></video>
<script>setInterval(()=>{let q=v.getVideoPlaybackQuality();
document.title='shown '+q.totalVideoFrames+' dropped '+q.droppedVideoFrames+' .'},250)</script>"""
_TITLE = re.compile(r"shown (\d+) dropped (\d+) ")
FRAMES_A_SECOND = 30
LEAD_SECONDS = 3.0
"""Of a player's own start, which is not measured."""


def clip(
    place: Path, size: tuple[int, int] = (1280, 720), *, seconds: float = 12
) -> None:
    """A moving test picture, VP8, and the page that plays it again and again."""
    width, height = map(str, size)
    page = _PAGE.replace("WIDTH", width).replace("HEIGHT", height)
    (place / "page.html").write_text(page)
    words = [
        "ffmpeg",
        "-nostdin",
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=size={width}x{height}:rate={FRAMES_A_SECOND}",
        "-t",
        str(seconds),
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


async def gone(comp: HeadlessCompositor) -> None:
    """Wait until no window of a player is left.

    One that was just ended is shown until its stream's end has come through
    all processes between; its numbers would be taken for the next one's.
    """

    async def none() -> bool:
        return await _count(comp) is None

    await eventually(none)


@dataclass
class Watch:
    """One player's count, looked at until it is high enough.

    ``still`` is the longest time, in seconds, for which it did not grow; the
    page tells it every quarter of a second.
    """

    comp: HeadlessCompositor
    still: float = 0.0
    _shown: int = 0
    _since: float = -1.0

    async def played(self, least: int, deadline: float) -> tuple[int, int]:
        """Frames so far, at least so many, and how many of them were dropped."""

        async def enough() -> tuple[int, int] | None:
            count = await _count(self.comp)
            if count is None:
                return None
            self._look(count[0])
            return count if count[0] >= least else None

        return await eventually(enough, deadline=deadline)

    def _look(self, shown: int) -> None:
        now = trio.current_time()
        if shown < self._shown:
            raise RuntimeError(f"{shown} frames after {self._shown}: another player's")
        if self._since >= 0:
            self.still = max(self.still, now - self._since)
        if shown > self._shown or self._since < 0:
            self._shown, self._since = shown, now


@dataclass(frozen=True)
class Played:
    """``due`` frames in ``seconds``, of which ``dropped`` were not shown.

    ``cpu`` is the CPU time of the processes between, as a share of a core;
    ``still`` the longest time, in seconds, in which no frame was counted.
    """

    due: int
    dropped: int
    seconds: float
    cpu: float
    still: float


async def measure(
    seconds: float,
    repeats: int,
    only: Sequence[str] = (),
    *,
    size: tuple[int, int] = (1280, 720),
    play: Play | None = None,
) -> dict[str, list[Played]]:
    """Every peer in turns, or ``only`` those of these names.

    ``play`` is another player than Firefox.  A peer that does not play has an empty
    list.  Raises ValueError for a name that no peer has.
    """
    found: dict[str, list[Played]] = {}
    screen = (size[0] + 160, size[1] + 200)
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        place = Path(name)
        # Firefox plays it again and again, mpv once.
        clip(place, size, seconds=12 if play is None else seconds + LEAD_SECONDS + 2)
        async with (
            desktop(size=screen, config_extra="default_border none\n") as comp,
            all_peers(comp) as peers,
            own_end(comp) as own,
        ):
            names = [peer.name for peer in (*peers, own)]
            if unknown := set(only) - set(names):
                raise ValueError(f"no peer {sorted(unknown)}, there are {names}")
            for turn in range(repeats):
                for peer in (*peers, own):
                    if only and peer.name not in only:
                        continue
                    profile = place / f"{peer.name}-{turn}"
                    profile.mkdir()
                    row = await (play or _played)(comp, peer, place, profile, seconds)
                    found.setdefault(peer.name, []).extend([row] if row else [])
    return found


async def _played(
    comp: HeadlessCompositor, peer: Peer, place: Path, profile: Path, seconds: float
) -> Played | None:
    await gone(comp)
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
        first = await Watch(comp).played(3 * FRAMES_A_SECOND, 60)
        began, cpu = trio.current_time(), peer.cpu()
        due = int(seconds * FRAMES_A_SECOND)
        watch = Watch(comp)
        last = await watch.played(first[0] + due, seconds * 3 + 30)
        took = trio.current_time() - began
        spent = (peer.cpu() - cpu) / took
        return Played(last[0] - first[0], last[1] - first[1], took, spent, watch.still)
    except NeverError:
        return None
    finally:
        await child.stop()


Play = Callable[[HeadlessCompositor, Peer, Path, Path, float], Awaitable[Played | None]]
"""Plays the clip of a directory with a profile, for so many seconds."""


def print_table(found: dict[str, list[Played]], what: str = "Firefox, 720p30") -> None:
    """All repetitions of a peer together."""
    print(
        f"\n{what:18}{'due':>6}{'dropped':>9}{'%':>7}{'shown/s':>9}"
        f"{'CPU %':>8}{'still s':>9}   (each repetition's % dropped)"
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
            f"{peer:18}{due:6}{lost:9}{100 * lost / due:7.1f}{shown:9.1f}{cpu:8.1f}"
            f"{max(r.still for r in rows):9.2f}   {each}"
        )
