"""A machine is killed and another takes its place: it gets nothing of the first.

Invariant 1.  The second one has the first one's name, directory and socket
path, which is all that an identity is with hybrid vsock; and its CID too, which
is all that an identity is with the kernel's.
"""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.shared import Shared
from tests.kit.vm.fixed_cid import CID
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import record, world

reused = Shared(
    partial(world, {"work": record("persistent")}, program="tests.kit.vm.fixed_cid")
)
"""Each test begins with the machine that the one before it leaves, if there was one."""
FLOOD = "while :; do echo $RANDOM; done"


@pytest.mark.slow
@reused.test
async def test_the_next_machine_at_the_same_path_gets_nothing_of_the_killed_one(w):
    await w.run("work", "foot", "-T", "of-the-first", "sh", "-c", FLOOD)
    await wait_window(w.comp, title="of-the-first")
    (first,) = (await w.status()).leases
    before = {s.stream for s in (await w.status()).streams}
    # Both are known first: the broker ends one soon after the other's death.
    roles = ("QEMU", "vhost-device-vsock")
    for pid in [await w.pid_of(role, "work") for role in roles]:
        os.kill(pid, signal.SIGKILL)
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

    assert await eventually(no_window), "no window of the first one is left"
    begun = w.events("lease.begin", lease=second.id)
    assert begun[0]["sequence"] > ended["sequence"]


@reused.test
async def test_the_next_machine_with_the_same_cid_and_path_gets_nothing(w):
    """kill -9 of QEMU alone, in mid-stream; the broker does the rest."""
    async with AsyncExitStack() as stack:
        await w.run("work", "foot", "-T", "of-the-first", "sh", "-c", FLOOD)
        await wait_window(w.comp, title="of-the-first")

        async def flows():
            found = (await w.status()).streams
            return any(s.bytes_from_sandbox > 100_000 for s in found)

        assert await eventually(flows, deadline=60)
        uds = w.paths.sandbox("work") / "vsock" / "vm.vsock"
        before = await w.status()
        # vhost-device-vsock connects from its jail: its network namespace has both
        # ends of every connection to the machine's doors.
        backend = await w.pid_of("vhost-device-vsock", "work")
        table = stack.enter_context(Path(f"/proc/{backend}/net/unix").open())  # noqa: SIM115 -- the stack closes it
        assert len(inodes(table, f"{uds}_")) >= len(before.streams) == 2
        ends = inodes(table)
        assert len(ends) >= 2 * len(before.streams), "agent and display"
        os.kill(await w.pid_of("QEMU", "work"), signal.SIGKILL)
        await w.wait_event("lease.end", lease=before.leases[0].id)
        assert not ends & inodes(table), "no end of a stream of the first one lives"

        await w.run("work", "sleep", "1000", window=False)
        after = await w.status()
        (first,), (second,) = before.leases, after.leases
        assert second.peer == first.peer == f"hybrid:{uds}"
        assert before.sandboxes[0].cid == after.sandboxes[0].cid == CID
        assert second.id != first.id
        assert second.generation == first.generation + 1
        (stream,) = after.streams
        assert (stream.lease, stream.service) == (second.id, "vitrail.Agent")
        assert stream.stream > max(s.stream for s in before.streams)
        # Its agent's few words; the first one's were more than 100,000.
        assert stream.bytes_from_sandbox < 5_000
        assert stream.bytes_to_sandbox < 5_000
        assert (after.pump.streams, after.pump.bytes_total) == (0, 0)
        assert windows(await w.comp.tree()) == []
        opened = w.events("stream.opened", lease=second.id)
        assert {e["service"] for e in opened} == {"vitrail.Agent"}
        assert {e["generation"] for e in opened} == {second.generation}


def inodes(table, path=""):
    """Inodes of the connected UNIX sockets of a table, or of those named ``path*``.

    proc_net(5): Num RefCount Protocol Flags Type St Inode Path; state 03 is
    connected.  An open table is that of its network namespace, and stays it when
    the last process in there has ended.
    """
    table.seek(0)
    rows = [line.split() for line in table.read().splitlines()[1:]]
    return {
        row[6] for row in rows if row[5] == "03" and "".join(row[7:]).startswith(path)
    }
