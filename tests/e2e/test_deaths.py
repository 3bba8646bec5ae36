"""kill -9 of each process, one at a time: what ends with it, and what does not.

What may end is what the design says: a pump's or a broker's death takes that
broker's streams, everything else takes the windows of its own sandbox.  Each
death is an event, and the next start works.
"""

from __future__ import annotations

import os
import signal

import pytest
import trio

from broker.launch.compositor import open_headless_sway
from tests.kit.compositor import until, wait_window, windows
from tests.kit.world import descriptors, processes, record, world

TWO = {"red": record(colour="red"), "blue": record(colour="blue")}


async def titles(w):
    return {node["name"] for node in windows(await w.comp.tree())}


async def kill(pid):
    """kill -9, and wait until all of its threads have let go of everything."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)


async def no_window(w, title, deadline=20):
    async def gone():
        return title not in await titles(w)

    assert await until(gone, deadline=deadline)


async def pid_of_jailed_waypipe(w, sandbox):
    """waypipe itself, inside bubblewrap: its command line says whose."""
    bwrap = await w.pid_of("waypipe-client", sandbox)
    children = f"/proc/{bwrap}/task/{bwrap}/children"
    with open(children) as file:
        return int(file.read().split()[0])


async def pid_by_role(w, role, sandbox):
    if role == "waypipe":
        return await pid_of_jailed_waypipe(w, sandbox)
    return await w.pid_of(role, sandbox)


@pytest.mark.parametrize(
    ("role", "event", "machine_ends"),
    [
        pytest.param("keeper", "worker", True, id="keeper"),
        pytest.param("worker", "worker", True, id="worker"),
        pytest.param("waypipe-client", "waypipe-client", True, id="bubblewrap"),
        pytest.param("waypipe", "waypipe-client", True, id="waypipe"),
        pytest.param("QEMU", "vmm", True, id="QEMU"),
        pytest.param("vhost-device-vsock", "vhost-device-vsock", True, id="vhost"),
    ],
)
async def test_a_sandbox_s_process_takes_its_own_windows_only(
    role, event, machine_ends
):
    async with world(TWO) as w:
        red = await w.window("red", "red")
        blue = await w.window("blue", "blue")
        broker = await w.broker_pid()
        before = descriptors(broker)
        os.kill(await pid_by_role(w, role, red), signal.SIGKILL)

        await no_window(w, "red")
        died = await w.wait_event("process.died", process=event)
        assert died.get("sandbox") == red
        assert died["reason"]
        assert "blue" in await titles(w)
        assert [e for e in w.events("process.died") if e.get("sandbox") == blue] == []
        if machine_ends:  # its last program has gone with its window
            await w.wait_event("lease.end", sandbox=red)

        again = await w.window("red", "red again")
        assert again != red
        assert "blue" in await titles(w)
        await w.stop(again)
        # The blue one's descriptors and the broker's own are left.
        now = descriptors(await w.broker_pid())
        assert now["socket"] <= before["socket"]
        assert now["anon_inode"] <= before["anon_inode"]


async def test_the_template_s_death_ends_nothing():
    async with world(TWO) as w:
        await w.window("red", "red")
        os.kill(await w.pid_of("template"), signal.SIGKILL)
        died = await w.wait_event("process.died", process="template")
        assert died["code"] == -signal.SIGKILL
        assert "red" in await titles(w)
        await w.window("blue", "blue")
        assert {"red", "blue"} <= await titles(w)


async def test_the_pump_s_death_ends_the_streams_and_the_next_pump_works():
    async with world(TWO) as w:
        red = await w.window("red", "red")
        pump = await w.pid_of("pump")
        os.kill(pump, signal.SIGKILL)
        await no_window(w, "red")
        died = await w.wait_event("process.died", process="pump")
        assert died["pid"] == pump
        closed = await w.wait_event("stream.closed", sandbox=red, reason="pump-died")
        assert closed["service"] == "vitrail.Display"
        await w.window("blue", "blue")
        assert await w.pid_of("pump") != pump


async def test_the_compositor_s_death_ends_windows_and_a_new_one_is_used():
    async with world() as w:
        sandbox = await w.window("app", "one")
        w.comp.child.kill()
        await w.comp.child.wait()
        died = await w.wait_event("process.died", process="compositor")
        assert "no compositor answers" in died["reason"]
        await w.wait_event("lease.end", sandbox=sandbox)

        runtime = w.comp.display.parent
        again = await open_headless_sway(runtime)
        assert again.display == w.comp.display, "the same path, so the broker finds it"
        w.comp = again
        try:
            await w.window("app", "two")
        finally:
            await w.stop()
            await again.close()


async def test_a_broker_s_death_leaves_machines_that_the_next_one_leases_anew():
    async with world({"work": record("persistent"), "app": record()}) as w:
        await w.window("work", "persistent")
        disposable = await w.window("app", "disposable")
        (lease,) = [e for e in w.events("lease.begin") if e["sandbox"] == "work"]
        vmm = await w.pid_of("QEMU", "work")
        broker = await w.broker_pid()
        others = {p for p in processes() if p != broker}
        await kill(broker)

        # Pump, template, workers and waypipe clients end by themselves.
        await no_window(w, "persistent")
        await no_window(w, "disposable")
        assert vmm in others
        assert vmm in processes(), "the machine lives on"

        await w.start()
        begun = await w.wait_event("lease.begin", sandbox="work", pid=vmm)
        assert begun["lease"] != lease["lease"]

        # The persistent one is used again; the disposable has lost its program.
        last, _ = await w.run("work", "foot", "-T", "again", "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title="again")
        assert await w.pid_of("QEMU", "work") == vmm
        gone = await w.wait_event("lease.end", sandbox=disposable)
        assert "its last program has ended" in gone["reason"]


async def test_a_broker_that_was_killed_with_its_machine_cleans_up():
    async with world() as w:
        sandbox = await w.window("app", "one")
        pids = [
            await w.broker_pid(),
            await w.pid_of("QEMU", sandbox),
        ]
        for pid in pids:
            await kill(pid)
        assert w.paths.sandbox(sandbox).exists()
        await w.start()
        assert not w.paths.sandbox(sandbox).exists()
        stopped = await w.wait_event("sandbox.stop", sandbox=sandbox)
        assert "left by an earlier broker" in stopped["reason"]
        await w.window("app", "two")
