"""The pump's replacement, on a machine that has no room for one at first."""

from __future__ import annotations

import os
import signal

import trio

from broker.session import pumps
from broker.session.pumps import PumpKeeper
from tests.kit.roles import journal, pair


async def test_no_room_for_a_new_pump_ends_streams_and_no_broker(
    tmp_path, monkeypatch, capfd
):
    """A full process table, an empty table of descriptors: it is tried again."""
    child, handle = pumps._respawn()
    tried = trio.Event()

    def full(*_args, **_more):
        monkeypatch.undo()
        tried.set()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with journal(tmp_path) as log, trio.open_nursery() as nursery:
        keeper = PumpKeeper(handle, log)
        await nursery.start(keeper.run)
        monkeypatch.setattr(pumps, "spawn", full)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
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
