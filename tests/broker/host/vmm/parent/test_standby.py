"""Machines that wait for a start: when one is made, used, and ended; on paper."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.parent import request, standby, starting
from broker.host.vmm.parent.starting import Starter
from broker.host.vmm.qemu_arguments import Network
from tests.broker.host.vmm.parent.test_starting import Stage
from tests.kit.eventually import eventually


class PaperVm:
    """A machine that is words; it ends when a test says so."""

    def __init__(self, directory):
        self.directory = directory
        self.cid = 1000
        self.ended = trio.Event()
        self.may_close = trio.Event()
        self.may_close.set()
        self.closing = trio.Event()
        self.closed = False
        self.state = None
        self.processes = ()

    async def wait(self):
        await self.ended.wait()

    async def close(self):
        self.closing.set()
        await self.may_close.wait()
        self.closed = True
        self.ended.set()

    def settle(self, state, directory, on_loss):
        self.state, self.directory, self.on_loss = state, directory, on_loss


class PaperPlan:
    """In the place of what loads a copy and gives it its identity."""

    def __init__(self, stage):
        self.stage = stage
        self.released = False

    async def wake(self, vm, name):
        self.stage.waking.set()
        await trio.lowlevel.checkpoint()
        if self.stage.wake_hangs:
            await trio.sleep_forever()
        if self.stage.wake_error is not None:
            raise self.stage.wake_error
        vm.name = name

    def release(self):
        self.released = True


class StandbyStage(Stage):
    """Like ``Stage``, with machines that wait."""

    def __init__(self, place):
        super().__init__(place)
        self.vms = []
        self.wake_error = None
        self.wake_hangs = False
        self.waking = trio.Event()
        self.short = trio.Event()
        self.request = replace(
            self.request,
            standby_mib=768,
            write_initrd=lambda directory: directory / "initrd",
        )

    async def start_vm(self, spec, tools, *, make_plan=None, **kept):
        if make_plan is None or "on_loss" in kept:
            return await super().start_vm(spec, tools, make_plan=make_plan, **kept)
        await trio.lowlevel.checkpoint()
        if self.copy_error is not None:
            raise self.copy_error
        make_plan(spec, tools, None, None)
        self.vms.append(PaperVm(spec.directory))
        return self.vms[-1]

    async def wait_until_short(self):
        await self.short.wait()
        self.short = trio.Event()
        return "it is a test"

    @property
    def pool(self):
        return self.starter.pool

    async def waiting(self, record="web"):
        await eventually(lambda: record in self.pool.records)

    async def first_start(self):
        """Start from a new parent, until a standby machine waits."""
        await self.starter.make(self.request)
        await self.start()
        await self.waiting()

    @asynccontextmanager
    async def hanging_start(self):
        """A start whose standby machine hangs as it wakes; cancelled after the block."""
        await self.first_start()
        self.wake_hangs = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.start)
            await self.waking.wait()
            yield
            nursery.cancel_scope.cancel()

    async def decided(self):
        """Wait until none is being started: the pool looks for parents in a thread."""
        await eventually(lambda: not self.pool._coming)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.delenv("VITRAIL_FORK", raising=False)

    @asynccontextmanager
    async def made():
        s = StandbyStage(tmp_path)
        monkeypatch.setattr(starting, "start_vm", s.start_vm)
        monkeypatch.setattr(starting, "make_parent", s.make_parent)
        monkeypatch.setattr(standby, "WaitingPlan", lambda *_a, **_k: PaperPlan(s))
        monkeypatch.setattr(standby, "available_bytes", lambda: 1 << 40)
        monkeypatch.setattr(standby.msgspec.structs, "replace", lambda _s, **new: new)
        async with trio.open_nursery() as nursery:
            places = tmp_path / "parents", tmp_path / "standby"
            s.starter = Starter(places[0], nursery, s.problems.append, places[1])
            s.starter.delay_seconds = 0
            s.pool.delay_seconds = 0
            s.pool.wait_until_short = s.wait_until_short
            yield s
            nursery.cancel_scope.cancel()

    return made


async def test_the_next_start_takes_the_machine_that_waits(stage):
    async with stage() as s:
        await s.starter.make(s.request)
        assert (await s.start()).how == "copy"
        await s.waiting()
        assert s.vms[0].directory.parent == s.place / "standby"
        assert s.vms[0].directory.stat().st_mode & 0o777 == 0o700
        lost = []
        started = await s.starter.start(s.request, on_loss=lost.append)
        (vm, *_) = s.vms
        assert (started.vm, started.how, started.why) == (vm, "standby", "")
        assert vm.name == "web-1"
        assert vm.state == {"name": "web-1", "logs": str(s.place / "logs")}
        assert vm.directory == s.request.spec.directory
        assert not vm.closed
        await s.waiting()
        assert len(s.vms) == 2, "and another one waits for the start after it"
        assert s.made == 1


async def test_one_waits_after_the_first_boot_has_made_a_parent(stage):
    async with stage() as s:
        assert (await s.start()).how == "boot"
        await s.waiting()
        assert (s.made, len(s.vms)) == (1, 1)


async def test_none_waits_unless_the_record_says_so(stage):
    async with stage() as s:
        await s.starter.make(s.request)
        await s.start(standby_mib=0)
        await s.decided()
        assert s.vms == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image": "another"}, "another image, QEMU version or record"),
        ({"warm": ("xterm",)}, "another image, QEMU version or record"),
        ({"spec": {"memory_mib": 512}}, "another image, QEMU version or record"),
        ({"spec": {"network": Network.USER}}, "another network"),
    ],
)
async def test_one_that_is_another_machine_is_ended_and_not_used(stage, change, why):
    async with stage() as s:
        await s.first_start()
        if "spec" in change:
            change = {"spec": replace(s.request.spec, **change["spec"])}
        started = await s.start(**change)
        assert started.how != "standby"
        assert why in started.why
        assert s.vms[0].closed
        assert not s.vms[0].directory.exists()


async def test_one_with_an_old_helper_is_not_used(stage, tmp_path):
    """A package has replaced vhost-device-vsock: the old one must not continue."""
    helper = tmp_path / "vhost-device-vsock"
    helper.write_text("#!/bin/sh")
    async with stage() as s:
        s.request = replace(
            s.request, tools=replace(s.request.tools, vhost_device_vsock=helper)
        )
        await s.starter.make(s.request)
        await s.start()
        await s.waiting()
        helper.write_text("#!/bin/sh -e")
        started = await s.start()
        assert started.how == "copy"
        assert "has outdated helper processes" in started.why
        assert s.vms[0].closed
        await s.waiting()
        helper.unlink()
        key = request.parent_key(s.request)
        vm, why = await s.pool.take(s.request, key, (), None)
        assert vm is None
        assert "No such file" in why
        assert s.vms[1].closed


async def test_one_with_the_resolver_of_another_place_is_not_used(
    stage, tmp_path, monkeypatch
):
    """passt has read /etc/resolv.conf before this laptop was carried elsewhere."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(standby, "RESOLV_CONF", resolver)
    async with stage() as s:
        spec = replace(s.request.spec, network=Network.USER)
        for request in (s.request, replace(s.request, spec=spec)):
            s.request = request
            await s.starter.make(s.request)
            await s.start()
            await s.waiting()
            resolver.write_text("nameserver 198.51.100.1\n")
            uses_network = request.spec.network is Network.USER
            started = await s.start()
            assert started.how == ("copy" if uses_network else "standby")
            assert ("another resolver" in started.why) == uses_network
            resolver.write_text("nameserver 192.0.2.1\n")
            await s.waiting()
            s.pool.drop("web")
            await eventually(lambda: not s.pool.records)


async def test_a_full_disk_leaves_no_directory(stage):
    def full(_directory):
        raise OSError(28, "No space left on device")

    async with stage() as s:
        await s.starter.make(s.request)
        await s.start(write_initrd=full)
        await eventually(lambda: bool(s.problems))
        assert "No space left" in s.problems[0]
        assert list((s.place / "standby").iterdir()) == []


async def test_one_whose_address_is_closed_is_not_used(stage):
    async with stage() as s:
        await s.first_start()
        started = await s.starter.start(s.request, quarantine={s.vms[0].cid})
        assert started.how == "copy"
        assert "vsock CID" in started.why
        assert s.vms[0].closed


async def test_one_of_an_old_parent_is_not_used(stage, monkeypatch):
    async with stage() as s:
        await s.first_start()
        now = standby.time.time()
        later = now + limits.PARENT_SECONDS + 1
        monkeypatch.setattr(standby.time, "time", lambda: later)
        started = await s.start()
        assert started.how == "boot"
        assert "more than a day old" in started.why
        assert s.vms[0].closed


async def test_records_do_not_share_one(stage):
    async with stage() as s:
        await s.first_start()
        started = await s.start(record="mail")
        assert started.how == "boot"
        assert not s.vms[0].closed


@pytest.mark.parametrize(
    "error", [UpstreamError("QEMU exited"), OSError(28, "No space left on device")]
)
async def test_a_failure_copies_in_the_same_start(stage, error):
    async with stage() as s:
        await s.first_start()
        s.wake_error = error
        started = await s.start()
        assert (started.vm, started.how) == ("copied", "copy")
        assert "the standby machine failed" in started.why
        assert s.vms[0].closed


async def test_one_that_does_not_wake_is_ended(stage, mock_clock):
    mock_clock.rate = 1
    async with stage() as s:
        await s.first_start()
        s.wake_hangs = True
        results = []

        async def start():
            results.append(await s.start())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await s.waking.wait()
            mock_clock.jump(limits.FORK_SECONDS)
        (started,) = results
        assert started.how == "copy"
        assert "within 5 s" in started.why
        assert s.vms[0].closed


async def test_one_that_dies_is_cleaned_up_and_the_next_start_copies(stage):
    async with stage() as s:
        await s.first_start()
        s.vms[0].ended.set()
        await eventually(lambda: not s.pool.records)
        assert s.vms[0].closed
        started = await s.start()
        assert (started.how, started.why) == ("copy", "")


async def test_short_memory_ends_all_and_none_comes_at_once(stage):
    async with stage() as s:
        await s.first_start()
        s.short.set()
        await eventually(lambda: not s.pool.records)
        assert s.vms[0].closed
        assert "it is a test" in s.problems[0]
        assert (await s.start()).how == "copy"
        await s.decided()
        assert len(s.vms) == 1


async def test_waiting_machines_have_no_more_memory_than_allowed(stage):
    async with stage() as s:
        mail = replace(s.request, record="mail")
        for request in (s.request, mail):
            await s.starter.make(request)
        await s.start()
        await s.waiting()
        await s.starter.start(mail)
        await s.decided()  # a second start would not count before
        assert s.pool.records == {"web"}, "2 * 768 MiB are more than 768"
        await s.starter.start(replace(mail, standby_mib=1536))
        await s.waiting("mail")


async def test_without_free_memory_none_waits(stage, monkeypatch):
    async with stage() as s:
        need = limits.STANDBY_FREE_BYTES + (s.request.spec.memory_mib << 20)
        await s.starter.make(s.request)
        monkeypatch.setattr(standby, "available_bytes", lambda: need - 1)
        await s.start()
        await s.decided()
        assert s.vms == []
        monkeypatch.setattr(standby, "available_bytes", lambda: need)
        await s.start()
        await s.waiting()


async def test_one_that_cannot_be_started_is_reported_and_leaves_nothing(stage):
    async with stage() as s:
        await s.starter.make(s.request)
        await s.start(standby_mib=0)
        s.copy_error = UpstreamError("QEMU said no")
        s.pool.prepare_soon(s.request, request.parent_key(s.request))
        await eventually(lambda: bool(s.problems))
        assert "cannot prepare a standby machine of 'web'" in s.problems[0]
        assert list((s.place / "standby").iterdir()) == []


async def test_they_end_with_the_broker(stage):
    async with stage() as s:
        await s.first_start()
    assert s.vms[0].closed
    assert not s.vms[0].directory.exists()


async def test_a_start_that_is_cancelled_while_it_wakes_one_ends_it(stage):
    async with stage() as s:
        async with s.hanging_start():
            pass
        assert s.vms[0].closed


async def test_a_record_that_boots_has_none_that_comes_later(stage):
    """It was on its way as the record changed, and would have waited for a day."""
    async with stage() as s:
        await s.starter.make(s.request)
        s.pool.delay_seconds = 0.01
        await s.start()
        assert (await s.start(mode="no")).how == "boot"
        await s.decided()
        assert s.vms == []
        await s.start()
        await s.waiting()


async def test_one_that_is_dropped_as_it_comes_leaves_nothing(stage):
    async with stage() as s:
        await s.starter.make(s.request)
        await s.start()
        s.pool.drop("web")
        await eventually(lambda: not s.pool._coming)
        assert not s.pool.records
        assert s.problems == []
        assert [*(s.place / "standby").glob("*")] == []


async def test_one_that_dies_as_a_start_wants_it_is_ended_once(stage):
    """Ending takes seconds, and a start may come in them."""
    async with stage() as s:
        await s.first_start()
        (dying,) = s.vms
        dying.may_close = trio.Event()
        dying.ended.set()
        await dying.closing.wait()
        assert (await s.start()).how == "copy"
        assert not dying.closed
        dying.may_close.set()
        await eventually(lambda: not s.pool.records)
        assert dying.closed
        assert (await s.start()).how == "copy", "the pool lives on"
        await s.waiting()


async def test_one_that_wakes_and_the_next_one_have_different_places(stage):
    """The sockets of one must never be moved into the sandbox of the other."""
    async with stage() as s:
        async with s.hanging_start():
            assert (await s.start()).how == "copy"
            await s.waiting()
            first, second = s.vms
            assert first.directory != second.directory
            assert first.directory.is_dir()
            assert second.directory.is_dir()
        assert not first.directory.exists()
        assert second.directory.is_dir()


async def test_it_ends_with_its_parent_s_age(stage, mock_clock):
    # Not autojump_clock: it jumps while a thread of the pool's is at work, too.
    mock_clock.rate = 1
    async with stage() as s:
        await s.first_start()
        mock_clock.jump(limits.PARENT_SECONDS - 600)
        await trio.testing.wait_all_tasks_blocked()
        assert s.pool.records == {"web"}
        mock_clock.jump(1200)
        await eventually(lambda: not s.pool.records)
        assert s.vms[0].closed


async def test_a_record_that_boots_from_now_on_has_none(stage):
    async with stage() as s:
        await s.first_start()
        assert (await s.start(mode="no")).how == "boot"
        await eventually(lambda: not s.pool.records)
        assert s.vms[0].closed


async def test_remains_that_cannot_be_read_do_not_keep_the_others(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "vm.json").write_text("no state")
    (tmp_path / "2" / "initrd").write_text("of a machine that was being started")
    with pytest.raises(UpstreamError, match=r"vm\.json"):
        await standby.clean_standbys(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
