"""The session bus that the agent starts in its machine, with a real dbus-daemon."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from jeepney.bus_messages import message_bus
from jeepney.io.trio import open_dbus_router

from broker.helpers.process.spawn import PIPE, spawn
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.wayland.compositor import short_directory

pytestmark = requires("dbus-daemon")
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def bus(path="/usr/bin:/bin"):
    with short_directory() as base:
        words = [sys.executable, "-m", "tests.kit.vm.bus_guest", str(base), path]
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        child = spawn(words, env=env, stdout=PIPE)
        try:
            with child.popen.stdout as out, trio.fail_after(60):
                address = await trio.to_thread.run_sync(out.readline)
                yield child, address.decode().strip()
        finally:
            await child.stop()


def buses(child):
    """The pids of the buses that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit():
                continue
            # Bytes: another test's process may have any name.
            parent = (entry / "stat").read_bytes().rpartition(b") ")[2].split()[1]
            name = (entry / "comm").read_bytes().strip()
            if int(parent) == child.pid and name == b"dbus-daemon":
                found.append(int(entry.name))
    return found


async def names(address):
    async with open_dbus_router(address) as router:
        reply = await router.send_and_get_reply(message_bus.ListNames())
        return reply.body[0]


async def test_it_runs_from_the_first_connection_and_again_after_its_end():
    async with bus() as (child, address):
        assert address.startswith("unix:path=/")
        assert not buses(child)
        assert "org.freedesktop.DBus" in await names(address)
        (first,) = buses(child)
        assert "org.freedesktop.DBus" in await names(address)
        assert buses(child) == [first]
        os.kill(first, 9)
        await eventually(lambda: not buses(child))
        assert "org.freedesktop.DBus" in await names(address)
        (second,) = buses(child)
        assert second != first
        child.popen.terminate()
        await child.wait()
        await eventually(lambda: not Path(f"/proc/{second}").exists())


async def test_without_a_dbus_daemon_there_is_none(tmp_path):
    async with bus(str(tmp_path)) as (_, address):
        assert address == "none"
