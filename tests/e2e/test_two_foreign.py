"""A machine that another program started keeps its lease over its broker's crash."""

from __future__ import annotations

import os
import signal

import trio

from tests.kit.container import RECORD, container
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window, windows

pytestmark = PID_NAMESPACES

# Its window comes back as an agent's would: it tries again.
AGAIN = (
    "while :; do [ -S /tmp/broker/vitrail.Display ] && "
    "waypipe --compress none --no-gpu -s /tmp/broker/vitrail.Display server -- {}; "
    "sleep 1; done"
)
RECORDS = {"red": RECORD.format("/nowhere")}


async def test_its_window_comes_back_with_the_next_broker():
    async with (
        two(RECORDS, image=False) as t,
        container(t.host, "red", wait=False, inside=AGAIN) as box,
    ):
        await wait_window(t.viewer.comp, title="red")
        await t.host.kill()

        async def gone():
            return not windows(await t.viewer.comp.tree())

        await eventually(gone)
        await t.host.start()
        await t.up()
        await wait_window(t.viewer.comp, title="red")
        (new,) = (await t.host.status()).leases
        assert (new.sandbox, new.pid) == ("red", box.leader)
        assert new.id != box.lease.id
        assert (await t.host.status()).warnings == []


async def test_the_loss_of_a_lease_is_said_and_its_pid_leases_nothing():
    async with (
        two(RECORDS, image=False) as t,
        container(t.host, "red", wait=False, inside=AGAIN) as box,
    ):
        note = t.host.paths.runtime / "foreign" / "red.json"
        assert f'"pid":{box.leader}' in note.read_text()
        await t.host.kill()
        # Another process has that number now, as far as a broker can see.
        start = note.read_text().replace('"start":', '"start":9')
        note.write_text(start)
        await t.host.start()
        status = await t.host.status()
        assert status.leases == []
        (warning,) = [w for w in status.warnings if "red" in w]
        assert "cannot lease red again" in warning
        assert "its leader has ended" in warning
        assert not note.exists()


async def test_a_record_that_names_another_place_meanwhile_leases_nothing():
    async with (
        two(RECORDS, image=False) as t,
        container(t.host, "red", wait=False, inside=AGAIN),
    ):
        await t.host.kill()
        t.host.write_record("red", RECORD.format("/nowhere"))
        await t.host.start()
        status = await t.host.status()
        assert status.leases == []
        assert any("another peer than [peer]" in w for w in status.warnings)


async def test_a_lease_that_ends_is_forgotten():
    async with (
        two(RECORDS, image=False) as t,
        container(t.host, "red", wait=False, inside=AGAIN) as box,
    ):
        note = t.host.paths.runtime / "foreign" / "red.json"
        assert note.exists()
        os.kill(box.leader, signal.SIGKILL)
        await t.host.wait_event("lease.end", sandbox="red")
        with trio.fail_after(60):
            while note.exists():
                await trio.sleep(0.05)
