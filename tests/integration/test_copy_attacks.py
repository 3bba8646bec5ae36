"""Copies that die halfway and files that lie, with QEMUs that never run.

What fails before a copy runs is a plain boot in the same start, and nothing is left.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import asynccontextmanager

import msgspec
import pytest

from broker.core.errors import UpstreamError
from broker.host.vmm import launcher
from broker.host.vmm.parent import fork, shared, starting
from broker.host.vmm.parent.make import hear as real_hear
from tests.integration.test_paused_machines import _paused
from tests.kit.eventually import eventually
from tests.kit.vm.copies import stage
from tests.kit.vm.machines import leftovers
from tests.kit.world import descriptors, processes

__all__ = ["_paused"]  # a fixture of every test here

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def parent(s):
    return s.place / "parents" / "web"


@asynccontextmanager
async def unharmed(s, mode):
    """A parent that is there again after each attack; the files are the same."""
    await s.starter.make(await s.request("maker", mode=mode))
    kept = s.place / "kept"
    kept.mkdir()
    for path in parent(s).iterdir():
        os.link(path, kept / path.name)

    def restore():
        shutil.rmtree(parent(s), ignore_errors=True)
        parent(s).mkdir(mode=0o700)
        for path in kept.iterdir():
            os.link(path, parent(s) / path.name)

    yield restore


class Deadly(fork.CopyPlan):
    """A machine on its way up, one of whose processes is killed at a step."""

    step = ""

    async def spawn_vmm(self, passed):
        vmm = await super().spawn_vmm(passed)
        if self.step == "started":
            vmm.kill()
        return vmm

    async def load(self, vm):
        if self.step == "connected":
            vm.vmm.kill()
        await super().load(vm)
        if self.step == "loaded":
            vm.vmm.kill()

    async def identify(self, vm, name):
        """The guest says nothing here: what ends the wait is the end of QEMU."""
        victims = {"identified": vm.vmm, "backend": vm.processes[1]}
        if self.step not in victims:
            return await super().identify(vm, name)

        async def silent(port, words):
            victims[self.step].kill()
            await real_hear(port, words)

        patched, fork.hear = fork.hear, silent
        try:
            await super().identify(vm, name)
        finally:
            fork.hear = patched


class DeadlyCopy(Deadly):
    """A copy."""


class DeadlyFork(Deadly, shared.SharedPlan):
    """One that shares its parent's memory."""


def full_disk(after):
    """Return a writer of the state file whose disk is full after some writes."""
    left = [after]
    write = launcher.write_state

    def written(directory, state):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(directory, state)

    return written


class Attacked:
    """One stage whose plain boots are only counted."""

    def __init__(self, s, monkeypatch, mode):
        self.s = s
        self.mode = mode
        self.monkeypatch = monkeypatch
        self.boots = 0
        self.real = starting.start_vm

    async def start_vm(self, spec, tools, *, make_plan=None, **kept):
        if make_plan is not None:
            return await self.real(spec, tools, make_plan=make_plan, **kept)
        self.boots += 1
        raise UpstreamError("this would be the boot")

    async def fails_clean(self, name):
        """A start tries the copy, then boots; and nothing of the copy is left."""
        boots, before = self.boots, descriptors(os.getpid())
        with pytest.raises(UpstreamError, match="this would be the boot"):
            await self.s.starter.start(await self.s.request(name, mode=self.mode))
        assert self.boots == boots + 1
        assert not parent(self.s).exists(), "it is not tried with it again"
        assert leftovers(self.s.place / name) in ([], ["initrd"]), name

        async def gone():
            return not processes(self.s.place)

        assert await eventually(gone, deadline=60), name

        async def closed():
            return not descriptors(os.getpid()) - before

        assert await eventually(closed, deadline=60), name
        self.s.starter._failures.clear()


@pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])
async def test_a_copy_that_dies_at_any_step_boots_and_leaves_nothing(
    monkeypatch, mode, how
):
    async with stage() as s, unharmed(s, mode) as restore:
        attacked = Attacked(s, monkeypatch, mode)
        monkeypatch.setattr(starting, "start_vm", attacked.start_vm)
        monkeypatch.setattr(starting, "CopyPlan", DeadlyCopy)
        monkeypatch.setattr(starting, "SharedPlan", DeadlyFork)
        # One that is not attacked comes up: the attacks are what fails below.
        restore()
        started = await s.starter.start(await s.request("whole", mode=mode))
        assert started.how == how
        await started.vm.close()
        steps = ("started", "connected", "loaded", "backend", "identified")
        for step in steps:
            restore()
            monkeypatch.setattr(Deadly, "step", step)
            await attacked.fails_clean(f"killed-{step}")
        monkeypatch.setattr(Deadly, "step", "")
        for writes in (0, 1, 2):
            restore()
            with monkeypatch.context() as full:
                full.setattr(launcher, "write_state", full_disk(writes))
                await attacked.fails_clean(f"full-{writes}")
        for file, size in (("memory", 1 << 20), ("state", 4096), ("state", 0)):
            restore()
            cut_short(parent(s), file, size)
            await attacked.fails_clean(f"cut-{file}-{size}")
        assert attacked.boots == len(steps) + 6
        assert s.problems == []


def cut_short(directory, name, size):
    """Replace a file by its beginning, and let the store believe that it is whole."""
    path = directory / name
    with path.open("rb") as file:
        data = file.read(size)
    path.unlink()
    path.write_bytes(data)
    meta = directory / "meta.json"
    found = {**msgspec.json.decode(meta.read_bytes()), name: size}
    meta.unlink()
    meta.write_bytes(msgspec.json.encode(found))
