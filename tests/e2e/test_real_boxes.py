"""Links from the real toolbox and distrobox.

Their windows, sound and clipboard are in tests/conformance/launchers.
"""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager

import pytest
import trio

from tests.kit.own_command import installed_box
from tests.kit.podman import podman_settings
from tests.kit.toolbox import IMAGE
from tests.kit.world import world

pytestmark = pytest.mark.long


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
    ):
        await w.start()
        async with installed_box(w, kind):
            yield w


async def test_toolbox_asks_before_it_opens_a_link():
    async with installed("toolbox") as w:
        out = await finished(typed(w, "toolbox", "create", "--image", IMAGE, "t1"))
        assert "Created container: t1" in out, out
        run = ("toolbox", "run", "-c", "t1")
        await _opens(w, "toolbox", *run)


async def test_distrobox_asks_before_it_opens_a_link():
    async with installed("distrobox") as w:
        create = ("distrobox-create", "--yes", "--no-entry", "--image", IMAGE)
        out = await finished(typed(w, *create, "--name", "d1"))
        assert "successfully created" in out, out
        enter = ("distrobox-enter", "-T", "--name", "d1", "--")
        await _opens(w, "distrobox", *enter)
