"""A container of systemd-nspawn that 'brokerctl stop' ends.

What a sandbox of each launcher does with its sockets is in tests/conformance/launchers.
"""

from __future__ import annotations

import pytest
import trio

from broker.net.peers.credentials import can_ask_pid_namespaces
from tests.kit.brokerctl import brokerctl, running
from tests.kit.own_command import Nspawn
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world


async def test_stopping_a_container_ends_the_run():
    if not can_ask_pid_namespaces():
        pytest.skip("this kernel cannot tell a process's pid namespace")
    async with Nspawn.settings(), world(image=False) as w:
        folder = w.base / "shared"
        folder.mkdir()
        words = ("run", "-q", "work", "--", "foot", "-T", "notes", "sleep", "1000")
        async with Nspawn(w, folder).prepared(), running(*words, env=w.environ) as run:
            assert await wait_window(w.comp, title="[work] notes")
            begin = await w.only_event("lease.begin")
            assert begin["sandbox"] == "work"
            answer = await brokerctl("stop", "work", env=w.environ)
            assert answer.code == 0, answer
            with trio.fail_after(90):
                await run.wait()
        await w.wait_event("lease.end", sandbox="work")
