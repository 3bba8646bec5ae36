"""A machine that waits for the next start of its record: used, ended, cleaned up."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from tests.e2e.test_copied_windows import kill
from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.parents import ready_parent
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]
# What a rehearsal might leave: files, and processes of the user's.
LEFT = """
find /tmp /var/tmp /dev/shm "$HOME" "$XDG_RUNTIME_DIR" | sort
ran=$(for pid in /proc/[0-9]*; do [ "$(stat -c %u $pid)" != 1000 ] || cat $pid/comm; done)
echo "$ran" | sort
"""
IDENTITY = """
hostname; cat /proc/sys/kernel/random/boot_id /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1
"""


@asynccontextmanager
async def standbys(mode="copy"):
    """A broker whose record 'app' has a parent, and wants a machine that waits."""
    await ready_parent(await the_image(), "app", mode=mode)
    program = "tests.kit.vm.patient_copies"
    app = record(launch=f'standby = 1\nfork = "{mode}"')
    async with world({"app": app}, program=program) as w:
        yield w


async def waits(w):
    """Wait until a machine waits; returns the pids of its processes."""

    async def ready():
        processes = (await w.status()).processes
        found = {p.pid for p in processes if p.role.endswith("(waits)")}
        assert len(found) in {0, 2}
        return found

    return await eventually(ready, deadline=120)


async def hows(w):
    return [(e["how"], e.get("reason", "")) for e in w.events("sandbox.machine")]


@pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])
async def test_a_start_takes_the_machine_that_waits_and_another_one_comes(mode, how):
    async with standbys(mode) as w:
        first = (await w.run("app", "sleep", "1000", window=False))[0].started.sandbox
        said = [(await w.output(first, "sh", "-c", IDENTITY))[1].split(b"\n")]
        left = [(await w.output(first, "sh", "-c", LEFT))[1]]
        before = await waits(w)
        second = (await w.run("app", "sleep", "1000", window=False))[0].started.sandbox
        left.append((await w.output(second, "sh", "-c", LEFT))[1])
        assert left[0] == left[1], "a rehearsal leaves nothing"
        assert await hows(w) == [(how, ""), ("standby", "")]
        assert await w.pid_of("QEMU", second) in before
        said.append((await w.output(second, "sh", "-c", IDENTITY))[1].split(b"\n"))
        await w.window(second, "waited")
        for ours, others in zip(*said, strict=True):
            assert ours != others or not ours
        assert said[1][0].decode() == second
        assert not await waits(w) & before, "another machine waits now"
        await w.stop(second)
        await w.stop(first)


async def test_a_machine_that_waits_ends_after_its_broker_was_killed():
    """Nothing of it may be adopted: it is no sandbox, and has no lease."""
    async with standbys() as w:
        first = (await w.run("app", "sleep", "1000", window=False))[0].started.sandbox
        waited = await waits(w)
        leases = [e["sandbox"] for e in w.events("lease.begin")]
        assert leases == [first]
        await kill(await w.broker_pid())
        await w.start()

        async def gone():
            return not waited & set(w.processes())

        assert await eventually(gone, deadline=60)
        assert {e["sandbox"] for e in w.events("lease.begin")} == {first}
        await w.stop(first)
