"""kill -9 of each process, one at a time: what ends with it, and what does not.

What may end is what the design says: a pump's or a broker's death takes that
broker's streams, everything else takes the windows of its sandbox.  Each
death is an event, and the next start works.
"""

from __future__ import annotations

import os
import signal

import pytest
import trio

from broker.cli.headless_sway import open_headless_sway
from tests.kit.container import container
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import steady, wait_window, windows
from tests.kit.world import descriptors, record, world


async def titles(w):
    return {node["name"] for node in windows(await w.comp.tree())}


async def kill(pid):
    """kill -9, and wait until all of its threads have let go of everything."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)


async def no_window(w, title, deadline=60):
    async def gone():
        return title not in await titles(w)

    assert await eventually(gone, deadline=deadline)


@pytest.mark.parametrize(
    ("role", "event"),
    [
        pytest.param("keeper", "worker", id="keeper"),
        pytest.param("worker", "worker", id="worker"),
    ],
)
async def test_a_sandbox_s_process_takes_its_own_windows_only(role, event):
    async with world(image=False) as w, container(w, "blue"):
        before = await held(w)
        async with container(w, "red"):
            os.kill(await w.pid_of(role, "red"), signal.SIGKILL)
            await no_window(w, "[red] red")
            died = await w.wait_event("process.died", process=event)
            assert died.get("sandbox") == "red"
            assert died["reason"]
            assert "[blue] blue" in await titles(w)
            about = [e.get("sandbox") for e in w.events("process.died")]
            assert "blue" not in about
        await w.wait_event("lease.end", sandbox="red")

        async with container(w, "red", title="again"):
            assert {"[red] again", "[blue] blue"} <= await titles(w)
        await w.wait_event("lease.end", sandbox="red", generation=2)
        await settled(w, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "event"),
    [
        pytest.param("QEMU", "vmm", id="QEMU"),
        pytest.param("vhost-device-vsock", "vhost-device-vsock", id="vhost"),
    ],
)
async def test_a_machine_s_process_takes_its_own_windows_only(role, event):
    async with world() as w, container(w, "blue"):
        before = await held(w)
        red = await w.window("app", "red")
        os.kill(await w.pid_of(role, red), signal.SIGKILL)
        await no_window(w, f"[{red}] red")
        died = await w.wait_event("process.died", process=event)
        assert died.get("sandbox") == red
        assert died["reason"]
        await w.wait_event("lease.end", sandbox=red)
        assert "[blue] blue" in await titles(w)
        assert not w.paths.sandbox(red).exists()
        await settled(w, before)

        again = await w.window("app", "again")
        assert again != red
        assert {f"[{again}] again", "[blue] blue"} <= await titles(w)


async def held(w):
    """The broker's descriptors once it has done what follows a start, too."""
    pid = await w.broker_pid()

    async def now():
        return descriptors(pid)

    return await steady(now)


async def settled(w, before):
    """The broker has let go of whatever the dead sandbox had."""
    pid = await w.broker_pid()

    async def same():
        now = descriptors(pid)
        return all(now[k] <= before[k] for k in ("socket", "anon_inode", "/memfd"))

    assert await eventually(same), (before, descriptors(pid))


async def test_the_fork_server_s_death_ends_nothing():
    async with world(image=False) as w, container(w, "red"):
        os.kill(await w.pid_of("fork server"), signal.SIGKILL)
        died = await w.wait_event("process.died", process="fork-server")
        assert died["code"] == -signal.SIGKILL
        assert "[red] red" in await titles(w)
        async with container(w, "blue"):
            assert {"[red] red", "[blue] blue"} <= await titles(w)


async def test_the_pump_s_death_leaves_windows_alone_and_another_starts():
    """On one machine displays are decoded in workers and do not pass the pump.

    The streams that end with it: integration/test_relay_pump.py.
    """
    async with world(image=False) as w, container(w, "red"):
        pump = await w.pid_of("pump")
        os.kill(pump, signal.SIGKILL)
        died = await w.wait_event("process.died", process="pump")
        assert died["pid"] == pump
        async with container(w, "blue"):
            assert {"[red] red", "[blue] blue"} <= await titles(w)
        assert w.events("stream.closed", sandbox="red") == []

        async def another():
            now = [p.pid for p in (await w.status()).processes if p.role == "pump"]
            return now and now != [pump]

        assert await eventually(another)


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_broker_s_death_leaves_machines_that_the_next_one_leases_again():
    async with world({"work": record("persistent"), "app": record()}) as w:
        await w.window("work", "persistent")
        disposable = await w.window("app", "disposable")
        (lease,) = [e for e in w.events("lease.begin") if e["sandbox"] == "work"]
        vmm = await w.pid_of("QEMU", "work")
        broker = await w.broker_pid()
        others = {p for p in w.processes() if p != broker}
        await kill(broker)

        # Pump, fork server and workers end by themselves.
        await no_window(w, "[work] persistent")
        await no_window(w, f"[{disposable}] disposable")
        assert vmm in others
        assert vmm in w.processes(), "the machine lives on"

        await w.start()
        begun = await w.wait_event("lease.begin", sandbox="work", pid=vmm)
        assert begun["lease"] != lease["lease"]

        # The persistent one is used again; the disposable has lost its program.
        last, _ = await w.run("work", "foot", "-T", "again", "sleep", "1000")
        assert last.started.sandbox == "work"
        await wait_window(w.comp, title="again")
        assert await w.pid_of("QEMU", "work") == vmm
        gone = await w.wait_event("lease.end", deadline=60, sandbox=disposable)
        assert "its last program has ended" in gone["reason"]


@pytest.mark.slow
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
        assert "left over from an earlier broker" in stopped["reason"]
        await w.window("app", "two")
