"""Windows of copied machines: framed and typed into like those of booted ones."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.parents import ready_parent
from tests.kit.wayland.compositor import pixels, wait_frames, wait_window
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]
GREEN = (0x00, 0x9E, 0x73)
RED = ("-o", "colors.background=cc0000")
MANY = 8


both = pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])


@asynccontextmanager
async def copies(mode):
    """A broker that has a parent of the record 'app', for this mode."""
    await ready_parent(await the_image(), "app", mode=mode)
    app = record(launch=f'fork = "{mode}"')
    program = "tests.kit.vm.patient_copies"
    async with world({"app": app}, program=program) as w:
        yield w


async def kill(pid):
    """kill -9, and wait until all of its threads have let go of everything."""
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)


def red_share(image):
    near = sum(
        count
        for count, pixel in image.getcolors(1 << 24)
        if all(abs(a - b) < 24 for a, b in zip(pixel, (0xCC, 0, 0), strict=True))
    )
    return near / (image.width * image.height)


@both
async def test_a_window_of_a_copy_is_framed_and_typed_into(mode, how):
    async with copies(mode) as w:
        began = trio.current_time()
        sandbox = await w.window("app", "shell", *RED)
        print(f"from the order to the window: {trio.current_time() - began:.2f} s")
        machine = await w.only_event("sandbox.machine")
        assert (machine["how"], machine.get("reason", "")) == (how, "")

        async def red():
            return red_share(await pixels(w.comp)) > 0.5

        assert await eventually(red), "its pixels are on the screen"
        await wait_frames(w.comp, {f"[{sandbox}] shell": {GREEN}})
        code, said = await w.output(sandbox, "hostname")
        assert (code, said.decode().strip()) == (0, sandbox)


@both
async def test_copies_outlive_their_broker_as_other_machines_do(mode, how):
    """Killed: the next broker adopts what runs, and ends it as any other."""
    async with copies(mode) as w:
        sandbox = await w.window("app", "before")
        assert [e["how"] for e in w.events("sandbox.machine")] == [how]
        # Without it the machine ends with its window, which was the broker's.
        await w.run(sandbox, "sleep", "1000", window=False)
        machine = await w.pid_of("QEMU")
        await kill(await w.broker_pid())
        await w.start()
        await w.wait_event("lease.begin", sandbox=sandbox, pid=machine)
        last, _ = await w.run(sandbox, "foot", "-T", "after", "sleep", "1000")
        assert last.started.sandbox == sandbox
        await wait_window(w.comp, title="after")
        assert await w.pid_of("QEMU") == machine
        await w.stop(sandbox)
        await w.wait_event("sandbox.stop", sandbox=sandbox)


@both
async def test_eight_copies_at_once_show_their_windows(mode, how):
    async with copies(mode) as w:
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(w.window, "app", f"number-{number}")
        events = w.events("sandbox.machine")
        assert [e["how"] for e in events] == [how] * MANY
        assert len({e["sandbox"] for e in events}) == MANY
