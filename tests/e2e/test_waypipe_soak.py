"""Firefox, GTK and a terminal through our end for a while: memory stays where it was.

VITRAIL_SOAK_SECONDS makes it longer than the long tests have time for.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import trio

from broker.viewer.workers.pool import Workers
from tests.bench.wayland.firefox import clip
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, short_directory, windows
from tests.kit.wayland.display import Display, open_display
from tests.kit.workers import open_workers

pytestmark = [pytest.mark.long, pytest.mark.alone]

SECONDS = float(os.environ.get("VITRAIL_SOAK_SECONDS", "100"))
WARM = min(60.0, SECONDS / 2)
"""Seconds in which caches fill: Firefox keeps making pools for a while."""
_PRINTS = "while :; do date; seq 1 300; sleep 0.1; done"


def anonymous(pid: int) -> int:
    """A process's private memory, without files and shared pages, KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _programs(place: Path) -> list[tuple[str, ...]]:
    """What runs all the time."""
    profile = place / "profile"
    profile.mkdir()
    return [
        ("foot", "-T", "prints", "sh", "-c", _PRINTS),
        ("env", "GDK_BACKEND=wayland", "gtk3-demo", "--run=pixbufs"),
        ("env", "MOZ_ENABLE_WAYLAND=1", "GDK_BACKEND=wayland", "firefox-esr", "--no-remote",
         "--new-instance", "--profile", str(profile), str(place / "page.html")),
    ]  # fmt: skip


@pytest.mark.timeout(int(SECONDS) + 280)
@pytest.mark.skipif(not shutil.which("firefox-esr"), reason="firefox-esr is missing")
async def test_memory_and_descriptors_stay_where_they_were():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            clip(base)
            await _live(workers, comp, base)


async def _live(workers: Workers, comp, base: Path) -> None:
    programs = _programs(base)
    async with open_display(workers, "soak", base / "soak", comp.display) as display:
        pid = display.worker.inner_pid
        empty = descriptors(pid)
        apps = [display.run(*argv) for argv in programs]
        try:

            async def shown() -> bool:
                names = [w["name"] or "" for w in windows(await comp.tree())]
                return len(names) >= 3 and any("shown" in name for name in names)

            await eventually(shown, deadline=120)
            await _watched(display, pid)
        finally:
            async with trio.open_nursery() as nursery:
                for app in apps:
                    nursery.start_soon(app.stop)

        async def over() -> bool:
            return (await display.worker.statistics()).clients == 0

        await eventually(over, deadline=60)
        # Everything of every application is given back with it.
        assert descriptors(pid) <= empty
        uses = {use.what: use.now for use in (await display.worker.statistics()).uses}
        assert not any(uses.values()), uses


async def _watched(display: Display, pid: int) -> None:
    """Applications come and go; samples of the worker, the first ones thrown away."""
    began = trio.current_time()
    memory: list[int] = []
    fds: list[int] = []
    rounds = 0
    while (now := trio.current_time() - began) < SECONDS:
        visitor = display.run("foot", "-T", "visitor", "true")
        with trio.fail_after(60):
            await visitor.wait()
        rounds += 1
        if now >= WARM:
            memory.append(anonymous(pid))
            fds.append(descriptors(pid))
        await trio.sleep(1)
    third = len(memory) // 3
    first, last = max(memory[:third]), max(memory[-third:])
    counts = await display.worker.statistics()
    print(
        f"{SECONDS:.0f} s, {rounds} visitors, {sum(s.from_guest for s in counts.streams) >> 20} MiB of streams; "
        f"anonymous {memory[0]} KiB at {WARM:.0f} s, {first} then {last} at most; descriptors {min(fds)} to {max(fds)}"
    )
    assert rounds > 10
    assert last <= first + 2048, "KiB"
    assert max(fds[-third:]) <= max(fds[:third]) + 16
    assert sum(stream.work for stream in counts.streams) > 0
