"""The authority as a process beside the broker's: neither outlives the other."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.cli.run.start import end_broker, ensure_broker
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import GRANT_LIST, STATUS
from tests.kit.brokerctl import home, paths_of
from tests.kit.eventually import eventually


@asynccontextmanager
async def started(module="broker.programs.local", **more):
    """A broker; yields its paths, its process, and the pid of its authority.

    ``more``: of its environment.
    """
    with home() as env:
        env.update(more)
        paths = paths_of(env)
        assert await ensure_broker(paths, environ=env, module=module)
        async with open_client(paths.control) as client:
            found = (await client.call(STATUS, Nothing())).processes
        pids = {process.role: process.pid for process in found}
        try:
            yield paths, pids["broker"], pids["authority"]
        finally:
            for pid in pids.values():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


async def host_of(paths):
    """The pid of the host's process."""
    async with open_client(paths.control) as client:
        found = (await client.call(STATUS, Nothing())).processes
    return next(process.pid for process in found if process.role == "host")


async def gone(pid):
    async def look():
        try:
            return ") Z " in Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True

    await eventually(look, deadline=30)


def events(paths, *kinds):
    with open_log(paths.audit) as log:
        return [row.fields() for row in log.find(Filters(kinds=kinds))]


async def test_a_broker_ends_with_its_authority():
    async with started() as (paths, broker, authority):
        os.kill(authority, signal.SIGKILL)
        await gone(broker)
        log = (paths.state / "broker.log").read_text()
        assert "the authority crashed" in log


async def test_a_broker_ends_when_its_authority_hangs():
    """A stopped authority has all its sockets still; only its answers are missing."""
    async with started("tests.kit.impatient_broker") as (paths, broker, authority):
        os.kill(authority, signal.SIGSTOP)
        await gone(broker)
        await gone(authority)
        log = (paths.state / "broker.log").read_text()
        assert "the authority did not answer" in log
        assert "machines continue to run" in log


async def test_a_broker_whose_authority_hangs_can_be_ended():
    async with started("tests.kit.impatient_broker") as (paths, broker, authority):
        os.kill(authority, signal.SIGSTOP)
        os.kill(broker, signal.SIGTERM)
        await gone(broker)
        await gone(authority)
        assert "and was killed" in (paths.state / "broker.log").read_text()


async def test_a_broker_that_is_stopped_for_a_while_goes_on():
    """As by a debugger, or Ctrl-Z: none of them has run, so none is late.

    Then each has all but one of its seconds again, which a busy machine needs.
    """
    impatient = started("tests.kit.impatient_broker", TEST_SILENT_SECONDS="5")
    async with impatient as (paths, broker, authority):
        all_three = (authority, broker, await host_of(paths))
        for pid in all_three:
            os.kill(pid, signal.SIGSTOP)
        await trio.sleep(6.0)  # longer than one of them may be silent
        for pid in all_three:
            os.kill(pid, signal.SIGCONT)
        async with open_client(paths.control) as client:
            for _ in range(3):
                await client.call(STATUS, Nothing())
            await end_broker(client)
        assert len(events(paths, "broker.stop")) == 1


async def test_an_authority_ends_with_its_broker_and_records_it():
    async with started() as (paths, broker, authority):
        os.kill(broker, signal.SIGKILL)
        await gone(authority)
        (event,) = events(paths, "process.died")
        assert (event["process"], event["pid"]) == ("broker", broker)
        assert events(paths, "broker.stop") == []


async def test_the_next_broker_starts():
    with home() as env:
        paths = paths_of(env)
        for _ in range(2):
            assert await ensure_broker(paths, environ=env)
            async with open_client(paths.control) as client:
                found = (await client.call(STATUS, Nothing())).processes
                assert (await client.call(GRANT_LIST, Nothing())).grants == []
            pids = {process.role: process.pid for process in found}
            os.kill(pids["authority"], signal.SIGKILL)
            await gone(pids["broker"])
        assert await ensure_broker(paths, environ=env)
        async with open_client(paths.control) as client:
            await end_broker(client)
        assert len(events(paths, "broker.start")) == 3


async def test_signals_to_the_whole_group_end_both_in_order():
    """Ctrl-C in a terminal, and a service manager, signal every process."""
    async with started() as (paths, broker, authority):
        os.kill(authority, signal.SIGTERM)
        os.kill(authority, signal.SIGINT)
        os.kill(broker, signal.SIGTERM)
        await gone(broker)
        await gone(authority)
        assert len(events(paths, "broker.stop")) == 1


async def test_the_authority_serves_the_control_socket():
    """So that an answer to a question passes no other process."""
    async with started() as (paths, broker, authority):
        # Its listener's credentials: no program may look into /proc/PID/fd of it.
        with socket.socket(socket.AF_UNIX) as conn:
            conn.connect(str(paths.control))
            found = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(found[:4], sys.byteorder) == authority != broker


async def test_a_broker_ends_with_its_host():
    async with started() as (paths, broker, authority):
        host = await host_of(paths)
        os.kill(host, signal.SIGKILL)
        await gone(broker)
        await gone(authority)
        assert "the host process has ended" in (paths.state / "broker.log").read_text()
        (event,) = events(paths, "process.died")
        assert event["process"] == "broker"
        assert events(paths, "broker.stop") == []


async def test_a_host_ends_with_its_viewer():
    async with started() as (paths, broker, authority):
        host = await host_of(paths)
        os.kill(broker, signal.SIGKILL)
        await gone(host)
        await gone(authority)


async def test_a_broker_ends_when_its_host_hangs():
    """A stopped host has all its sockets still; only its answers are missing."""
    async with started("tests.kit.impatient_broker") as (paths, broker, authority):
        host = await host_of(paths)
        os.kill(host, signal.SIGSTOP)
        await gone(broker)
        await gone(host)
        await gone(authority)
        log = (paths.state / "broker.log").read_text()
        assert "the host process does not answer" in log
        assert "machines continue to run" in log
