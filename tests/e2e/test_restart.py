"""``brokerctl restart``: machines live on, and the windows that end are named."""

from __future__ import annotations

import json

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, world


@pytest.mark.slow
async def test_a_restart_keeps_machines_and_names_the_windows_that_end():
    async with world({"work": record("persistent"), "app": record()}) as w:
        await w.window("work", "persistent")
        disposable = await w.window("app", "disposable")
        vmm, broker = await w.pid_of("QEMU", "work"), await w.broker_pid()

        refused = await brokerctl("restart", env=w.environ, deadline=120)
        assert refused.code != 0, "nobody said yes"
        assert "[work] persistent" in refused.err
        assert f"[{disposable}] disposable" in refused.err
        assert await w.broker_pid() == broker

        done = await brokerctl(
            "restart", "--yes", "--json", env=w.environ, deadline=120
        )
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert told["kept"] == ["work"]
        assert told["ends"] == [disposable]
        assert len(told["windows"]) == 2
        assert await w.broker_pid() != broker

        last, _ = await w.run("work", "foot", "-T", "again", "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title="again")
        assert await w.pid_of("QEMU", "work") == vmm
