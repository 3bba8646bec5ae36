"""Hostile clients against the filter where it belongs: in a jailed worker.

What the core guarantees is tried in the other files of this name; here is
what the worker adds: its jail must let the filter work, its limits are its
sandbox's, and two sandboxes are two processes.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.ipc import worker as messages
from broker.jail.wayland.protocol import emit
from tests.attack.test_wayland_crop import leak
from tests.attack.test_wayland_pixels import PAINT, try_windows
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Client, GoneError, ServerError, Window, memfd
from tests.kit.wayland.compositor import desktop, pixels, windows
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.stand import CONFIG, GUEST, jailed
from tests.kit.workers import open_workers, worker_memory

RED, BLUE = 0xC01010, 0x1010C0


@asynccontextmanager
async def one():
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers) as it,
    ):
        yield it


@asynccontextmanager
async def two():
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers, WindowRules("red", color=RED)) as red,
        jailed(comp, workers, WindowRules("blue", color=BLUE)) as blue,
    ):
        yield red, blue


@pytest.mark.long
async def test_nothing_shows_outside_of_frames():
    async with one() as it:
        await try_windows(it, leak, hidden=3)
        assert all(m.fault is messages.Fault.NONE for m in it.closed()), it.closed()


def _show_pool(c: Window, fd: int) -> tuple[int, int]:
    """A window with 100 x 100 pixels of a file: its surface and buffer."""
    surface, _, _ = c.show(200, 200, 0xFF0000FF)
    size = 100 * 100 * 4
    os.pwrite(fd, PAINT.to_bytes(4, "little") * 10000, 0)
    pool = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    buffer = c.make(pool, "create_buffer", "wl_buffer", None, 0, 100, 100, 400, 0)
    c.send(surface, "attach", buffer, 0, 0)
    c.send(surface, "damage", 0, 0, 100, 100)
    c.send(surface, "commit")
    c.roundtrip()
    return surface, buffer


@pytest.mark.parametrize("seal", [True, False])
async def test_shared_memory_is_shown_from_the_jail(seal):
    """Copied into memory of the worker's own."""
    async with one() as it:

        def act(c: Window) -> int:
            fd = memfd(100 * 100 * 4, seal=seal)
            _show_pool(c, fd)
            os.close(fd)
            return int(mask(it.settled(), GUEST).sum())

        assert await it.client(act) == 100 * 100


@pytest.mark.parametrize("seal", [True, False])
async def test_a_file_that_shrinks_is_its_clients_end_alone(seal):
    async with one() as it:

        def act(c: Window) -> ServerError | None:
            fd = memfd(100 * 100 * 4, seal=seal)
            surface, buffer = _show_pool(c, fd)
            os.ftruncate(fd, 0)
            os.close(fd)
            c.send(surface, "attach", buffer, 0, 0)
            c.send(surface, "damage", 0, 0, 100, 100)
            c.send(surface, "commit")
            return c.until_error()

        with Client(it.path) as other:
            error = await it.client(act)
            assert error is not None
            assert "truncated" in error.text
            await trio.to_thread.run_sync(other.roundtrip)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_a_flood_of_descriptors_ends_one_connection_and_leaves_none():
    async with one() as it:
        with Client(it.path) as other:
            await trio.to_thread.run_sync(other.roundtrip)
            before = descriptors(it.worker.inner_pid)

            await it.client(Window.flood_descriptors)
            await eventually(lambda: _closed(it, 1))
            assert it.closed()[0].fault is messages.Fault.CLIENT
            await trio.to_thread.run_sync(other.roundtrip)

            async def given_back():
                return descriptors(it.worker.inner_pid) <= before

            await eventually(given_back)


async def _closed(it, count):
    return len(it.closed()) >= count


@pytest.mark.long
async def test_a_hundred_thousand_objects_are_too_many_and_are_given_back():
    async with one() as it:

        def act(c: Window) -> ServerError | None:
            try:
                for _ in range(100):
                    ids = [c.new("wl_region") for _ in range(1000)]
                    c.raw(b"".join(emit.create_region(c.compositor, n) for n in ids))
            except OSError:
                pass
            return c.until_error()

        for _ in range(3):
            await it.client(act)
        await eventually(lambda: _closed(it, 3))
        uses = {u.what: u for u in (await it.worker.statistics()).uses}
        assert uses["objects"].now == 0
        assert uses["connection"].refused + uses["objects"].refused == 3
        assert worker_memory(it.worker).private < 60e6, (
            "returned connections are used again"
        )


# -- two sandboxes ----------------------------------------------------------------


async def colours(it, *wanted) -> list[int]:
    image = await pixels(it.comp)
    return [int(mask(image, colour).sum()) for colour in wanted]


async def test_the_same_ids_in_two_sandboxes_are_two_windows():
    """Each worker has different numbers at the compositor, too."""
    async with two() as (red, blue):

        def show(path, size):  # the second lies upon the first
            c = Window(path).start()
            return c, c.show(*size, PAINT)

        first, ids = await trio.to_thread.run_sync(show, red.path, (400, 300))
        second, others = await trio.to_thread.run_sync(show, blue.path, (120, 80))
        assert ids == others
        await eventually(lambda: _both(red, True, True))
        first.send(ids[2], "destroy")
        first.send(ids[1], "destroy")
        first.send(ids[0], "destroy")
        await trio.to_thread.run_sync(first.roundtrip)
        await eventually(lambda: _both(red, False, True))
        await trio.to_thread.run_sync(second.roundtrip)
        for client in (first, second):
            client.close()


async def _both(it, red, blue):
    reds, blues = await colours(it, RED, BLUE)
    return (reds > 0, blues > 0) == (red, blue)


async def test_what_one_sandbox_holds_counts_for_it_alone():
    async with two() as (red, blue):

        def many(path, count):
            c = Client(path).start()
            for _ in range(count):
                c.make(c.bind("wl_compositor"), "create_surface", "wl_surface")
            with suppress(ServerError, GoneError, OSError):
                c.roundtrip()
            return c

        most = limits.WAYLAND_SURFACES
        full = await trio.to_thread.run_sync(many, red.path, most)
        uses = {u.what: u for u in (await red.worker.statistics()).uses}
        assert uses["surfaces"].now == most
        beyond = await trio.to_thread.run_sync(many, red.path, 1)
        await eventually(lambda: _closed(red, 1))
        assert "the limit" in red.closed()[0].reason
        other = await trio.to_thread.run_sync(many, blue.path, most)
        uses = {u.what: u for u in (await blue.worker.statistics()).uses}
        assert uses["surfaces"].now == most
        assert not blue.closed()
        for client in (full, beyond, other):
            client.close()


@pytest.mark.parametrize("half", ["inner", "keeper"])
async def test_the_death_of_a_worker_cuts_its_sandbox_alone(half, monkeypatch):
    """At once: the half that is left is not waited for."""
    monkeypatch.setattr("broker.core.limits.WORKER_STOP_SECONDS", 600.0)
    async with two() as (red, blue):

        def show(path, size):
            c = Window(path).start()
            c.show(*size, PAINT)
            return c

        first = await trio.to_thread.run_sync(show, red.path, (400, 300))
        second = await trio.to_thread.run_sync(show, blue.path, (120, 80))
        await eventually(lambda: _both(red, True, True))
        worker = red.worker
        os.kill(
            worker.inner_pid if half == "inner" else worker.keeper_pid, signal.SIGKILL
        )
        await eventually(lambda: _both(red, False, True))
        with pytest.raises((GoneError, OSError)):
            await trio.to_thread.run_sync(first.roundtrip)
        await trio.to_thread.run_sync(second.roundtrip)
        for client in (first, second):
            client.close()


@pytest.mark.long
async def test_a_client_at_its_limit_does_not_stutter_another_sandboxs_window():
    """Frames of a window, alone and while another sandbox sends all it can."""
    async with two() as (red, blue):
        stop = trio.Event()

        def flood(path):
            with Window(path).start() as c:
                surface, _, _ = c.show(300, 300, PAINT)
                c.flood(surface, stop.is_set)

        def animate(path, frames=90):
            """Draw as fast as the compositor lets us; seconds for each frame."""
            with Window(path).start() as c:
                surface, _, _ = c.show(120, 80, PAINT)
                gaps = []
                for number in range(frames):
                    began = time.monotonic()
                    done = c.make(surface, "frame", "wl_callback")
                    c.send(
                        surface, "attach", c.buffer(120, 80, 0xFF000000 | number), 0, 0
                    )
                    c.send(surface, "damage", 0, 0, 120, 80)
                    c.send(surface, "commit")
                    c.wait(lambda e, done=done: e[0] == done)
                    gaps.append(time.monotonic() - began)
                return sorted(gaps)

        alone = await trio.to_thread.run_sync(animate, blue.path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, flood, red.path)
            await eventually(lambda: _limited(red, "rate"))
            beside = await trio.to_thread.run_sync(animate, blue.path)
            stop.set()
        median = len(alone) // 2
        # One core in two is busy then, and others run on this machine: what
        # must not be is that frames wait for the flood's turns.
        assert beside[median] < 3 * max(alone[median], 0.017), (alone[median], beside)
        assert not [m for m in blue.said if isinstance(m, messages.LimitHit)]


async def _limited(it, what):
    return any(isinstance(m, messages.LimitHit) and m.what == what for m in it.said)


# -- a record that allows less -------------------------------------------------------

IDLE = "zwp_idle_inhibit_manager_v1"
LOCKS = "zwp_pointer_constraints_v1"


async def test_a_record_that_lets_the_screen_lock_again_ends_no_program():
    """What sway knows, and what ``brokerctl status`` counts."""
    rules = WindowRules("work", allow=frozenset({IDLE}))
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers, rules) as it,
    ):

        async def inhibited() -> list[bool]:
            return [node["inhibit_idle"] for node in windows(await comp.tree())]

        async def counted() -> list[int]:
            uses = (await it.worker.statistics()).uses
            return [use.now for use in uses if use.what == "inhibitors"]

        def start() -> tuple[Window, int]:
            c = Window(it.path).start()
            surface, _, _ = c.show(300, 200, GUEST)
            kind = "zwp_idle_inhibitor_v1"
            c.make(c.bind(IDLE), "create_inhibitor", kind, None, surface)
            c.roundtrip()
            return c, surface

        client, surface = await trio.to_thread.run_sync(start)
        await eventually_is(inhibited, [True])
        assert await counted() == [1]
        await it.worker.follow(WindowRules("work"))
        await eventually_is(inhibited, [False])
        assert await counted() == []
        client.send(surface, "commit")
        await trio.to_thread.run_sync(client.roundtrip)
        client.close()


async def eventually_is(look, wanted) -> None:
    async def reached() -> bool:
        return await look() == wanted

    await eventually(reached)


async def test_a_global_that_its_record_loses_ends_its_users_only():
    rules = WindowRules("work", allow=frozenset({LOCKS}))
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers, rules) as it,
    ):

        def start(*names):
            c = Client(it.path).start()
            for name in names:
                c.bind(name)
            c.roundtrip()
            return c

        user = await trio.to_thread.run_sync(start, LOCKS)
        other = await trio.to_thread.run_sync(start, "wl_compositor")
        await it.worker.follow(WindowRules("work", border=9))
        error = await trio.to_thread.run_sync(user.until_error)
        assert error is not None
        assert "now allows less" in error.text
        await trio.to_thread.run_sync(other.roundtrip)
        fresh = await trio.to_thread.run_sync(start)
        assert LOCKS not in fresh.globals
        await eventually(lambda: _closed(it, 1))
        assert [m.fault for m in it.closed()] == [messages.Fault.NONE]
        for client in (user, other, fresh):
            client.close()


@pytest.mark.parametrize(
    "before", [{"translucent": True}, {"fullscreen": Fullscreen.REAL}]
)
async def test_a_rule_change_that_cannot_be_applied_ends_all_clients(before):
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers, WindowRules("work", **before)) as it,
    ):
        with await trio.to_thread.run_sync(Client(it.path).start) as client:
            await it.worker.follow(WindowRules("work"))
            error = await trio.to_thread.run_sync(client.until_error)
            assert error is not None


async def test_a_lower_limit_holds_at_once():
    async with one() as it:
        with await trio.to_thread.run_sync(Window(it.path).start) as client:
            client.surface()
            await trio.to_thread.run_sync(client.roundtrip)
            await it.worker.follow(WindowRules("work", ceilings={"surfaces": 1}))
            await it.worker.statistics()  # orders are obeyed one after the other
            client.surface()
            error = await trio.to_thread.run_sync(client.until_error)
            assert error is not None
            assert "the limit" in error.text
