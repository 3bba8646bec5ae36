"""Links from the real toolbox and distrobox.

Their windows, sound and clipboard are in tests/conformance/launchers.
"""

from __future__ import annotations

import shlex
import subprocess
from contextlib import asynccontextmanager

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.own_command import installed_box
from tests.kit.podman import podman_settings
from tests.kit.toolbox import IMAGE
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import world

# Each imports an image, and clears the store of it.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PURPLE = (0xCC, 0x79, 0xA7)


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


async def test_an_entry_of_distrobox_export_starts_our_command():
    """Exported by the original it is rewritten; exported by ours it is so from the start."""
    async with installed("distrobox") as w:
        create = ("distrobox-create", "--yes", "--no-entry", "--image", IMAGE)
        out = await finished(typed(w, *create, "--name", "d1"))
        assert "successfully created" in out, out
        export = ("-T", "--name", "d1", "--", "distrobox-export", "--app", "foot")
        entry = w.base / ".local/share/applications/d1-foot.desktop"
        ours = f"Exec={w.base}/.local/bin/distrobox-enter "
        out = await finished(typed(w, "distrobox", "enter", *export))
        assert ours in entry.read_text(), out
        entry.unlink()
        out = await finished(typed(w, "/usr/bin/distrobox-enter", *export))
        before = entry.read_text()
        assert "Exec=/usr/bin/distrobox-enter " in before, out
        environ = {**w.environ, "XDG_DATA_HOME": f"{w.base}/.local/share"}
        install = await brokerctl("launcher", "install", "distrobox", env=environ)
        assert install.code == 0, install
        (line,) = [one for one in entry.read_text().splitlines() if ours in f"{one} "][
            :1
        ]
        words = shlex.split(line.removeprefix("Exec=").replace("%F", ""))
        child = typed(w, words[0], "-T", *words[1:])
        (window,) = await wait_window(w.comp, title="foot", deadline=120)
        sandbox = w.events("lease.begin")[-1]["sandbox"]
        assert sandbox.startswith("distrobox-")
        assert window["name"].startswith(f"[{sandbox}: label, not boundary] ")
        await wait_frames(w.comp, {window["name"]: {PURPLE}})
        child.terminate()
        await finished(child)
        removed = await brokerctl("launcher", "remove", "distrobox", env=environ)
        assert removed.code == 0, removed
        assert entry.read_text() == before
