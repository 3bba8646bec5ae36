"""A machine is killed and another takes its place: it gets nothing of the first.

Invariant 1.  The second one has the first one's name, directory and socket
path, which is all that an identity is behind hybrid vsock.
"""

from __future__ import annotations

import os
import signal

from tests.kit.compositor import until, wait_window, windows
from tests.kit.world import record, world

FLOOD = "while :; do echo $RANDOM; done"


async def test_the_next_machine_at_the_same_path_gets_nothing_of_the_killed_one():
    async with world({"work": record("persistent")}) as w:
        await w.run("work", "foot", "-T", "of-the-first", "sh", "-c", FLOOD)
        await wait_window(w.comp, title="of-the-first")
        (first,) = (await w.status()).leases
        before = {s.stream for s in (await w.status()).streams}
        for role in ("QEMU", "vhost-device-vsock"):
            os.kill(await w.pid_of(role, "work"), signal.SIGKILL)
        ended = await w.wait_event("lease.end", lease=first.id)
        closed = w.events("stream.closed", lease=first.id)
        assert {e["stream"] for e in closed} >= before, "every stream was cut"
        assert all(e["sequence"] < ended["sequence"] for e in closed)

        await w.run("work", "sleep", "1000", window=False)
        status = await w.status()
        (second,) = status.leases
        assert second.peer == first.peer, "the same path, or this proves nothing"
        assert (second.id, second.generation) != (first.id, first.generation)
        assert second.generation == first.generation + 1
        assert {s.lease for s in status.streams} == {second.id}
        assert not {s.stream for s in status.streams} & before
        (sandbox,) = status.sandboxes
        assert [p.name for p in sandbox.programs] == ["sleep"]

        async def no_window():
            return not windows(await w.comp.tree())

        assert await until(no_window), "no window of the first one is left"
        begun = w.events("lease.begin", lease=second.id)
        assert begun[0]["sequence"] > ended["sequence"]
