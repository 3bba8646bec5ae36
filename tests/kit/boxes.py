"""A box that waits for its lease, started as brokerctl starts one."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from broker.helpers.mounts.bound_files import BoundFiles
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.launchers.bubblewrap.command import prepare
from broker.host.launchers.bubblewrap.process import HeldBox, held_box


@dataclass
class StartedBox:
    """It runs nothing until ``release``; the pipes are the test's to close."""

    held: HeldBox
    child: SimpleNamespace
    """``popen.stdout``, ``popen.stderr``, and ``wait``."""
    _abandon: object
    _ours: ExitStack

    @property
    def leader(self) -> int:
        return self.held.leader

    def release(self) -> None:
        self.held.release()

    def abandon(self) -> None:
        """Give up the means to let it run, as a launcher that dies does."""
        self._abandon()

    async def end(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._ours.close)


async def start_held(box: Box) -> StartedBox:
    """Start a box, in its directory of sockets; raises as ``held_box``."""
    with ExitStack() as stack:
        ours = stack.enter_context(ExitStack())
        files = BoundFiles(box.binds, box.without_links, ours)
        command = prepare(box, ours)
        held = stack.enter_context(held_box(command, box.sockets, ours, print))
        held.check(files)
        pipes = (held.popen.stdout, held.popen.stderr)
        stdout, stderr = (os.fdopen(os.dup(pipe.fileno()), "rb") for pipe in pipes)
        popen = SimpleNamespace(stdout=stdout, stderr=stderr, pid=held.popen.pid)

        async def wait() -> int:
            return await trio.to_thread.run_sync(held.popen.wait)

        child = SimpleNamespace(popen=popen, wait=wait, pid=popen.pid)
        return StartedBox(held, child, command.gate.abandon, stack.pop_all())


async def said(tmp_path: Path, program: str, **more: Any) -> dict[str, Any]:
    """Run a Python program in a box; return the JSON that it prints in one line."""
    sockets = tmp_path / "s"
    sockets.mkdir()
    box = Box(("/usr/bin/python3", "-I", "-c", program), sockets, **more)
    held = await start_held(box)
    try:
        with trio.fail_after(120):
            held.release()
            pipe = held.child.popen.stdout
            line = await trio.to_thread.run_sync(pipe.readline)
    finally:
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            print(pipe.read())
            pipe.close()
    return json.loads(line)
