"""Attack: a sandbox whose pictures of its window are to cost, or end, more."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import PeerError, RefusedError
from broker.core.services import SCREEN_SHARE
from broker.ipc.guest.file_requests import CallService
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.model import Subsurface, Surface, Toplevel, XdgSurface
from broker.jail.worker.wayland.window_pictures import (
    LARGEST,
    READ_BYTES,
    SURFACES,
    OwnWindow,
    serve_window,
)
from broker.viewer import screens
from broker.viewer.calls.calls import SandboxCalls
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.orders.filtered_bus import FilteredBus
from broker.viewer.pipewire_video import OPENED_PER_MINUTE
from broker.viewer.uses.use_signs import UseSigns
from tests.broker.viewer.test_camera import Log
from tests.kit.rulebook import WORK, rulebook


class File:
    """A client's memory: each pixel is 1, and it may be taken away."""

    reads = length = 0
    gone = False

    def read(self, _offset, length):
        self.reads += 1
        self.length += length
        if self.gone:
            raise ValueError("the file was truncated")
        return b"\1" * length


def shown_window(children=0, size=(64, 32), at=(0, 0)):
    """A sandbox with one window, and the file of all of its buffers."""
    file = File()

    def surface(of):
        made, buffer = Surface("wl_surface", 4), Buffer("wl_buffer", 1)
        buffer.width, buffer.height = size
        buffer.stride, buffer.pool = 4 * size[0], SimpleNamespace(file=file)
        made.attached = buffer
        if of is not None:
            sub = Subsurface("wl_subsurface", 1)
            sub.surface, (sub.x, sub.y) = made, at
            of.children.append(sub)
        return made

    xdg = XdgSurface("xdg_surface", 1)
    xdg.surface, xdg.mapped, xdg.role = surface(None), True, Toplevel("xdg_toplevel", 1)
    for _ in range(children):
        surface(xdg.surface)
    core = SimpleNamespace(fault=None, windows=[xdg], focused={})
    return SimpleNamespace(filters=[core]), xdg, file


async def test_a_window_of_ten_thousand_surfaces_costs_little():
    sandbox, _, file = shown_window(children=10_000)
    window = OwnWindow(sandbox)
    assert set(await window.picture()) == {1}
    assert len(window._plan()) == SURFACES
    assert file.reads <= 32 * SURFACES


@pytest.mark.parametrize(
    ("size", "stride"), [(LARGEST, 0), (LARGEST, 1 << 17), ((1, 1600), 1 << 17)]
)
async def test_a_picture_of_a_window_reads_little(size, stride):
    sandbox, xdg, file = shown_window(children=SURFACES, size=size)
    for surface in (xdg.surface, *(sub.surface for sub in xdg.surface.children)):
        surface.attached.stride = stride or surface.attached.stride
    await OwnWindow(sandbox).picture()
    whole = 4 * LARGEST[0] * LARGEST[1]
    assert 4 * size[0] * size[1] <= file.length <= 2 * whole
    assert file.reads * READ_BYTES <= 2 * whole


async def test_orders_are_served_while_a_picture_is_drawn():
    sandbox, xdg, file = shown_window(children=SURFACES)
    window = OwnWindow(sandbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(window.picture)
        while file.reads < 3 * 32:
            await trio.sleep(0)
        # A window that closed meanwhile is not read.
        xdg.surface.children.clear()
        await trio.testing.wait_all_tasks_blocked()
        assert file.reads < 6 * 32


async def test_own_windows_have_a_place_and_a_pace():
    log = Log()
    shares = screens.ScreenShares(log, None, FilteredBus(None), UseSigns(None))
    ask = CallService(SCREEN_SHARE, screens.OWN)
    opening = SimpleNamespace(lease=WORK, stream=1, peer="", service="vitrail.Call")

    @asynccontextmanager
    async def sharing(calls):
        ordered = trio.Event()

        async def order(_message):
            await trio.lowlevel.checkpoint()
            log.done.append("shown")
            ordered.set()

        exchange = GuestConnection(SimpleNamespace(lease=WORK, order=order), opening)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls.call, exchange, ask, None)
            await ordered.wait()
            yield
            nursery.cancel_scope.cancel()

    def refused(match):
        error = pytest.RaisesExc(RefusedError, match=match)
        return pytest.RaisesGroup(error, flatten_subgroups=True)

    async with rulebook("vitrail.ScreenShare +own work @adminvm allow\n") as b:
        desktop = SimpleNamespace(screens=shares, session=None)
        calls = SandboxCalls(b.decider, None, None, desktop)
        async with sharing(calls):
            with refused("too many"):
                async with sharing(calls):
                    raise AssertionError("two are shared")
        assert log.done == ["share", "ScreenOn", "shown", "ScreenOff"]
        for _ in range(OPENED_PER_MINUTE - 1):
            async with sharing(calls):
                pass
        with refused("times within a minute"):
            async with sharing(calls):
                raise AssertionError("it was shared again")
        # Its bytes do not pass the broker, which could not bound them.
        limited = "vitrail.ScreenShare +own work @adminvm allow max-size=1M\n"
        await b.change("50-test.policy", limited)
        with refused("max-size"):
            async with sharing(calls):
                raise AssertionError("it was shared without a bound")


@pytest.mark.parametrize(
    "at", [(-1 << 31, 0), (0, (1 << 31) - 1), (63, 31), (-63, -31)]
)
async def test_parts_of_a_window_stay_inside_of_its_picture(at):
    sandbox, xdg, _ = shown_window(children=1, at=at)
    assert len(await OwnWindow(sandbox).picture()) == 64 * 32 * 4
    xdg.geometry = (-5, 1 << 30, (1 << 31) - 1, (1 << 31) - 1)
    window = OwnWindow(sandbox)
    assert (window.width, window.height) == LARGEST
    assert len(await window.picture()) == 4 * window.width * window.height


async def test_memory_that_was_taken_away_is_black():
    sandbox, _, file = shown_window()
    file.gone = True
    assert set(await OwnWindow(sandbox).picture()) == {0}


async def test_pictures_of_a_window_end_with_it(autojump_clock):
    sandbox, xdg, _ = shown_window()
    near, far = trio.socket.socketpair()
    with near, far, trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            told = []

            async def serve():
                window = OwnWindow(sandbox)
                moved = (window, near, trio.sleep_forever, lambda *_: None)
                told.append(await serve_window(*moved))

            nursery.start_soon(serve)
            got = b""
            while len(got) < 8 + 64 * 32 * 4:
                got += await far.recv(1 << 16)
            xdg.mapped = False
    assert got[:8] == (64).to_bytes(4, "little") + (32).to_bytes(4, "little")
    assert told == ["the window was closed"]
    with pytest.raises(PeerError, match="no visible window"):
        OwnWindow(sandbox)


async def test_a_program_that_leaves_unread_pictures_ends_its_share_alone():
    """As each one does that stops: the worker has all windows of the sandbox."""
    sandbox, _, _ = shown_window(size=(640, 480))
    near, far = trio.socket.socketpair()
    orders = trio.Event()
    with near, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            told = []

            async def serve():
                words = (near, orders.wait, lambda *_: None)
                told.append(await serve_window(OwnWindow(sandbox), *words))

            nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            far.close()
    assert told == ["done"]
