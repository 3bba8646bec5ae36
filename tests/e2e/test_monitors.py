"""A window out of a machine of another VMM than QEMU, by its stand-in."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager

import pytest

from broker.core.errors import SetupError
from tests.kit.eventually import eventually
from tests.kit.vm.monitors.installed import install
from tests.kit.wayland.compositor import (
    short_directory,
    wait_frames,
    wait_window,
    windows,
)
from tests.kit.world import world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
KINDS = ["firecracker", "cloud-hypervisor", "crosvm"]
GREEN = (0x00, 0x9E, 0x73)
RECORD = """\
class = "{sandbox_class}"
display = "allow"
[label]
colour = "green"
[launch]
kind = "{kind}"
memory = "512M"
boot_deadline = 300
"""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def place(kind):
    with short_directory() as path:
        install(path, kind)
        yield path


@asynccontextmanager
async def stage(kind, place, sandbox_class="disposable", program=None):
    text = RECORD.format(kind=kind, sandbox_class=sandbox_class)
    extra = {"PATH": f"{place}:{os.environ['PATH']}"}
    program = program or "tests.kit.vm.monitors.broker"
    async with world({"app": text}, extra=extra, program=program) as w:
        yield w


async def test_its_window_is_framed_and_ends_with_its_vmm(kind, place):
    async with stage(kind, place) as w:
        last, _items = await w.run("app", "foot", "-T", "shell", "sleep", "1000")
        sandbox = last.started.sandbox
        await wait_window(w.comp, title=f"[{sandbox}] shell")
        await wait_frames(w.comp, {f"[{sandbox}] shell": {GREEN}})
        begin = await w.only_event("lease.begin", sandbox=sandbox)
        machine = await w.only_event("sandbox.machine", sandbox=sandbox)
        assert machine["how"] == "boot"
        (process,) = [p for p in (await w.status()).processes if p.pid == begin["pid"]]
        assert (process.role.lower().replace(" ", "-"), process.sandbox) == (
            kind,
            sandbox,
        )
        os.kill(begin["pid"], signal.SIGKILL)
        await w.wait_event("lease.end", sandbox=sandbox)

        async def gone():
            return not windows(await w.comp.tree())

        assert await eventually(gone, deadline=60)
        died = await w.only_event("process.died", sandbox=sandbox)
        assert died["process"] == "vmm"


async def test_what_a_persistent_one_keeps_is_there_the_next_time(kind, place):
    async with stage(kind, place, "persistent") as w:
        code, said = await w.output("app", "sh", "-c", "echo kept >~/note && df -T ~")
        assert (code, b"ext4" in said) == (0, True)
        await w.stop("app")
        end = await w.only_event("lease.end", sandbox="app")
        code, said = await w.output("app", "sh", "-c", "cat ~/note")
        assert (code, said) == (0, b"kept\n"), end
        # A later broker has its API, too.
        os.kill(await w.broker_pid(), signal.SIGKILL)
        await w.start()
        assert (await w.output("app", "sh", "-c", "cat ~/note"))[1] == b"kept\n"
        await w.stop("app")


async def test_without_kvm_it_is_refused_with_the_reason(kind, place):
    async with stage(kind, place, program="broker.programs.local") as w:
        with pytest.raises(SetupError, match="requires KVM") as caught:
            await w.run("app", "true", window=False)
        assert caught.value.hint
