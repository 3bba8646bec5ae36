"""The fork server of workers, when its client no longer waits for the answer."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from broker.core.names import SandboxName
from tests.kit.eventually import eventually
from tests.kit.workers import open_workers


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_worker_that_was_given_up_leaves_no_descriptor(tmp_path):
    """It is forked after all and reported, without an owner: it ends, and its pidfd is closed."""
    compositor = tmp_path / "wayland-0"
    async with open_workers(allow_unjailed=True) as workers:
        display = tmp_path / "display"
        display.mkdir()
        first = await workers.open_worker(SandboxName("a"), display, compositor)
        await first.close()
        before = descriptors()
        for _ in range(3):
            os.kill(workers.fork_server_pid, signal.SIGSTOP)
            try:
                with trio.move_on_after(0.2) as patience:
                    await workers.open_worker(SandboxName("a"), display, compositor)
            finally:
                os.kill(workers.fork_server_pid, signal.SIGCONT)
            assert patience.cancelled_caught
        # Its answers come in order, so those of before have been taken.
        last = await workers.open_worker(SandboxName("a"), display, compositor)
        await last.close()
        await eventually(lambda: not (descriptors() > before), deadline=30)
