"""Copies under attack: machines that die halfway, files that lie, secrets looked for.

What fails before a copy runs is a plain boot in the same start, and nothing is left.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
import shutil
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from broker.core.errors import UpstreamError
from broker.launch.microvm import launcher
from broker.launch.template import fork, starting
from tests.kit.eventually import eventually
from tests.kit.vm.copies import output, stage
from tests.kit.vm.machines import leftovers, require_vm
from tests.kit.world import descriptors, processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
IN_A_ROW = int(os.environ.get("VITRAIL_COPIES", "20"))
WRITE = "head -c 64M /dev/urandom > /tmp/written && wc -c < /tmp/written"


@pytest.fixture(autouse=True)
def _vm(monkeypatch):
    require_vm()
    monkeypatch.delenv("VITRAIL_FORK", raising=False)


def template(s):
    return s.place / "templates" / "web"


@asynccontextmanager
async def unharmed(s):
    """A template that is there again after each attack; the files are the same."""
    await s.starter.make(s.request("maker"))
    kept = s.place / "kept"
    kept.mkdir()
    for path in template(s).iterdir():
        os.link(path, kept / path.name)

    def restore():
        shutil.rmtree(template(s), ignore_errors=True)
        template(s).mkdir(mode=0o700)
        for path in kept.iterdir():
            os.link(path, template(s) / path.name)

    yield restore


class Deadly(fork.CopyPlan):
    """A copy one of whose processes is killed at a step."""

    step = ""

    async def spawn_qemu(self, passed):
        vmm = await super().spawn_qemu(passed)
        if self.step == "started":
            vmm.kill()
        return vmm

    async def load(self, vm):
        if self.step == "connected":
            vm.vmm.kill()
        await super().load(vm)
        if self.step == "loaded":
            vm.vmm.kill()
        if self.step == "backend":
            vm.processes[1].kill()

    async def identify(self, vm, name):
        if self.step == "identified":
            hear = fork.hear

            async def killed(port, words):
                vm.vmm.kill()
                await hear(port, words)

            fork.hear = killed
            try:
                await super().identify(vm, name)
            finally:
                fork.hear = hear
        else:
            await super().identify(vm, name)


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

    def __init__(self, s, monkeypatch):
        self.s = s
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
            await self.s.starter.start(self.s.request(name))
        assert self.boots == boots + 1
        assert not template(self.s).exists(), "it is not tried with it again"
        assert leftovers(self.s.place / name) == ["initrd"], name

        async def gone():
            return not processes(self.s.place)

        assert await eventually(gone, deadline=60), name
        assert not descriptors(os.getpid()) - before, name
        self.s.starter._failures.clear()


async def test_a_copy_that_dies_at_any_step_boots_and_leaves_nothing(monkeypatch):
    async with stage() as s, unharmed(s) as restore:
        attacked = Attacked(s, monkeypatch)
        monkeypatch.setattr(starting, "start_vm", attacked.start_vm)
        monkeypatch.setattr(starting, "CopyPlan", Deadly)
        # One that is not attacked comes up: the attacks are what fails below.
        restore()
        started = await s.starter.start(s.request("whole"))
        assert started.how == "copy"
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
            cut_short(template(s), file, size)
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


def digest(path):
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            total.update(data)
    return total.hexdigest()


def contains(path, needle):
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return view.find(needle) >= 0


async def test_many_copies_in_a_row_leave_the_template_as_it_was(monkeypatch, tmp_path):
    """And it has no secret of this machine in it."""
    token = secrets.token_hex(24)
    monkeypatch.setenv("VITRAIL_TEST_TOKEN", token)
    (tmp_path / "key").write_text(token)
    async with stage() as s:
        await s.starter.make(s.request("maker"))
        files = [template(s) / name for name in ("memory", "state")]
        # What is in it is found: the kernel's command line, the agent's source.
        assert contains(files[0], b"vitrail.template=1")
        assert contains(files[0], b"FORK_SEED_BYTES")
        home = os.path.expanduser("~")
        for secret in (token, home, str(s.place), os.environ["XDG_RUNTIME_DIR"]):
            assert not any(contains(path, secret.encode()) for path in files), secret
        before = await trio.to_thread.run_sync(lambda: list(map(digest, files)))
        await in_a_row(s)
        after = await trio.to_thread.run_sync(lambda: list(map(digest, files)))
        assert after == before


async def in_a_row(s):
    seen = set()
    for number in range(IN_A_ROW):
        async with s.machine(f"copy-{number}") as (started, broker, _vm):
            assert (started.how, started.why) == ("copy", "")
            said = await output(broker, f"{WRITE}; cat /proc/sys/kernel/random/boot_id")
            assert said[0] == str(64 << 20)
            seen.add(said[1])
        if number == 0:
            held = descriptors(os.getpid())
    assert len(seen) == IN_A_ROW
    assert not descriptors(os.getpid()) - held

    async def gone():
        return not processes(s.place)

    assert await eventually(gone, deadline=60)
