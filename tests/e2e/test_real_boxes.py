"""The real toolbox and distrobox, by the commands that people type."""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.podman import podman_settings
from tests.kit.toolbox import IMAGE, box_programs
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.waypipe.podman import run as podman
from tests.kit.waypipe.podman import stop_waiting
from tests.kit.world import world

pytestmark = pytest.mark.long
GREY, PURPLE = (0x55, 0x55, 0x55), (0xCC, 0x79, 0xA7)


def typed(w, *words):
    """A command as a shell starts it, by PATH."""
    return subprocess.Popen(
        words,
        env=w.environ,
        cwd=w.base,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def finished(child):
    out, _ = await trio.to_thread.run_sync(child.communicate)
    return out


@contextmanager
def shown(w, *words):
    child = typed(w, *words)
    try:
        yield child
    finally:
        child.terminate()


async def _framed(w, kind, colour, *words):
    """Its window, its event; a command that has ended has no window and no lease."""
    with shown(w, *words, "foot", "-T", kind, "sleep", "1000") as child:
        await wait_window(w.comp, title=kind, deadline=240)
        begin = w.events("lease.begin")[-1]
        name = begin["sandbox"]
        assert name.startswith(f"{kind}-")
        assert begin["peer"].startswith("label only")
        await wait_frames(w.comp, {f"[{name}: label, not boundary] {kind}": {colour}})
        folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
        folder.mkdir(parents=True, exist_ok=True)
        await w.comp.screenshot(folder / f"{kind}.png")
        # Its program is in our pid namespace and outlives the box's first process: the
        # lease ends with the command, and its window with that.
        child.terminate()
        await finished(child)
    await w.wait_event("lease.end", sandbox=name)

    async def gone():
        return windows(await w.comp.tree()) == []

    await eventually(gone)


async def _opens(w, kind, *words):
    """A link that a program in the box opens is asked about, as the box's."""
    child = typed(w, *words, "xdg-open", "https://example.org/secret")
    out = await finished(child)
    assert child.returncode != 0, out
    found = {"verdict": "deny", "service": "vitrail.OpenURL"}
    refused = await w.wait_event("decision", **found)
    assert refused["sandbox"].startswith(f"{kind}-"), (refused, out)


@asynccontextmanager
async def installed(kind):
    """A world in which a person has called 'launcher install'."""
    async with (
        podman_settings() as settings,
        world(image=False, start=False, extra=settings) as w,
        box_programs(w),
    ):
        await w.start()
        answer = await brokerctl("launcher", "install", kind, env=w.environ)
        assert answer.code == 0, answer
        try:
            yield w
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            store = w.base / ".local" / "share" / "containers"
            podman(w.environ, "unshare", "rm", "-rf", str(store), check=False)
            stop_waiting(w.environ)


async def test_toolbox_shows_a_framed_window_and_asks_before_it_opens_a_link():
    async with installed("toolbox") as w:
        out = await finished(typed(w, "toolbox", "create", "--image", IMAGE, "t1"))
        assert "Created container: t1" in out, out
        run = ("toolbox", "run", "-c", "t1")
        await _opens(w, "toolbox", *run)
        await _framed(w, "toolbox", GREY, *run)


async def test_distrobox_shows_a_framed_window_and_asks_before_it_opens_a_link():
    async with installed("distrobox") as w:
        create = ("distrobox-create", "--yes", "--no-entry", "--image", IMAGE)
        out = await finished(typed(w, *create, "--name", "d1"))
        assert "successfully created" in out, out
        enter = ("distrobox-enter", "-T", "--name", "d1", "--")
        await _framed(w, "distrobox", PURPLE, *enter)
        await _opens(w, "distrobox", *enter)
