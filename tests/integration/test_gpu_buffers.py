"""Real dma-bufs through a jailed worker to a sway that draws with OpenGL."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.core import limits
from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import DMABUF
from broker.ipc import worker as messages
from broker.jail.worker.wayland.files_and_pipes import RealMachine
from tests.kit.gpu import Memory, buffer_of, gpu_desktop
from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import BORDER, FRAME, GUEST, JailedStand, jailed
from tests.kit.workers import open_workers

# Most of it runs in an emulated machine.
pytestmark = [pytest.mark.machine, pytest.mark.timeout(400)]
RULES = WindowRules("work", color=FRAME, allow=frozenset({DMABUF}))
WIDE, HIGH = 320, 200


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """An emulated machine takes longer than a real one."""
    for name in (
        "COMPOSITOR_READY",
        "COMPOSITOR_TOOL",
        "WORKER_START",
        "FORK_SERVER_START",
    ):
        monkeypatch.setattr(limits, f"{name}_SECONDS", 150.0)


@asynccontextmanager
async def desk(folder: Path, rules: WindowRules = RULES):
    async with (
        gpu_desktop(folder) as comp,
        open_workers() as workers,
        jailed(comp, workers, rules) as it,
    ):
        yield it


@pytest.fixture
def memory():
    made = Memory(WIDE, HIGH)
    made.fill(GUEST)
    yield made
    made.close()


def test_the_kernel_says_what_and_how_large_it_is(memory):
    one = RealMachine().admit_dmabuf(os.dup(memory.fd))
    two = RealMachine().admit_dmabuf(os.dup(memory.fd))
    other = Memory(8, 8)
    three = RealMachine().admit_dmabuf(os.dup(other.fd))
    assert one.size == two.size == memory.size
    assert one.number == two.number != three.number
    assert one.drawn()
    fence = memory.draw()
    assert not one.drawn()
    memory.drawn(fence)
    assert one.drawn()
    for each in (one, two, three, other):
        each.close()


async def test_a_wait_ends_with_the_drawing(memory):
    fence = memory.draw()
    with trio.fail_after(8):  # vgem's own end comes after ten
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, memory.fd)
            await trio.testing.wait_all_tasks_blocked()
            memory.drawn(fence)


@pytest.mark.parametrize("how", ["cut", "grow", "path"])
def test_a_dma_buf_keeps_its_size(memory, how):
    """And a descriptor that only names it is refused."""
    if how == "path":
        fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_PATH)
        with pytest.raises(ValueError, match="Bad file descriptor"):
            RealMachine().admit_dmabuf(fd)
        return
    with pytest.raises(OSError, match="Invalid argument"):
        os.ftruncate(memory.fd, 0 if how == "cut" else 1 << 24)
    assert os.lseek(memory.fd, 0, os.SEEK_END) == memory.size


def test_one_of_more_than_a_gibibyte_is_refused():
    large = Memory(16384, 16388)
    with pytest.raises(ValueError, match=f"size: {large.size} bytes"):
        RealMachine().admit_dmabuf(os.dup(large.fd))
    large.close()


def sizes(it: JailedStand) -> list[tuple[int, int]]:
    """Width and height of sway's windows."""
    return sorted((n["rect"]["width"], n["rect"]["height"]) for n in it.tree())


def framed(client: Window, memory: Memory) -> tuple[int, int]:
    """A window of the GPU's memory: its surface and buffer."""
    surface = client.surface()
    xdg, _ = client.toplevel(surface)
    client.send(surface, "commit")
    client.configured(xdg)
    buffer = buffer_of(client, memory)
    client.send(surface, "attach", buffer, 0, 0)
    client.send(surface, "damage", 0, 0, WIDE, HIGH)
    client.send(surface, "commit")
    return surface, buffer


FRAMED = (WIDE + 2 * BORDER, HIGH + 2 * BORDER)


async def test_what_the_gpu_drew_is_imported_in_its_frame(tmp_path, memory):
    async with desk(tmp_path) as it:

        def inside(client: Window):
            framed(client, memory)
            client.roundtrip()
            return sizes(it)

        assert await it.client(inside) == [FRAMED]
        assert all(m.fault is messages.Fault.NONE for m in it.closed()), it.closed()


async def test_a_late_picture_is_left_out_until_it_is_drawn(tmp_path, memory):
    async with desk(tmp_path) as it:

        def inside(client: Window):
            fence = memory.draw()
            surface, buffer = framed(client, memory)
            with Window(it.path).start() as other:
                other.show(100, 100, 0xFF0000FF)
                client.roundtrip()
                before = sizes(it)
                memory.drawn(fence)
                client.send(surface, "attach", buffer, 0, 0)
                client.send(surface, "commit")
                client.roundtrip()
                return before, sizes(it)

        small = (100 + 2 * BORDER, 100 + 2 * BORDER)
        assert await it.client(inside) == ([small], [small, FRAMED])
        assert all(m.fault is messages.Fault.NONE for m in it.closed()), it.closed()


async def test_no_sandbox_has_it_by_default(tmp_path):
    async with desk(tmp_path, WindowRules("work", color=FRAME)) as it:
        assert DMABUF not in await it.client(lambda c: dict(c.globals))
