"""The pump's replacement, on a machine that has no room for one at first."""

from __future__ import annotations

import os
import signal

import trio

from broker.core.limits import relay as relay_limits
from broker.helpers.pump import starting
from broker.helpers.pump.starting import start_pump_program
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from tests.kit.eventually import eventually
from tests.kit.link.roles import journal, pair


async def test_no_room_for_a_new_pump_ends_streams_and_no_broker(
    tmp_path, monkeypatch, capfd
):
    """A full process table, an empty table of descriptors: it is tried again."""
    handle = start_pump_program()
    tried = trio.Event()

    def full(*_args, **_more):
        monkeypatch.undo()
        tried.set()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(handle, log)
        await nursery.start(keeper.run)
        monkeypatch.setattr(starting, "start_process", full)
        os.kill(handle.pid, signal.SIGKILL)
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
    assert "no new pump" in capfd.readouterr().err


async def test_a_new_pump_that_cannot_be_held_is_not_left_running(
    tmp_path, monkeypatch, capfd
):
    """No descriptor for its pidfd: it is ended, and another one started."""
    handle = start_pump_program()
    real, made = os.pidfd_open, []

    def full(pid):
        made.append(pid)
        if len(made) == 1:
            raise OSError(24, "Too many open files")
        return real(pid)

    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(handle, log)
        await nursery.start(keeper.run)
        monkeypatch.setattr(os, "pidfd_open", full)
        os.kill(handle.pid, signal.SIGKILL)
        await eventually(lambda: keeper.statistics().pid != handle.pid, deadline=60)
        assert not os.path.exists(f"/proc/{made[0]}")
        assert keeper.statistics().pid == made[1]
        nursery.cancel_scope.cancel()
    assert "no new pump" in capfd.readouterr().err


async def test_a_pump_that_hangs_holds_up_no_status(tmp_path, monkeypatch):
    """Neither one that is asked for, nor those after it."""
    monkeypatch.setattr(relay_limits, "RELAY_ANSWER_SECONDS", 0.2)
    handle = start_pump_program()
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpSupervisor(handle, log)
        await nursery.start(keeper.run)
        os.kill(handle.pid, signal.SIGSTOP)
        with trio.fail_after(30):
            assert await keeper.streams() == []
            assert await keeper.streams() == []
        os.kill(handle.pid, signal.SIGCONT)
        (guest, ours), (client, theirs) = pair(), pair()
        with ours, theirs, trio.fail_after(60):
            nursery.start_soon(
                lambda: keeper.relay(guest.detach(), client.detach(), name="1")
            )
            await eventually(keeper.streams)
            nursery.cancel_scope.cancel()
