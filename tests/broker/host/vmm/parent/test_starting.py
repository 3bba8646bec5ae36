"""Which starts are copies, which boot, and why: with simulated machines."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent import starting
from broker.host.vmm.parent.fork import CopyPlan
from broker.host.vmm.parent.request import StartRequest
from broker.host.vmm.parent.shared import SharedPlan
from broker.host.vmm.parent.starting import Starter
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from tests.kit.eventually import eventually


class Stage:
    """A starter whose machines are words."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.copies = self.boots = self.made = 0
        self.copy_error: Exception | None = None
        self.make_error: Exception | None = None
        self.copy_hangs = False
        self.not_shared = ""
        self.plans: list[type] = []
        self.problems: list[str] = []
        self.starter: Starter
        spec = VmSpec(
            name=SandboxName("web-1"),
            kernel=Path("/kernel"),
            initrd=Path("/initrd"),
            root=Path("/root"),
            directory=place / "run",
            logs=place / "logs",
        )
        tools = Tools(Path("/bin/sh"), Accel.TCG, Path("/bin/true"))
        self.request = StartRequest(
            record="web",
            mode="copy",
            image="digest",
            write_initrd=lambda directory: directory / "initrd",
            warm=("foot",),
            spec=spec,
            tools=tools,
        )

    async def start_vm(self, _spec, _tools, *, make_plan=None, **_kept):
        await trio.lowlevel.checkpoint()
        if make_plan is None:
            self.boots += 1
            return "booted"
        self.copies += 1
        self.plans.append(make_plan.func)
        if self.copy_hangs:
            await trio.sleep_forever()
        if self.copy_error is not None:
            raise self.copy_error
        return "copied"

    async def make_parent(self, plan, room):
        await trio.lowlevel.checkpoint()
        self.shared = plan.shared
        if self.make_error is not None:
            raise self.make_error
        self.made += 1
        (room / "memory").write_bytes(b"memory")
        (room / "state").write_bytes(b"state")

    async def start(self, **changes):
        return await self.starter.start(replace(self.request, **changes))

    async def start_changed(self, change):
        """Start with changes, those of ``spec`` and ``tools`` by their fields."""
        for field in ("spec", "tools"):
            if field in change:
                changed = replace(getattr(self.request, field), **change[field])
                change = {**change, field: changed}
        return await self.start(**change)

    @property
    def parent(self) -> Path:
        return self.place / "parents" / "web"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.delenv("VITRAIL_FORK", raising=False)

    @asynccontextmanager
    async def made():
        s = Stage(tmp_path)
        monkeypatch.setattr(starting, "start_vm", s.start_vm)
        monkeypatch.setattr(starting, "make_parent", s.make_parent)
        monkeypatch.setattr(starting, "why_not_shared", lambda: s.not_shared)
        async with trio.open_nursery() as nursery:
            s.starter = Starter(tmp_path / "parents", nursery, s.problems.append)
            s.starter.delay_seconds = 0
            yield s
            nursery.cancel_scope.cancel()

    return made


async def test_a_start_that_is_given_up_leaves_no_old_parents(stage):
    """They are removed by the first start that comes so far."""
    old = "parents/.new-crashed"
    async with stage() as s:
        (s.place / old).mkdir(parents=True)
        os.utime(s.place / old, (1, 1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await s.start()
        await s.start()
        assert not (s.place / old).exists()


async def test_the_first_boots_and_the_second_is_a_copy(stage):
    async with stage() as s:
        first = await s.start()
        assert (first.vm, first.how) == ("booted", "boot")
        assert first.why == "no parent machine exists yet"
        await eventually(s.parent.exists)
        second = await s.start()
        assert (second.vm, second.how, second.why) == ("copied", "copy", "")
        assert (s.made, s.boots, s.copies) == (1, 1, 1)


async def test_a_parent_is_made_once_for_many_starts(stage):
    async with stage() as s:
        s.starter.delay_seconds = 0.05
        for _ in range(5):
            await s.start()
        await eventually(s.parent.exists)
        assert s.made == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mode": "no"}, 'fork = "no"'),
        ({"spec": {"disposable": False}}, "only disposable"),
        ({"spec": {"huge_pages": True}}, "huge pages"),
        ({"spec": {"shared_image_bytes": 2 << 20}}, "a shared image"),
        ({"spec": {"arena_bytes": 2 << 20, "gpu": True}}, "a GPU"),
        (
            {"tools": {"accel": Accel.KVM}},
            'KVM machines can be copied only with fork = "shared"',
        ),
        ({"tools": {"vhost_device_vsock": None}}, "kernel vsock machines"),
    ],
)
async def test_starts_that_are_never_copies(stage, change, why):
    async with stage() as s:
        started = await s.start_changed(change)
        assert started.how == "boot"
        assert why in started.why
        await trio.testing.wait_all_tasks_blocked()
        assert s.made == 0


@pytest.mark.parametrize("value", ["no"])
async def test_the_environment_can_forbid_copies(stage, monkeypatch, value):
    async with stage() as s:
        monkeypatch.setenv("VITRAIL_FORK", value)
        assert (await s.start()).why == "VITRAIL_FORK=no"


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("QEMU said no"),
        SetupError("no jail"),
        OSError(28, "No space left on device"),
        ExceptionGroup("several", [OSError("a"), UpstreamError("b")]),
    ],
)
async def test_a_copy_that_fails_boots_and_drops_its_parent(stage, error):
    async with stage() as s:
        await s.starter.make(s.request)
        s.copy_error = error
        started = await s.start()
        assert started.vm == "booted"
        assert started.why.startswith("the copy failed")
        assert not s.parent.exists() or s.made == 2


async def test_a_copy_that_hangs_boots(stage, autojump_clock):
    async with stage() as s:
        await s.starter.make(s.request)
        s.copy_hangs = True
        began = trio.current_time()
        started = await s.start()
        assert started.vm == "booted"
        assert "within 5 s" in started.why
        assert trio.current_time() - began <= limits.FORK_SECONDS + 1


async def test_copies_that_fail_in_a_row_are_not_tried_again(stage):
    async with stage() as s:
        s.copy_error = UpstreamError("QEMU said no")
        s.starter.delay_seconds = 1000
        for _ in range(limits.FORK_FAILURES):
            await s.starter.make(s.request)
            await s.start()
        await s.starter.make(s.request)
        started = await s.start()
        assert s.copies == limits.FORK_FAILURES
        assert "copies of this record have failed" in started.why
        other = await s.start(record="mail")
        assert other.why == "no parent machine exists yet"


async def test_copies_that_have_failed_are_tried_again_later(stage, mock_clock):
    """A busy minute does not cost the fast starts of the day.

    The clock is moved by hand: one that jumps by itself does so while a thread works.
    """
    async with stage() as s:
        s.copy_error = UpstreamError("QEMU said no")
        s.starter.delay_seconds = 100_000
        for _ in range(limits.FORK_FAILURES):
            await s.starter.make(s.request)
            await s.start()
        s.copy_error = None
        mock_clock.jump(limits.FORK_PAUSE_SECONDS - 1)
        await s.starter.make(s.request)
        assert "have failed" in (await s.start()).why
        mock_clock.jump(1)
        assert (await s.start()).how == "copy"
        assert s.copies == limits.FORK_FAILURES + 1


async def test_a_parent_that_cannot_be_made_is_reported_once(stage):
    async with stage() as s:
        s.make_error = UpstreamError("the guest did not come up")
        await s.start()
        await eventually(lambda: bool(s.problems))
        assert "did not come up" in s.problems[0]
        await s.start()
        await trio.testing.wait_all_tasks_blocked()
        assert len(s.problems) == 1
        assert list((s.place / "parents").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"image": "another"},
        {"warm": ("xterm",)},
        {"spec": {"memory_mib": 512}},
        {"spec": {"cpus": 2}},
        {"tools": {"vmm": Path("/bin/ls")}},
    ],
)
async def test_another_machine_is_no_copy_of_this_parent(stage, change):
    async with stage() as s:
        await s.starter.make(s.request)
        started = await s.start_changed(change)
        assert started.how == "boot"
        assert "another image, QEMU version or record" in started.why
        assert s.copies == 0


async def test_a_machine_shares_memory_where_its_record_says_so(stage):
    async with stage() as s:
        first = await s.start(mode="shared")
        assert (first.vm, first.how) == ("booted", "boot")
        await eventually(s.parent.exists)
        assert s.shared
        second = await s.start(mode="shared")
        assert (second.vm, second.how, second.why) == ("copied", "fork", "")
        assert s.plans == [SharedPlan]


@pytest.mark.parametrize(
    "tools", [{"accel": Accel.KVM}, {"vhost_device_vsock": None}], ids=["kvm", "vsock"]
)
async def test_machines_that_boot_with_copy_are_forked_where_they_may_share(
    stage, tools
):
    async with stage() as s:
        changed = replace(
            s.request, mode="shared", tools=replace(s.request.tools, **tools)
        )
        await s.starter.make(changed)
        started = await s.start(mode="shared", tools=changed.tools)
        assert (started.how, started.why) == ("fork", "")
        s.not_shared = "no C compiler"
        started = await s.start(mode="shared", tools=changed.tools)
        assert started.how == "boot"
        assert started.why.startswith("no C compiler; ")


async def test_a_fork_that_fails_boots(stage):
    async with stage() as s:
        shared = replace(s.request, mode="shared")
        await s.starter.make(shared)
        s.copy_error = UpstreamError("QEMU said no")
        started = await s.start(mode="shared")
        assert (started.how, started.why) == ("boot", "the fork failed: QEMU said no")


async def test_where_memory_cannot_be_shared_it_is_copied(stage):
    async with stage() as s:
        s.not_shared = "no C compiler"
        await s.starter.make(s.request)
        assert not s.shared
        started = await s.start(mode="shared")
        assert (started.how, started.why) == ("copy", "no C compiler")
        assert s.plans == [CopyPlan]


@pytest.mark.parametrize(("one", "other"), [("copy", "shared"), ("shared", "copy")])
async def test_a_parent_of_one_mode_is_none_of_the_other(stage, one, other):
    async with stage() as s:
        await s.starter.make(replace(s.request, mode=one))
        started = await s.start(mode=other)
        assert started.how == "boot"
        assert "another image, QEMU version or record" in started.why
