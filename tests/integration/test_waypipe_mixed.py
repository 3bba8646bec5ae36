"""One screen: a sandbox by our end of the wire, another by upstream's client in its jail."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import spawn
from broker.viewer.waypipe import client as waypipe_client
from broker.viewer.waypipe.client import start_waypipe_client
from broker.viewer.workers.pool import open_workers
from tests.kit.eventually import eventually
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import (
    desktop,
    short_directory,
    wait_frames,
    wait_window,
)
from tests.kit.wayland.display import open_display
from tests.kit.waypipe import rust_waypipe
from tests.kit.waypipe.stand import ALONE, SERVER

pytestmark = pytest.mark.long

RED = (0xD0, 0x10, 0x10)


@asynccontextmanager
async def jailed_client(directory: Path, monkeypatch):
    """The client in Rust in the jail of ``launch``, at a sandbox's worker."""
    with short_directory() as place:
        program = await trio.to_thread.run_sync(rust_waypipe.program, place)

        async def found(path: Path) -> waypipe_client.WaypipeProgram:
            del path  # this machine's, which is of another kind
            return program

        monkeypatch.setattr(waypipe_client, "find_program", found)
        client = await start_waypipe_client(directory)
        try:
            yield client
        finally:
            await client.stop()


@pytest.mark.parametrize("suite", ["", "trixie", "sid"])
async def test_both_kinds_of_ends_share_a_screen(monkeypatch, suite):
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with (
                open_display(workers, "ours", base / "ours", comp.display) as ours,
                open_display(
                    workers, "theirs", base / "theirs", comp.display
                ) as theirs,
                jailed_client(base / "theirs", monkeypatch) as client,
            ):
                beginning = ALONE
                if suite:
                    root = await trio.to_thread.run_sync(suite_root, suite)
                    beginning = inside(root, str(base))
                typed = base / "typed"
                children = [ours.run("foot", "-T", "one", "sleep", "1000")]
                children.append(
                    spawn(
                        [*beginning, *SERVER, "-s", client.socket_path, "server", "--",
                         "foot", "-T", "two", "sh", "-c", f"read x; echo $x > {typed}; sleep 1000"],
                        env={"PATH": os.environ["PATH"], "HOME": str(base), "LANG": "C.UTF-8",
                             "XDG_RUNTIME_DIR": str(base), "SHELL": "/bin/sh"},
                    )
                )  # fmt: skip
                try:
                    await wait_window(comp, title="[ours] one", deadline=60)
                    (node,) = await wait_window(comp, title="[theirs] two", deadline=60)
                    # Each in a frame, drawn by its own worker.
                    assert node["pid"] == theirs.worker.keeper_pid
                    await wait_frames(
                        comp, {"[ours] one": {RED}, "[theirs] two": {RED}}
                    )
                    await comp.command(f"[con_id={node['id']}] focus")

                    async def said() -> bool:
                        await comp.type_text("hello\n")
                        return typed.exists() and "hello" in typed.read_text()

                    await eventually(said, deadline=60)
                    # The end of one is not the end of the other.
                    await client.stop()

                    async def alone() -> bool:
                        found = await wait_window(comp)
                        return [w["name"] for w in found] == ["[ours] one"]

                    await eventually(alone, deadline=60)
                    counts = await ours.worker.statistics()
                    assert counts.clients == 1
                finally:
                    for child in children:
                        await child.stop()
