"""Starts and ends of one lease that meet each other, and ends that go wrong."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from tests.kit.roles import PaperMachine, SilentViewer, host_role

A = SandboxName("a")
B = SandboxName("b")


class Launcher:
    """Opens paper machines and keeps them."""

    def __init__(self):
        self.machines = []
        self.broken_go = None

    async def __call__(self, sandbox, record, closed, progress):
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
        assert [t.lease for t in host.tenancies()] == [found[0]]


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
        with trio.fail_after(5):
            await host.stop(lease.id, grace=60, reason="asked again")
        assert host.tenancies() == []
        assert launcher.machines[0].closed.is_set()


async def test_a_second_stop_may_be_less_patient(tmp_path):
    launcher = Launcher()
    async with host_role(tmp_path, launcher) as host:
        lease = await host.start(A)
        with trio.fail_after(5):
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
        (tenancy,) = host.tenancies()
        await host.release(tenancy.lease.id, "they let go of it")
    assert machine.closed.is_set()


async def test_an_end_that_goes_wrong_ends_nothing_else(tmp_path, capsys):
    class Clumsy(SilentViewer):
        async def lease_ended(self, lease, reason):
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
        with trio.fail_after(5):
            await host.stop(mine.id, grace=0, reason="asked")
        assert broken.closed.is_set()
        assert [t.lease for t in host.tenancies()] == [other]
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
        (tenancy,) = host.tenancies()
        stop = partial(host.stop, tenancy.lease.id, grace=0, reason="asked")
        nursery.start_soon(stop)
        await wait_all_tasks_blocked()
        monkeypatch.undo()
        with trio.fail_after(5):
            full.set()
            await stop()
            await launcher.machines[0].closed.wait()
        assert host.tenancies() == []
