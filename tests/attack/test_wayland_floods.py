"""Many clients of one sandbox that send as fast as they can, on a real sway.

All of them have the budget of one sandbox: the compositor hears no more of
eight than of its bucket, and windows beside them are drawn.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.stand import CONFIG, Stand, filtered
from tests.kit.waypipe import wire_bytes as w

CLIENTS = 8
_RATE = 16_000
_BURST = 32_000
_TURN = limits.WAYLAND_CLIENT_READ_BYTES // 8
_PAINT = 0xFF00FF00


@pytest.fixture
def budget(monkeypatch):
    """A tenth of the usual number, which any machine can do."""
    monkeypatch.setattr(limits, "WAYLAND_MESSAGES_PER_SECOND_OF_ALL", _RATE)
    monkeypatch.setattr(limits, "WAYLAND_MESSAGES_BURST_OF_ALL", _BURST)


def _push(c: Window, data: bytes, stop: threading.Event) -> None:
    """Send the same again and again until it is over."""
    c.sock.settimeout(0.5)
    view = memoryview(data)
    while not stop.is_set():
        try:
            view = view[c.sock.send(view) :] or memoryview(data)
        except TimeoutError:
            continue
        except OSError:
            return


def commits(it: Stand, stop: threading.Event) -> None:
    """Empty commits of a window that is shown: two requests' worth for sway each."""
    with Window(it.path).start() as c:
        surface, _, _ = c.show(60, 40, 0xFFFF0000)
        _push(c, emit.commit(surface) * 1000, stop)


class _Streamed(Window):
    """A client whose messages go as waypipe's blocks; events for it are not read."""

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        assert not fds
        super().raw(w.protocol(data))


def streamed_commits(it: Stand, stop: threading.Event, block: int = 1000) -> None:
    """The same in waypipe streams, of a surface that is not shown."""
    with _Streamed(it.wire) as c:
        c.sock.sendall(w.header())
        c.send(1, "get_registry", c.new("wl_registry"))
        heard = b""
        while b"wl_compositor\0" not in heard:
            heard += c.sock.recv(65536)
        (name,) = struct.unpack_from("<I", heard, heard.index(b"wl_compositor\0") - 8)
        c.registry = 2
        compositor = c.bind_raw(name, "wl_compositor", 4)
        surface = c.make(compositor, "create_surface", "wl_surface")
        _push(c, w.protocol(emit.commit(surface) * block), stop)


@asynccontextmanager
async def flooded(it: Stand, attack: Callable[[Stand, threading.Event], None]):
    """Eight clients attack, and have spent what their sandbox had saved up."""
    stop = threading.Event()
    async with trio.open_nursery() as nursery:
        try:
            for _ in range(CLIENTS):
                nursery.start_soon(trio.to_thread.run_sync, attack, it, stop)
            await eventually(
                lambda: (
                    it.sandbox.refused["rate of all"] >= CLIENTS
                    and len(it.sandbox.filters) == CLIENTS
                    and all(core.messages > _TURN for core in it.sandbox.filters)
                )
            )
            yield
        finally:
            stop.set()


def animate(c: Window) -> int:
    """Draw thirty pictures, each when the last one is on the screen."""
    surface, _, _ = c.show(120, 80, _PAINT)
    for number in range(30):
        c.paint(surface, 120, 80, _PAINT | number)
        c.shown(surface)
    return 30


def _messages(sandbox: Sandbox) -> dict[object, int]:
    return {core: core.messages for core in sandbox.filters}


def _since(before: dict[object, int], sandbox: Sandbox) -> list[int]:
    now = _messages(sandbox)
    return [now[core] - sent for core, sent in before.items()]


@pytest.mark.parametrize("attack", [commits, streamed_commits])
async def test_eight_that_flood_have_what_one_sandbox_may_have(budget, attack):
    async with (
        desktop(config_extra=CONFIG) as comp,
        filtered(comp, WindowRules("red", color=0xFF0000)) as red,
        filtered(comp, WindowRules("blue", color=0x0000FF)) as blue,
        flooded(red, attack),
    ):
        before, began = _messages(red.sandbox), trio.current_time()
        with trio.fail_after(60):
            assert await blue.client(animate) == 30
            await trio.sleep(max(0.0, began + 2.0 - trio.current_time()))
            while min(done := _since(before, red.sandbox)) == 0:
                await trio.sleep(0.02)  # none of them gets nothing
        took = trio.current_time() - began
        assert len(done) == CLIENTS
        # Each may be in the middle of a turn at both ends.
        assert sum(done) <= took * _RATE + 2 * CLIENTS * _TURN
        assert not blue.sandbox.refused


@pytest.mark.parametrize("attack", [commits, streamed_commits])
async def test_an_application_beside_them_in_their_sandbox_is_served(budget, attack):
    async with (
        desktop(config_extra=CONFIG) as comp,
        filtered(comp, WindowRules("red", color=0xFF0000)) as red,
        flooded(red, attack),
    ):
        with trio.fail_after(60):
            assert await red.client(animate) == 30


async def test_a_stream_that_has_spent_its_budget_is_read_no_further(monkeypatch):
    """However busy the machine is: the time that is spent here comes back in years."""
    stop, spent, rests = threading.Event(), trio.Event(), trio.Event()
    rest = StreamConnection._rest

    async def noted(stream):
        if spent.is_set():
            rests.set()
        await rest(stream)

    def few(it, stop):
        # In blocks so small that none is interrupted, which waits as well.
        streamed_commits(it, stop, 4)

    monkeypatch.setattr(StreamConnection, "_rest", noted)
    async with (
        desktop(config_extra=CONFIG) as comp,
        filtered(comp) as it,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trio.to_thread.run_sync, few, it, stop)
        try:
            cores = it.sandbox.filters
            await eventually(lambda: cores and min(c.messages for c in cores) > _TURN)
            (core,) = cores
            it.sandbox.messages.pace.take(trio.current_time(), 1 << 48)
            it.sandbox.messages.members = lambda: 1 << 30
            spent.set()
            most = core.messages + 4 * _TURN
            await eventually(lambda: rests.is_set() or core.messages > most)
            assert core.messages <= most
        finally:
            stop.set()


@pytest.mark.parametrize("path", ["path", "wire"])
async def test_the_first_word_of_a_new_client_waits_when_all_is_spent(path):
    """Else a client that reconnects would wait for nothing."""
    async with desktop(config_extra=CONFIG) as comp, filtered(comp) as it:
        # Years of debt, in which a turn among so many takes hours.
        it.sandbox.messages.pace.take(trio.current_time(), 1 << 48)
        it.sandbox.messages.members = lambda: 1 << 30
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.connect(str(getattr(it, path)))
        head = w.header() if path == "wire" else b""
        await sock.send(head + b"no message of anybody's")
        await eventually(lambda: it.sandbox.refused["rate of all"], deadline=60)
        (core,) = it.sandbox.filters
        assert core.ready
        assert core.messages == 0
        assert core.fault is None
        sock.close()
