"""The guest agent with the waypipe of other releases: 0.8.4, 0.9.2 and the one in Rust."""

from __future__ import annotations

import os

import pytest
import trio

from tests.kit.plain_guests import plain
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import wait_frames, wait_window
from tests.kit.world import world

GREEN = (0, 158, 115)


async def wrapper(folder, suite, shared):
    """A directory with a waypipe that is the suite's, for programs of this machine."""
    if not suite:
        return ""
    root = await trio.to_thread.run_sync(suite_root, suite)
    folder.mkdir()
    words = " ".join(inside(root, str(shared)))
    program = folder / "waypipe"
    # The agent's own display is this machine's path, so the command it keeps runs here.
    program.write_text(f'#!/bin/sh\nexec {words} /usr/bin/waypipe "$@"\n')
    program.chmod(0o755)
    return f"{folder}:"


@pytest.mark.long
@pytest.mark.parametrize("suite", ["", "trixie", "sid"])
@pytest.mark.timeout(300)
async def test_a_window_by_the_waypipe_of_a_release(suite):
    async with world(image=False) as w:
        folder = w.base / "tools"
        path = await wrapper(folder, suite, w.base) + os.environ["PATH"]
        async with plain(w, "work", path=path):
            title = f"by {suite or 'ours'}"
            last, _ = await w.run("work", "foot", "-T", title, "sleep", "1000")
            assert last.started.sandbox == "work"
            await wait_window(w.comp, title=title)
            await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
