"""microos-toolbox, a script around Podman, run from its source.

It is in no package of Debian's.  ``VITRAIL_BOX_SCRIPTS`` is a directory with it under
the name ``microos-toolbox`` (github.com/openSUSE/microos-toolbox, the file ``toolbox``).
"""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.podman import podman_settings
from tests.kit.podman_store import run as podman
from tests.kit.podman_store import stop_waiting
from tests.kit.toolbox import IMAGE, box_programs
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

FOLDER = os.environ.get("VITRAIL_BOX_SCRIPTS", "")
PURPLE = (0xCC, 0x79, 0xA7)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not FOLDER, reason="VITRAIL_BOX_SCRIPTS is not set"),
    # Its containers share the host's IPC namespace.
    pytest.mark.skipif(not Path("/dev/mqueue").is_dir(), reason="no /dev/mqueue"),
]


def typed(w, *words):
    """A command with a terminal, as it wants one."""
    return subprocess.Popen(
        ["script", "-qec", " ".join(words), "/dev/null"],
        env={**w.environ, "TERM": "xterm", "USER": "vitrail"},
        cwd=w.base,
        # No pipe: Podman's conmon would keep it open.
        stdin=subprocess.DEVNULL,
        stdout=1,
        stderr=1,
    )


async def finished(child):
    await trio.to_thread.run_sync(child.wait, abandon_on_cancel=True)


@asynccontextmanager
async def prepared():
    async with (
        podman_settings() as settings,
        world(image=False, start=False, extra=settings) as w,
        box_programs(w),
    ):
        await w.start()
        answer = await brokerctl("launcher", "install", "distrobox", env=w.environ)
        assert answer.code == 0, answer
        try:
            yield w
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            stop_waiting(w.environ)


def leased(name, *words):
    return ("brokerctl", "launcher", "exec", "distrobox", f"{FOLDER}/{name}", *words)


async def _framed(w, kind, *words):
    child = typed(w, *leased(*words), "foot", "-T", kind, "sleep", "1000")
    try:
        await wait_window(w.comp, title=kind, deadline=40)
        name = w.events("lease.begin")[-1]["sandbox"]
        await wait_frames(w.comp, {f"[{name}: label, not boundary] {kind}": {PURPLE}})
    except BaseException:
        child.kill()
        raise
    # Its program outlives the container where that has no separate pid namespace: the
    # lease ends with the command.
    child.terminate()
    await finished(child)
    await w.wait_event("lease.end", sandbox=name)

    async def gone():
        return windows(await w.comp.tree()) == []

    await eventually(gone)


async def test_microos_toolbox():
    async with prepared() as w:
        box = ("-P", "-n", "-i", IMAGE, "-c", "micro")
        await finished(typed(w, f"{FOLDER}/microos-toolbox", "create", *box))
        # Its /dev/pts opens no terminal to others than root.
        chmod = ("exec", "--user", "root", "micro", "chmod", "666", "/dev/pts/ptmx")
        podman(w.environ, *chmod)
        words = ("microos-toolbox", "run", *box, "--")
        await _framed(w, "micro", *words)
