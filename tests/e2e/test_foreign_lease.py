"""A container that somebody else starts: leased by the pid of its first process.

bubblewrap and waypipe are real; the sandbox's only way out is the directory
of its lease's sockets.
"""

from __future__ import annotations

import json
import os

import pytest
import trio

from broker.control.api import LeaseReleaseRequest, LeaseRequest
from broker.core.errors import RefusedError
from broker.launch.spawn import DEVNULL, spawn
from broker.peers.credentials import pid_namespaces_of_self
from tests.kit.compositor import until, wait_window, windows
from tests.kit.world import record, world

RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "external"
[peer]
unix = "{}"
"""
INSIDE = (
    "while ! [ -S /tmp/broker/vitrail.Display ]; do sleep 0.1; done; "
    "exec waypipe --compress none --no-gpu -s /tmp/broker/vitrail.Display server -- "
    "foot -T boxed sleep 1000"
)


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if len(pid_namespaces_of_self()) == 0:
        pytest.skip("this kernel cannot tell a process's pid namespace")


def box(directory):
    """Start the container; returns bubblewrap and the pid of its first process."""
    read_end, write_end = os.pipe()
    child = spawn(
        [
            *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *("--bind", str(directory), "/tmp/broker"),
            *("--setenv", "XDG_RUNTIME_DIR", "/tmp"),
            *("--json-status-fd", str(write_end), "sh", "-c", INSIDE),
        ],
        pass_fds=[write_end],
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as status:
        leader = json.loads(status.readline())["child-pid"]
    return child, leader


async def lease(w, directory, leader):
    async with w.client() as client:
        request = LeaseRequest(record="box", unix=str(directory), leader=leader)
        return (await client.lease(request)).lease


async def test_a_container_s_window_and_its_end():
    async with world({"app": record()}) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
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
    async with world({"app": record()}) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
        child, leader = box(directory)
        try:
            held = await lease(w, directory, leader)
            await wait_window(w.comp, title="boxed")
            async with w.client() as client:
                await client.release(LeaseReleaseRequest(id=held.id))

            async def gone():
                return not windows(await w.comp.tree())

            assert await until(gone)
            assert child.returncode is None or child.returncode != -9
        finally:
            child.kill()
            await child.wait()


async def test_a_process_outside_the_container_gets_nothing_from_its_socket():
    async with world({"app": record()}) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
        child, leader = box(directory)
        try:
            await lease(w, directory, leader)
            stream = await trio.open_unix_socket(str(directory / "vitrail.Display"))
            with trio.fail_after(10):
                assert await stream.receive_some() == b""
            await stream.aclose()
            refused = await w.wait_event("stream.refused", sandbox="box")
            assert "not in this container" in refused["reason"]
        finally:
            child.kill()
            await child.wait()


async def test_a_leader_without_a_namespace_of_its_own_is_refused():
    async with world({"app": record()}) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format(directory))
        child = spawn(["sleep", "1000"])
        try:
            with pytest.raises(RefusedError, match="no pid namespace of its own"):
                await lease(w, directory, child.pid)
        finally:
            child.kill()
            await child.wait()
