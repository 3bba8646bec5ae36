"""The pump's replacement, on a machine that has no room for one at first."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import trio

from broker.core.limits import relay as relay_limits
from broker.helpers import fork_start
from broker.helpers.fork_start import spawn_server, start_server
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.pump.starting import PUMPS
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.runtime import open_runtime
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.eventually import eventually
from tests.kit.link.roles import journal, pair


async def test_no_room_for_a_new_pump_ends_streams_and_no_broker(
    tmp_path, monkeypatch, capfd
):
    """A full process table, an empty table of descriptors: it is tried again."""
    tried = trio.Event()

    def full(*_args, **_more):
        monkeypatch.undo()
        tried.set()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(None, log, start_server)
        await nursery.start(keeper.run)
        monkeypatch.setattr(fork_start, "spawn", full)
        os.kill(keeper.forks.pid, signal.SIGKILL)
        os.kill(keeper.statistics().pid, signal.SIGKILL)
        with trio.fail_after(20):
            await tried.wait()
            (guest, ours), (client, theirs) = pair(), pair()
            with ours, theirs:
                nursery.start_soon(
                    lambda: keeper.relay(guest.detach(), client.detach(), name="1")
                )
                ours.send(b"hello")
                await trio.lowlevel.wait_readable(theirs)
                assert theirs.recv(5) == b"hello"
                nursery.cancel_scope.cancel()
    assert "cannot start a new pump" in capfd.readouterr().err


async def test_a_fork_server_that_the_pump_has_started_is_reaped_when_it_dies(tmp_path):
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(None, log, start_server)
        await nursery.start(keeper.run)
        server = keeper.forks.pid
        os.kill(server, signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{server}").exists())
        nursery.cancel_scope.cancel()


async def test_the_fork_server_of_helpers_is_reaped_and_its_death_recorded(tmp_path):
    """By the process that has started it: the viewer's, or that of a host elsewhere."""
    async with journal(tmp_path) as log:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = spawn_server(PUMPS, [theirs.fileno()])
        forks = ForkServerHandle(ours, process)
        async with open_runtime(
            "host", None, log, None, forks, start=start_server
        ) as ground:
            pid, pump = process.pid, ground.pump.statistics().pid
            os.kill(pid, signal.SIGKILL)

            def told():
                with open_log(tmp_path / "audit.sqlite") as rows:
                    found = rows.find(Filters(kinds=("process.died",)))
                    return [row.fields() for row in found]

            (died,) = await eventually(told)
            assert (died["process"], died["pid"]) == ("fork-server", pid)
            assert died["code"] == process.returncode == -signal.SIGKILL
            assert ground.pump.statistics().alive, "its children continue to run"
            assert ground.pump.statistics().pid == pump


async def test_a_pump_that_hangs_holds_up_no_status(tmp_path, monkeypatch):
    """Neither one that is asked for, nor those after it."""
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(None, log, start_server)
        await nursery.start(keeper.run)
        pid = keeper.statistics().pid
        os.kill(pid, signal.SIGSTOP)
        with monkeypatch.context() as patch, trio.fail_after(30):
            patch.setattr(relay_limits, "RELAY_ANSWER_SECONDS", 0.2)
            assert await keeper.streams() == []
            assert await keeper.streams() == []
        os.kill(pid, signal.SIGCONT)
        (guest, ours), (client, theirs) = pair(), pair()
        with ours, theirs, trio.fail_after(60):
            nursery.start_soon(
                lambda: keeper.relay(guest.detach(), client.detach(), name="1")
            )
            await eventually(keeper.streams)
            nursery.cancel_scope.cancel()
