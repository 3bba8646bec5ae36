"""A sandbox without a machine: bubblewrap, leased by the pid of its first process.

Starts in a second, so tests that are not about machines use it.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.ipc.control.api import LeaseRequest, LeaseStatus
from broker.ipc.control.methods import LEASE_ACQUIRE
from tests.kit.records import external_record
from tests.kit.wayland.compositor import wait_window

_CHECKOUT = Path(__file__).parents[2]

RECORD = external_record('unix = "{}"')
INSIDE = (
    "while ! [ -S /tmp/broker/vitrail.Display ]; do sleep 0.1; done; "
    "exec waypipe --compress none --no-gpu -s /tmp/broker/vitrail.Display server -- "
    "{}"
)
DIRECT = (
    "while ! [ -S /tmp/broker/wayland-0 ]; do sleep 0.1; done; "
    "WAYLAND_DISPLAY=/tmp/broker/wayland-0 exec {}"
)
"""Without waypipe: the filter's own socket, bound straight into the sandbox."""


@dataclass
class Container:
    """A running container with its lease, if it has one yet."""

    name: str
    directory: Path
    child: Child
    leader: int
    lease: LeaseStatus | None = None

    async def end(self):
        self.child.kill()
        await self.child.wait()


def box(directory, title="boxed", inside=INSIDE, program=""):
    """Start the container; returns bubblewrap and the pid of its first process."""
    program = program or f'foot -T "{title}" sleep 1000'
    read_end, write_end = os.pipe()
    child = spawn(
        [
            *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *("--ro-bind", str(_CHECKOUT), str(_CHECKOUT)),  # it may be below /tmp
            *("--bind", str(directory), "/tmp/broker"),
            *("--setenv", "XDG_RUNTIME_DIR", "/tmp"),
            *("--json-status-fd", str(write_end), "sh", "-c", inside.format(program)),
        ],
        pass_fds=[write_end],
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as status:
        leader = json.loads(status.readline())["child-pid"]
    return child, leader


async def lease(w, directory, leader, name="box"):
    async with w.client() as client:
        request = LeaseRequest(record=name, unix=str(directory), leader=leader)
        return (await client.call(LEASE_ACQUIRE, request)).lease


@asynccontextmanager
async def container(
    w,
    name,
    *,
    title="",
    record="",
    wait=True,
    inside=INSIDE,
    display="allow",
    program="",
):
    """A leased container with its window, titled as it is named.

    ``record`` is added to its record; with ``wait=False`` no window is awaited.
    """
    directory = w.base / f"sockets-{name}"
    directory.mkdir(mode=0o700, exist_ok=True)
    text = RECORD.format(directory).replace("allow", display)
    w.write_record(name, text + record)
    child, leader = box(directory, title or name, inside, program)
    made = Container(name, directory, child, leader)
    try:
        made.lease = await lease(w, directory, leader, name)
        if wait:
            await wait_window(w.comp, title=title or name)
        yield made
    finally:
        await made.end()
