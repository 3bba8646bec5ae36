"""Two real guests of libvirt at once: the second one gets nothing of the first.

Invariant 1, for domains.  The second one has the name, the UUID and the CID of the
first, at the same time and then in its turn; the person's own second libvirtd starts
it, because one libvirtd refuses such a domain.
"""

from __future__ import annotations

import os
import signal
import uuid

import pytest

from broker.helpers.process.spawn import has_ended
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import LEASE_LIST
from tests.kit.eventually import eventually
from tests.kit.vm.impostor import cid_of, impostor, vhost_of
from tests.kit.vm.libvirt import RECORD, libvirt, require_libvirt, second_libvirt
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

GREEN, ORANGE = (0, 158, 115), (230, 159, 0)
UUID = str(uuid.uuid4())
BANK = RECORD.replace("green", "orange")
pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _needs():
    require_vm()
    require_libvirt()


async def leases(w):
    async with w.client() as client:
        return {
            lease.sandbox: lease
            for lease in (await client.call(LEASE_LIST, Nothing())).leases
        }


async def leased(w, name):
    """Its lease, once its guest has booted: two at once, emulated, take a while."""

    async def look():
        return (await leases(w)).get(name)

    found = await eventually(look, deadline=60)
    agent = {"lease": found.id, "service": "vitrail.Agent"}
    await w.wait_event("stream.opened", deadline=300, **agent)
    return found


def refusals(w, name, *, count):
    """Its refused leases, once so many are counted."""
    events = w.events("lease.refused", sandbox=name)
    return events if sum(e.get("count", 1) for e in events) == count else None


async def streams(w, name):
    return {s.stream for s in (await w.status()).streams if s.sandbox == name}


async def test_a_second_domain_gets_nothing_of_the_one_that_runs():
    """Same name, same UUID and same CID, while the first one and a third one run."""
    records = {"work": RECORD.format("office"), "bank": BANK.format(UUID)}
    async with (
        world(records) as w,
        libvirt(w) as virt,
        second_libvirt(w) as other,
    ):
        await virt.start("office", "work")
        await virt.start("ledger", "bank", identity=UUID)
        for name, title in (("work", "in the office"), ("bank", "of the bank")):
            await leased(w, name)
            await w.run(name, "foot", "-T", title, "sleep", "1000")
        # Each has a different window, frame and programs.
        both = {"[work] in the office": {GREEN}, "[bank] of the bank": {ORANGE}}
        await wait_window(w.comp, count=2)
        await wait_frames(w.comp, both)
        for name, host in (("work", "office"), ("bank", "ledger")):
            assert await w.output(name, "uname", "-n") == (0, f"{host}\n".encode())
        before, flowing = await leases(w), await streams(w, "bank")
        assert before["bank"].pid == virt.pid("ledger")
        assert before["work"].pid == virt.pid("office")

        sockets = virt.vhost("bank").parent
        async with impostor(w, sockets, cid_of(w, sockets)) as vsock:
            await other.start("ledger", "bank", identity=UUID, vhost=vhost_of(w))
            second = other.pid("ledger")
            # Its "prepare" and its "started": equal refusals of one second are counted.
            refused = await eventually(lambda: refusals(w, "bank", count=2))
            assert all("is already running" in e["reason"] for e in refused), refused
            # The guest boots, and its agent comes to the first one's sockets.
            found = await w.wait_event("stream.refused", deadline=300, sandbox="bank")
            assert str(vsock.pid) in str(found), found
            assert await leases(w) == before
            assert await streams(w, "bank") == flowing
            await wait_frames(w.comp, both)
            assert await w.output("bank", "uname", "-n") == (0, b"ledger\n")

            # In its turn: what runs already is not leased by the first one's end.
            await virt.virsh("destroy", "ledger")
            ended = await w.wait_event("lease.end", lease=before["bank"].id)
            await wait_frames(w.comp, {"[work] in the office": {GREEN}})
            closed = w.events("stream.closed", lease=before["bank"].id)
            assert {e["stream"] for e in closed} >= flowing, "every stream was cut"
            assert all(e["sequence"] < ended["sequence"] for e in closed)
            assert os.path.exists(f"/proc/{second}")
            assert set(await leases(w)) == {"work"}
            await other.virsh("destroy", "ledger")

        # The next one of that name and UUID, by the other libvirtd.
        await other.start("ledger", "bank", identity=UUID)
        after = await leased(w, "bank")
        assert after.pid == other.pid("ledger")
        assert after.id != before["bank"].id
        assert after.generation == before["bank"].generation + 1
        assert await w.output("bank", "uname", "-n") == (0, b"ledger\n")
        assert not await streams(w, "bank") & flowing
        assert [n["name"] for n in windows(await w.comp.tree())] == [
            "[work] in the office"
        ]
        # The one beside it has had no part in any of this.
        assert (await leases(w))["work"] == before["work"]
        await other.virsh("destroy", "ledger")
        await virt.virsh("destroy", "office")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_libvirtd_that_was_restarted_finds_its_guests_leased(how):
    """With the window open: the hook's "reconnect" changes no lease."""
    records = {"work": RECORD.format("office"), "bank": BANK.format("ledger")}
    async with world(records) as w, libvirt(w) as virt:
        await virt.start("office", "work")
        await virt.start("ledger", "bank")
        for name, title in (("work", "in the office"), ("bank", "of the bank")):
            await leased(w, name)
            await w.run(name, "foot", "-T", title, "sleep", "1000")
        both = {"[work] in the office": {GREEN}, "[bank] of the bank": {ORANGE}}
        await wait_frames(w.comp, both)
        before, flowing = await leases(w), (await w.status()).streams
        first = virt.daemon()
        pidfd = os.pidfd_open(first)
        try:
            os.kill(first, getattr(signal, how))
            await eventually(lambda: has_ended(pidfd))
        finally:
            os.close(pidfd)
        # The next virsh starts the next one, which finds its domains.
        assert set((await virt.virsh("list", "--name")).split()) == {"office", "ledger"}
        assert virt.daemon() != first
        again = {("office", "reconnect"), ("ledger", "reconnect")}
        await eventually(lambda: again <= set(virt.steps()))
        assert await leases(w) == before
        assert w.events("lease.end") == w.events("lease.refused") == []
        running = {s.stream for s in (await w.status()).streams}
        assert running >= {s.stream for s in flowing}
        await wait_frames(w.comp, both)
        assert await w.output("work", "uname", "-n") == (0, b"office\n")

        # A broker that was killed while no libvirtd ran leases both again.
        os.kill(virt.daemon(), signal.SIGKILL)
        os.kill(await w.broker_pid(), signal.SIGKILL)
        await w.start()
        for name, lease in before.items():
            assert (await leased(w, name)).pid == lease.pid
        await virt.virsh("list")
        assert await w.output("bank", "uname", "-n") == (0, b"ledger\n")
        await virt.virsh("destroy", "office")
        await w.wait_event("lease.end", sandbox="work")
        assert set(await leases(w)) == {"bank"}
        await virt.virsh("destroy", "ledger")
        await w.wait_event("lease.end", sandbox="bank")
