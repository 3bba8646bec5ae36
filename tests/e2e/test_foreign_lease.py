"""A container that another program starts: leased by the pid of its first process.

bubblewrap and waypipe are real; the sandbox's only way out is the directory
of its lease's sockets.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.errors import RefusedError
from broker.helpers.process.spawn import has_ended, spawn
from broker.ipc.control.api import LeaseReleaseRequest
from broker.ipc.control.methods import LEASE_RELEASE
from tests.kit.container import INSIDE, RECORD, box, lease
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import world

pytestmark = PID_NAMESPACES


@asynccontextmanager
async def recorded():
    """A broker with the record of a container; yields its sockets' directory, too."""
    async with world(image=False) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
        yield w, directory


async def test_a_container_s_window_and_its_end():
    async with recorded() as (w, directory):
        child, leader = box(directory)
        try:
            held = await lease(w, directory, leader)
            assert (held.sandbox, held.pid) == ("box", leader)
            (window,) = await wait_window(w.comp, title="boxed")
            assert window["pid"] == await w.pid_of("keeper", "box")
        finally:
            child.kill()
            await child.wait()
        ended = await w.wait_event("lease.end", sandbox="box")
        assert ended["reason"] == "it has ended"
        assert not (directory / "vitrail.Display").exists()


async def test_a_released_lease_cuts_the_window_and_leaves_the_container():
    async with recorded() as (w, directory):
        # waypipe ends with its stream; the container has another process.
        stays = INSIDE.replace("exec ", "") + "; exec sleep 1000"
        child, leader = box(directory, inside=stays)
        try:
            held = await lease(w, directory, leader)
            await wait_window(w.comp, title="boxed")
            async with w.client() as client:
                await client.call(LEASE_RELEASE, LeaseReleaseRequest(id=held.id))

            async def gone():
                return not windows(await w.comp.tree())

            assert await eventually(gone)
            assert not has_ended(child.pidfd), "the container lives on"
        finally:
            child.kill()
            await child.wait()


async def test_a_process_outside_the_container_gets_nothing_from_its_socket():
    async with recorded() as (w, directory):
        child, leader = box(directory)
        try:
            await lease(w, directory, leader)
            stream = await trio.open_unix_socket(str(directory / "vitrail.Display"))
            with trio.fail_after(60):
                assert await stream.receive_some() == b""
            await stream.aclose()
            refused = await w.wait_event("stream.refused", sandbox="box")
            assert "not in this container" in refused["reason"]
        finally:
            child.kill()
            await child.wait()


async def test_a_leader_without_a_namespace_of_its_own_is_refused():
    async with recorded() as (w, directory):
        child = spawn(["sleep", "1000"])
        try:
            with pytest.raises(RefusedError, match="not in a separate PID namespace"):
                await lease(w, directory, child.pid)
        finally:
            child.kill()
            await child.wait()
