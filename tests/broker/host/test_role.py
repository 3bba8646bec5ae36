"""Starts and ends of one lease that meet each other, and ends that go wrong."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import RefusedError, UpstreamError
from broker.core.launch_changes import LaunchChanges
from broker.core.names import SandboxName
from broker.host.foreign_machine import ForeignMachine
from broker.host.role import HostRole
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.peers.identity import VsockClaim
from tests.kit.link.roles import (
    NoDevices,
    PaperMachine,
    SilentViewer,
    host_role,
    journal,
    own_claim,
)

A = SandboxName("a")
B = SandboxName("b")


class Launcher:
    """Opens paper machines and keeps them."""

    def __init__(self):
        self.machines = []
        self.broken_go = None

    async def __call__(self, sandbox, record, closed, progress, changes=None):
        self.changes = changes
        await trio.lowlevel.checkpoint()
        machine = PaperMachine()
        machine.broken_go = self.broken_go
        self.machines.append(machine)
        return machine


async def test_two_starts_that_waited_for_the_same_end(tmp_path):
    """Only one of them starts it: two would share a directory and a name."""
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        first = await host.start(A)
        launcher.machines[0].may_close = trio.Event()
        found = []

        async def start():
            found.append(await host.start(A))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: host.stop(first.id, grace=0, reason="asked"))
            await launcher.machines[0].asked.wait()
            nursery.start_soon(start)
            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            assert found == []
            launcher.machines[0].may_close.set()
        assert len(launcher.machines) == 2
        assert found[0] == found[1] != first
        assert [t.lease for t in host.active_leases()] == [found[0]]


async def test_a_start_while_it_ends_by_itself_is_a_new_start(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        first = await host.start(A)
        launcher.machines[0].may_close = trio.Event()
        launcher.machines[0].over.set()
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            found = []

            async def start():
                found.append(await host.start(A))

            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            assert found == [], "not the one that is about to go"
            launcher.machines[0].may_close.set()
        assert found[0].generation == first.generation + 1


async def test_a_stop_goes_on_when_who_asked_for_it_has_gone(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        lease = await host.start(A)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: host.stop(lease.id, grace=0.2, reason="asked"))
            await launcher.machines[0].asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            await host.stop(lease.id, grace=60, reason="asked again")
        assert host.active_leases() == []
        assert launcher.machines[0].closed.is_set()


async def test_a_second_stop_may_be_less_patient(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        lease = await host.start(A)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: host.stop(lease.id, grace=3600, reason="asked")
                )
                await launcher.machines[0].asked.wait()
                await host.stop(lease.id, grace=0, reason="now")
        assert launcher.machines[0].graces[:2] == [3600, 0]


async def test_a_machine_that_does_not_go(tmp_path):
    """The error is the machine's own, and its name is free again."""
    launcher = Launcher()
    launcher.broken_go = UpstreamError("QEMU refused cont")
    async with host_role(tmp_path, launcher) as host:
        with pytest.raises(UpstreamError, match="QEMU refused cont"):
            await host.start(A)
        assert launcher.machines[0].closed.is_set()
        launcher.broken_go = None
        await host.start(A)


async def test_a_lease_that_is_released_before_its_machine_runs(tmp_path):
    class Hesitant(PaperMachine):
        async def go(self):
            self.asked.set()
            await trio.sleep_forever()

    machine = Hesitant()
    async with host_role(tmp_path, Launcher()) as host, trio.open_nursery() as nursery:

        async def admit():
            with pytest.raises(UpstreamError, match="let go of it"):
                await host.admit(A, A, machine)

        nursery.start_soon(admit)
        await machine.asked.wait()
        (active_lease,) = host.active_leases()
        await host.release(active_lease.lease.id, "they let go of it")
    assert machine.closed.is_set()


async def test_an_end_that_goes_wrong_ends_nothing_else(tmp_path, capsys):
    class Clumsy(SilentViewer):
        async def lease_ended(self, lease, reason, *, machine_lives=False):
            await super().lease_ended(lease, reason)
            raise ZeroDivisionError

    class Broken(PaperMachine):
        async def close(self):
            await super().close()
            raise OSError(5, "Input/output error")

    async with host_role(tmp_path, Launcher(), viewer=Clumsy()) as host:
        broken = Broken()
        mine = (await host.admit(A, A, broken)).lease
        other = await host.start(B)
        with trio.fail_after(30):
            await host.stop(mine.id, grace=0, reason="asked")
        assert broken.closed.is_set()
        assert [t.lease for t in host.active_leases()] == [other]
        await host.admit(A, A, PaperMachine())
    assert "ZeroDivisionError" in capsys.readouterr().err


async def test_a_stop_of_a_lease_that_cannot_be_recorded(tmp_path, monkeypatch):
    """It never began, so its end is not waited for."""
    launcher = Launcher()
    recording = trio.Event()
    full = trio.Event()

    async def record(event):
        recording.set()
        await full.wait()
        raise UpstreamError("the audit log cannot be written")

    async with host_role(tmp_path, launcher) as host, trio.open_nursery() as nursery:

        async def start():
            with pytest.raises(UpstreamError, match="cannot be written"):
                await host.start(A)

        monkeypatch.setattr(host._log._store, "record", record)
        nursery.start_soon(start)
        await recording.wait()
        (active_lease,) = host.active_leases()
        stop = partial(host.stop, active_lease.lease.id, grace=0, reason="asked")
        nursery.start_soon(stop)
        await wait_all_tasks_blocked()
        monkeypatch.undo()
        with trio.fail_after(30):
            full.set()
            await stop()
            await launcher.machines[0].closed.wait()
        assert host.active_leases() == []


# -- starts --------------------------------------------------------------------------


async def test_two_starts_at_once_of_one_sandbox_are_one_lease(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        found = []

        async def start():
            found.append(await host.start(A))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(start)
        assert len(launcher.machines) == 1
        assert set(found) == {host.active_leases()[0].lease}
        assert found[0].generation == 1


async def test_two_starts_at_once_of_which_the_first_fails(tmp_path):
    """Who waited for it tries again, and does not wait for ever."""
    launcher = Launcher()
    launcher.broken_go = UpstreamError("QEMU refused cont")
    async with host_role(tmp_path, launcher) as host:
        said = []

        async def start():
            try:
                said.append(await host.start(A))
            except UpstreamError as error:
                said.append(str(error))
                launcher.broken_go = None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)
        assert said[0] == "QEMU refused cont"
        assert [t.lease for t in host.active_leases()] == [said[1]]


async def test_a_running_one_is_not_started_again(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        assert await host.start(A) == await host.start(A)
        assert len(launcher.machines) == 1
        assert (await host.start(B)).sandbox == "b"


async def test_a_viewer_that_refuses_costs_nothing_but_its_words(tmp_path):
    class No(SilentViewer):
        async def lease_begun(self, lease):
            await super().lease_begun(lease)
            raise RefusedError("the viewer has no valid record 'a'")

    viewer, launcher = No(), Launcher()
    async with host_role(tmp_path, launcher, viewer=viewer) as host:
        for number in range(1, 4):
            with pytest.raises(RefusedError, match="no valid record 'a'"):
                await host.start(A)
            assert launcher.machines[-1].closed.is_set()
            assert len(viewer.begun) == number
        assert viewer.ended == [], "a refused lease is not withdrawn"
        assert host.active_leases() == []
    ends = events(tmp_path, "lease.end")
    assert [e["generation"] for e in ends] == [1, 2, 3]
    assert {e["reason"] for e in ends} == {"the viewer has no valid record 'a'"}


async def test_a_viewer_that_refuses_closes_no_cid(tmp_path):
    """Who has mended the record need not wait for a minute."""

    class No(SilentViewer):
        async def lease_begun(self, lease):
            raise RefusedError("no record")

    async with host_role(tmp_path, None, viewer=No()) as host:
        for _ in range(2):
            with pytest.raises(RefusedError, match="no record"):
                await host.admit(A, A, PaperMachine(VsockClaim(1, 42)))


async def test_a_lease_that_cannot_be_recorded_is_none(tmp_path, monkeypatch):
    launcher, viewer = Launcher(), SilentViewer()
    async with host_role(tmp_path, launcher, viewer=viewer) as host:

        async def full(event):
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(host._log._store, "record", full)
            with pytest.raises(UpstreamError, match="cannot be written"):
                await host.start(A)
        assert launcher.machines[0].closed.is_set()
        assert viewer.begun == [], "no other process knows it"
        assert host.active_leases() == []
        await host.start(A)


async def test_the_lease_is_on_record_before_the_viewer_hears_of_it(tmp_path):
    class Looking(SilentViewer):
        async def lease_begun(self, lease):
            await super().lease_begun(lease)
            (event,) = events(tmp_path, "lease.begin")
            assert event["lease"] == lease.id

    viewer = Looking()
    async with host_role(tmp_path, Launcher(), viewer=viewer) as host:
        await host.start(A)
    assert len(viewer.begun) == 1


async def test_an_identity_that_is_leased_already(tmp_path):
    """Its machine is closed, and the refusal is an event."""
    claim = own_claim("/nowhere/vm.vsock")
    async with host_role(tmp_path, Launcher()) as host:
        first, second = PaperMachine(claim), PaperMachine(claim)
        await host.admit(A, A, first)
        with pytest.raises(RefusedError, match="is leased to sandbox a"):
            await host.admit(B, B, second)
        assert second.closed.is_set()
        assert not first.closed.is_set()
    (event,) = events(tmp_path, "lease.refused")
    assert (event["sandbox"], event["peer"]) == ("b", "hybrid:/nowhere/vm.vsock")


async def test_a_refused_machine_that_cannot_be_switched_off_is_closed(
    tmp_path, capsys
):
    class Stubborn(PaperMachine):
        async def power_down(self, grace):
            raise UpstreamError("QEMU's monitor does not answer")

    async with host_role(tmp_path, Launcher()) as host:
        await host.start(A)
        stubborn = Stubborn()
        with pytest.raises(RefusedError, match="already has a lease"):
            await host.admit(A, A, stubborn)
        assert stubborn.closed.is_set()
    assert "does not answer" in capsys.readouterr().err


async def test_a_suspension_is_recorded(tmp_path):
    async with host_role(tmp_path, Launcher()) as host:
        lease = await host.start(A)
        (active,) = host.active_leases()
        await host.suspend(lease.id, suspended=True)
        assert active.machine.suspended
        await host.suspend(lease.id, suspended=False)
        assert not active.machine.suspended
        active.stopping = True
        with pytest.raises(RefusedError, match="starting or stopping"):
            await host.suspend(lease.id, suspended=True)
        active.stopping = False
    for kind in ("sandbox.suspend", "sandbox.resume"):
        (event,) = events(tmp_path, kind)
        assert (event["sandbox"], event["lease"]) == ("a", lease.id)


async def test_a_machine_whose_end_was_asked_for_meanwhile_is_not_suspended(
    tmp_path, monkeypatch
):
    """Else it does not end in order, and is waited for."""
    async with host_role(tmp_path, Launcher()) as host:
        lease = await host.start(A)
        (active,) = host.active_leases()
        require = host._log.require

        async def slowly(event):
            await require(event)
            active.stopping = True

        monkeypatch.setattr(host._log, "require", slowly)
        with pytest.raises(RefusedError, match="starting or stopping"):
            await host.suspend(lease.id, suspended=True)
        assert not hasattr(active.machine, "suspended")
        active.stopping = False


async def test_a_machine_of_another_program_is_not_suspended(tmp_path):
    class Foreign(PaperMachine):
        suspend = ForeignMachine.suspend

    async with host_role(tmp_path, Launcher()) as host:
        lease = (await host.admit(A, A, Foreign())).lease
        with pytest.raises(RefusedError, match="only micro VMs") as refused:
            await host.suspend(lease.id, suspended=True)
        assert "podman pause" in refused.value.hint


# -- ends ----------------------------------------------------------------------------


async def test_a_released_machine_lives_on_and_can_be_leased_again(tmp_path):
    claim = own_claim("/nowhere/vm.vsock")
    viewer = SilentViewer()
    async with host_role(tmp_path, Launcher(), viewer=viewer) as host:
        machine = PaperMachine(claim)
        lease = (await host.admit(A, A, machine)).lease
        await host.release(lease.id, "released by process 7")
        assert machine.graces == [], "it was not switched off"
        assert machine.closed.is_set(), "but its pidfds are let go of"
        assert viewer.ended == [(lease.id, "released by process 7")]
        again = (await host.admit(A, A, PaperMachine(claim))).lease
        assert (again.generation, again.id != lease.id) == (2, True)
        with pytest.raises(RefusedError, match=f"lease {lease.id} does not exist"):
            await host.release(lease.id, "once more")
    assert events(tmp_path, "lease.end")[0]["reason"] == "released by process 7"


async def test_stopping_a_gone_machine_succeeds(tmp_path):
    async with host_role(tmp_path, Launcher()) as host:
        lease = await host.start(A)
        await host.stop(lease.id, grace=0, reason="asked")
        await host.stop(lease.id, grace=0, reason="asked again")


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_stop_while_it_is_started(tmp_path, refuses):
    """The viewer is still thinking about it."""

    class Slow(SilentViewer):
        def __init__(self):
            super().__init__()
            self.asked, self.may_answer = trio.Event(), trio.Event()

        async def lease_begun(self, lease):
            await super().lease_begun(lease)
            self.asked.set()
            await self.may_answer.wait()
            if refuses:
                raise RefusedError("no")

    viewer, launcher = Slow(), Launcher()
    async with host_role(tmp_path, launcher, viewer=viewer) as host:
        outcome = []

        async def start():
            try:
                outcome.append(await host.start(A))
            except RefusedError as error:
                outcome.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await viewer.asked.wait()
            (active_lease,) = host.active_leases()
            nursery.start_soon(
                lambda: host.stop(active_lease.lease.id, grace=0, reason="stop it")
            )
            await launcher.machines[0].asked.wait()
            viewer.may_answer.set()
        assert launcher.machines[0].closed.is_set()
        assert host.active_leases() == []
        assert outcome == ["no"] if refuses else [active_lease.lease]
    (event,) = events(tmp_path, "lease.end")
    assert event["reason"] == "stop it"


async def test_the_viewer_is_told_before_the_identity_is_free(tmp_path):
    """Its streams are cut then; only afterwards may another one have the CID."""
    order = []

    class Telling(SilentViewer):
        async def lease_ended(self, lease, reason, *, machine_lives=False):
            order.append("viewer")

    class Machine(PaperMachine):
        async def power_down(self, grace):
            order.append("off")
            await super().power_down(grace)

        async def close(self):
            assert host.active_leases(), "its lease is still there"
            order.append("closed")
            await super().close()

    async with host_role(tmp_path, Launcher(), viewer=Telling()) as host:
        machine = Machine()
        active_lease = await host.admit(A, A, machine)
        machine.over.set()
        await active_lease.ended.wait()
    assert order == ["viewer", "off", "closed"]
    assert len(events(tmp_path, "lease.end")) == 1


async def test_before_it_runs(tmp_path):
    async with journal(tmp_path) as log:
        role = HostRole(
            viewer=SilentViewer(),
            log=log,
            open_machine=Launcher(),
            devices=NoDevices(),
            name_for=None,
        )
        machine = PaperMachine()
        with pytest.raises(RefusedError, match="starting or shutting down"):
            await role.admit(A, A, machine)
        assert machine.closed.is_set()


def events(tmp_path, kind):
    with open_log(tmp_path / "audit.sqlite") as log:
        return [row.fields() for row in log.find(Filters(kinds=(kind,)))]


async def test_a_machine_that_runs_is_not_changed(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        changes = LaunchChanges(memory_mib=512)
        lease = await host.start(A, changes=changes)
        assert launcher.changes == changes
        with pytest.raises(RefusedError, match="it is running"):
            await host.start(A, changes=changes)
        assert await host.start(A) == lease
