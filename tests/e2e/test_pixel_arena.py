"""A machine whose windows' pixels are left in memory that it shares with its broker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.host.images.store import ImageSpec
from tests.kit.eventually import eventually
from tests.kit.needs import NEEDS_VM
from tests.kit.vm.machines import allow_copies
from tests.kit.vm.parents import ready_parent
from tests.kit.wayland.compositor import pixels
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.timeout(900), NEEDS_VM]
ARENA = 'boot_deadline = 300\nfork = "no"\npixel_arena = true\nimage = "{image}"'
BLUE = (0x20, 0x40, 0xA0)


async def arena_image() -> str:
    """The default image, or one of its own where that is of an older version."""
    image = await the_image()
    try:
        image.arena_bytes()
    except SetupError:
        image = await the_image(ImageSpec(name="pixels"))
    return image.name


async def blue_window(w, name: str) -> str:
    """A window whose pixels have come; returns the sandbox's name."""
    sandbox = await w.window(name, f"of {name}", "-o", "colors.background=2040a0")

    async def blue():
        colours = (await pixels(w.comp)).getcolors(1 << 24)
        return any(n > 50_000 and colour[:3] == BLUE for n, colour in colours)

    await eventually(blue, deadline=60)
    out = os.environ.get("VITRAIL_PICTURES")
    if out:
        (await pixels(w.comp)).save(f"{out}/arena-{name}.png")
    return sandbox


def arena_of(pid: int) -> str:
    """The arena that a process maps."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "vitrail-arena" in line:
            return line.split()[4]
    return ""


async def sent_bytes(w, sandbox: str) -> int:
    """What the guest has sent in its display streams."""
    streams = (await w.status()).streams
    return sum(
        s.bytes_from_sandbox
        for s in streams
        if s.sandbox == sandbox and s.service == "vitrail.Display"
    )


@pytest.mark.parametrize("more", ["", "shared_image = true"])
async def test_pixels_of_a_machine_come_through_its_arena(more):
    launch = "\n".join((ARENA.format(image=await arena_image()), more))
    async with world({"one": record(launch=launch)}) as w:
        sandbox = await blue_window(w, "one")
        # More than a megabyte of them, and none in the stream.
        assert 0 < await sent_bytes(w, sandbox) < 64 << 10
        assert arena_of(await w.pid_of("QEMU", sandbox))
        # The compositor maps nothing that the guest or its QEMU can change.
        assert not arena_of(w.comp.child.pid)
        code, said = await w.output(sandbox, "cat", "/proc/1/cmdline", "/dev/dax0.0")
        assert code, said  # it is root's


@pytest.mark.long
@pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])
async def test_each_copy_of_a_machine_has_an_arena_of_its_own(mode, how, monkeypatch):
    allow_copies(monkeypatch)
    name = await arena_image()
    await ready_parent(
        await the_image(ImageSpec(name=name)), "one", mode=mode, arena=True
    )
    launch = f'fork = "{mode}"\npixel_arena = true\nimage = "{name}"'
    program = "tests.kit.vm.patient_copies"
    async with world({"one": record(launch=launch)}, program=program) as w:
        sandboxes = [await blue_window(w, "one") for _ in range(2)]
        machines = w.events("sandbox.machine")
        assert [(e["how"], e.get("reason", "")) for e in machines] == [(how, "")] * 2
        arenas = set()
        for sandbox in sandboxes:
            assert 0 < await sent_bytes(w, sandbox) < 64 << 10
            arenas.add(arena_of(await w.pid_of("QEMU", sandbox)))
        assert len(arenas - {""}) == 2
        assert not arena_of(w.comp.child.pid)


@pytest.mark.parametrize("program", ["lost_arena", "no_dax"])
async def test_without_an_arena_the_guest_sends_them(program):
    """The record has one, and its viewer or its guest's kernel does not.

    The first is as a broker that adopted the machine.
    """
    launch = ARENA.format(image=await arena_image())

    async with world(
        {"one": record(launch=launch)}, program=f"tests.kit.vm.{program}"
    ) as w:
        sandbox = await blue_window(w, "one")
        assert await sent_bytes(w, sandbox) > 1 << 20
