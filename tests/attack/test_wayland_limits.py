"""Hostile clients against limits, descriptors and other people's time.

After each attack the compositor runs, an honest client of the same sandbox is
shown, and nothing is left open (the stand counts descriptors and objects).
"""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import socket
import tempfile
import threading
import time

import pytest
import trio

from broker.core import limits
from broker.core.errors import PeerError
from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland.protocol import emit, wire
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Client, GoneError, ServerError, Window, memfd
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.stand import CONFIG, GUEST, SIZE, filtered, nested, stand

PAINT = 0xFF000000 | GUEST
_MFD_HUGETLB = 4


async def honest(it) -> None:
    """An ordinary client is still served."""

    def show(c: Window) -> int:
        c.show(120, 80, PAINT)
        return int(mask(it.settled(), GUEST).sum())

    with trio.fail_after(60):
        assert await it.client(show) == 120 * 80


def pool(c: Window, fd: int, size: int) -> ServerError | None:
    c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
    os.close(fd)
    return c.until_error()


def a_disk_file() -> int:
    fd, name = tempfile.mkstemp(dir="/var/tmp")
    os.unlink(name)
    os.ftruncate(fd, 4096)
    return fd


def a_read_only_file() -> int:
    fd = memfd(4096)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    finally:
        os.close(fd)


def a_path_only() -> int:
    fd = memfd(4096)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    finally:
        os.close(fd)


def a_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def a_huge_page_file() -> int:
    try:
        fd = os.memfd_create("huge", _MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    return fd


@pytest.mark.parametrize(
    "make",
    [
        a_disk_file,
        a_read_only_file,
        a_path_only,
        a_pipe,
        a_huge_page_file,
        lambda: memfd(4095),
    ],
)
async def test_only_a_large_enough_tmpfs_file_becomes_a_pool(make):
    fd = make()
    async with stand() as it:
        error = await it.client(lambda c: pool(c, fd, 4096))
        assert error is not None
        assert "rejected shared memory" in error.text
        await honest(it)


@pytest.mark.parametrize(
    "size", [2**31 - 1, wayland_limits.WAYLAND_POOL_BYTES + 1, 0, -4096]
)
async def test_a_pool_has_a_largest_size(size):
    async with stand() as it:
        assert (
            await it.client(
                lambda c: pool(c, memfd(4096), size & 0x7FFFFFFF if size > 0 else size)
            )
            is not None
        )
        await honest(it)


def large_picture(c: Window) -> int:
    """A buffer of the largest size, in a file without a page."""
    side = wayland_limits.WAYLAND_BUFFER_SIDE
    fd = memfd(side * side * 4)
    made = c.make(c.shm, "create_pool", "wl_shm_pool", None, side * side * 4, fds=[fd])
    os.close(fd)
    return c.make(made, "create_buffer", "wl_buffer", None, 0, side, side, side * 4, 0)


async def test_one_sparse_file_does_not_fill_the_compositors_memory():
    """A compositor that draws with OpenGL copies it, once for each surface."""
    async with stand() as it:

        def act(c: Window) -> ServerError | None:
            buffer = large_picture(c)
            for _ in range(3):
                surface = c.surface()
                c.send(surface, "attach", buffer, 0, 0)
                c.send(surface, "commit")
                c.send(surface, "destroy")
            for _ in range(2):
                surface = c.surface()
                c.send(surface, "attach", buffer, 0, 0)
                c.send(surface, "commit")
            return c.until_error()

        error = await it.client(act)
        assert error is not None
        assert "shown_pixels" in error.text
        await honest(it)


async def test_many_large_pictures_in_one_read_keep_the_pace():
    """The compositor would copy a gigabyte for each of two thousand commits."""
    async with stand() as it:

        def act(c: Window) -> int:
            buffer, surface = large_picture(c), c.surface()
            c.roundtrip()
            core = next(iter(it.sandbox.filters))
            one = emit.attach(surface, buffer, 0, 0) + emit.commit(surface)
            began = time.monotonic()
            c.raw(one * (limits.WAYLAND_READ_BYTES // len(one)))
            while not it.sandbox.refused["pixel rate"]:
                time.sleep(0.01)
            seconds, shown = time.monotonic() - began, core.pixels
            return shown - int(
                seconds * wayland_limits.WAYLAND_COMMIT_PIXELS_PER_SECOND
            )

        with trio.fail_after(60):
            at_once = await it.client(act)
        most = (
            wayland_limits.WAYLAND_COMMIT_PIXELS_BURST
            + wayland_limits.WAYLAND_BUFFER_SIDE**2
        )
        assert at_once <= most


_RGB565 = int.from_bytes(b"RG16", "little")
_ABGR2101010 = int.from_bytes(b"AB30", "little")


@pytest.mark.parametrize("form", [_RGB565, _ABGR2101010])
async def test_no_row_ends_behind_its_pool(form):
    """weston 10 reads it all the same, and dies if nothing lies there."""
    if not shutil.which("weston"):
        pytest.skip("weston is missing")
    width, height = wayland_limits.WAYLAND_BUFFER_SIDE, 8
    size = width * height

    def act(c: Window) -> ServerError | None:
        surface = c.surface()
        xdg, _ = c.toplevel(surface)
        c.send(surface, "commit")
        c.configured(xdg)
        # Large and small ones in turn: ending the large ones leaves holes
        # in the compositor's memory after the small ones.
        pools = []
        for length in (1 << 22, size) * 8:
            fd = memfd(length)
            pools.append(
                c.make(c.shm, "create_pool", "wl_shm_pool", None, length, fds=[fd])
            )
            os.close(fd)
        buffer = c.make(
            pools[3], "create_buffer", "wl_buffer", None, 0, width, height, width, form
        )
        for made in pools:
            c.send(made, "destroy")
        c.send(xdg, "set_window_geometry", width - 1300, 0, 1200, height)
        c.send(surface, "attach", buffer, 0, 0)
        c.send(surface, "damage", 0, 0, width, height)
        c.send(surface, "commit")
        return c.until_error()

    async with (
        desktop(config_extra=CONFIG) as comp,
        nested(comp, "weston") as inner,
        filtered(comp, behind=inner.display) as it,
    ):
        error = await it.client(act)
        assert error is not None
        assert "invalid stride" in error.text
        with trio.fail_after(30):
            await it.client(lambda c: c.show(120, 80, PAINT))


async def test_a_pool_that_grows_does_not_move_under_a_shown_picture():
    """weston 10's renderer keeps reading where it was, and dies."""
    if not shutil.which("weston"):
        pytest.skip("weston is missing")
    side, large = 400, 512 << 20
    size = side * side * 4

    def act(c: Window) -> None:
        surface, _, _ = c.show(side, side, PAINT)
        fd = memfd(large)
        os.pwrite(fd, PAINT.to_bytes(4, "little") * side * side, 0)
        made = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
        os.close(fd)

        def picture(offset: int) -> int:
            place = offset, side, side, side * 4, 0
            return c.make(made, "create_buffer", "wl_buffer", None, *place)

        first = picture(0)
        c.send(surface, "attach", first, 0, 0)
        c.send(surface, "damage", 0, 0, side, side)
        c.shown(surface)
        c.send(made, "resize", large)
        picture(large - size)
        # Drawn once more, without another attach.
        for _ in range(3):
            c.send(surface, "damage", 0, 0, side, side)
            c.shown(surface)

    async with (
        desktop(config_extra=CONFIG) as comp,
        nested(comp, "weston") as inner,
        filtered(comp, behind=inner.display) as it,
    ):
        with trio.fail_after(60):
            await it.client(act)
            await it.client(lambda c: c.show(120, 80, PAINT))
        assert inner.child.popen.poll() is None


@pytest.mark.parametrize("seal", [True, False])
async def test_a_file_that_shrinks_is_the_clients_end_alone(seal):
    async with stand() as it:

        def act(c: Window) -> ServerError | None:
            surface, _, _ = c.show(200, 200, 0xFF0000FF)
            size = 400 * 400 * 4
            fd = memfd(size, seal=seal)
            with mmap.mmap(fd, size) as pixels:
                pixels[:] = b"\xff" * size
            made = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
            buffer = c.make(
                made, "create_buffer", "wl_buffer", None, 0, 400, 400, 1600, 0
            )
            c.send(surface, "attach", buffer, 0, 0)
            c.send(surface, "commit")
            c.roundtrip()  # shown from the copy
            os.ftruncate(fd, 0)
            os.close(fd)
            c.send(surface, "attach", buffer, 0, 0)
            c.send(surface, "damage", 0, 0, 400, 400)
            c.send(surface, "commit")
            return c.until_error()

        error = await it.client(act)
        assert error is not None
        assert "truncated" in error.text
        await honest(it)


async def test_pixels_of_a_file_that_cannot_be_sealed_are_shown():
    async with stand() as it:

        def act(c: Window) -> int:
            surface, _, _ = c.show(200, 200, 0xFF0000FF)
            size = 100 * 100 * 4
            fd = memfd(size, seal=False)
            os.pwrite(fd, PAINT.to_bytes(4, "little") * 10000, 0)
            made = c.make(c.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd])
            os.close(fd)
            buffer = c.make(
                made, "create_buffer", "wl_buffer", None, 0, 100, 100, 400, 0
            )
            c.send(surface, "attach", buffer, 0, 0)
            c.send(surface, "damage", 0, 0, 100, 100)
            c.send(surface, "commit")
            c.roundtrip()
            return int(mask(it.settled(), GUEST).sum())

        assert await it.client(act) == 100 * 100


async def test_a_hundred_thousand_objects_are_too_many():
    async with stand() as it:

        def act(c: Window) -> tuple[ServerError | None, int]:
            made = 0
            try:
                for _ in range(100):
                    data = b"".join(
                        emit.create_region(c.compositor, c.new("wl_region"))
                        for _ in range(1000)
                    )
                    c.raw(data)
                    made += 1000
            except (BrokenPipeError, ConnectionResetError):
                pass
            return c.until_error(), made

        error, _ = await it.client(act)
        assert error is None or error.code == wire.NO_MEMORY
        assert it.sandbox.refused["connection"] + it.sandbox.refused["objects"] == 1
        await honest(it)


async def test_a_flood_of_descriptors_ends_one_connection():
    async with stand() as it:
        before = len(os.listdir("/proc/self/fd"))

        await it.client(Window.flood_descriptors)
        await honest(it)
        assert len(os.listdir("/proc/self/fd")) <= before + 8
        assert any(isinstance(end, PeerError) for end in it.ends)


async def test_descriptors_lost_on_the_way_end_the_connection():
    """More than fit into one read: from then on none would be at its message."""
    async with stand() as it:

        def act(c: Window) -> ServerError | None:
            null = os.open("/dev/null", os.O_RDONLY)
            message = emit.sync(1, c.new("wl_callback"))
            socket.send_fds(
                c.sock, [message], [null] * (limits.WAYLAND_FDS_PER_READ + 1)
            )
            os.close(null)
            return c.until_error()

        error = await it.client(act)
        assert error is not None
        assert "more than 28 file descriptors at once" in error.text


@pytest.mark.parametrize("size", [1, 5])
async def test_messages_in_pieces_are_messages(size):
    async with stand() as it:

        def act() -> None:
            with Client(it.path) as c:
                whole = emit.get_registry(1, c.new("wl_registry")) + emit.sync(
                    1, c.new("wl_callback")
                )
                for start in range(0, len(whole), size):
                    c.raw(whole[start : start + size])
                c.wait(lambda e: e[2] == "done")

        await trio.to_thread.run_sync(act)


async def test_a_client_that_stops_in_mid_message_holds_nothing_up():
    async with stand() as it:
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(str(it.path))
            half.send(b"\x01\0\0\0\x01")
            await honest(it)


async def test_a_client_that_never_reads_is_slowed_then_cut(monkeypatch):
    monkeypatch.setattr(wayland_limits, "WAYLAND_STUCK_SECONDS", 1.0)
    async with stand() as it:

        def act() -> int:
            with Client(it.path) as c:
                c.sock.settimeout(15)
                data = b"".join(emit.sync(1, 2 + n) for n in range(1000))
                sent = 0
                try:
                    for n in range(10_000):
                        c.raw(emit.get_registry(1, 2 + n) if n < 8000 else data)
                        sent += 1
                except (OSError, TimeoutError):
                    pass
                return sent

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await trio.to_thread.run_sync(act)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 50_000, f"{grown} KiB of memory for unread events"
        assert it.sandbox.refused["stuck"] == 1
        await honest(it)


async def test_a_flood_of_requests_is_slowed_and_others_are_not(monkeypatch):
    monkeypatch.setattr(wayland_limits, "WAYLAND_MESSAGES_PER_SECOND", 20_000)
    monkeypatch.setattr(wayland_limits, "WAYLAND_MESSAGES_BURST", 20_000)
    async with stand() as it:
        stop = trio.Event()

        def flood(c: Window) -> None:
            c.flood(c.surface(), stop.is_set)

        # Of the filter, which is this thread, whatever else the machine does.
        clock = time.pthread_getcpuclockid(threading.get_ident())

        def pings(c: Window) -> list[float]:
            took = []
            for _ in range(50):
                start = time.clock_gettime(clock)
                c.roundtrip()
                took.append(time.clock_gettime(clock) - start)
            return sorted(took)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.client, flood)
            await eventually(lambda: it.sandbox.refused["rate"])
            took = await it.client(pings)
            stop.set()
        print(f"answers after {took[25]:.4f} s, median")
        assert took[25] < 0.1, "another connection's round trip, median"


async def test_a_window_without_input_region_lets_no_click_through():
    """Laid over a prompt it would make the person confirm an invisible request."""
    async with stand() as it:

        def act(c: Window) -> tuple[list, list]:
            with (
                Window(it.comp.display).start() as host,
                Pointer(it.comp.display, SIZE) as mouse,
            ):
                mouse.move(5, 5)
                pointers = []
                for client in (host, c):
                    seat = client.bind("wl_seat")
                    pointers.append(client.make(seat, "get_pointer", "wl_pointer"))
                host.show(600, 400, 0xFF0000FF)
                surface, xdg, _ = c.show(600, 400, PAINT)
                empty = c.make(c.compositor, "create_region", "wl_region")
                c.send(surface, "set_input_region", empty)
                c.send(surface, "commit")
                c.roundtrip()
                it.order("[title=.*] move position 100 100")
                it.settled()
                mouse.click(300, 300)
                host.roundtrip()
                c.roundtrip()
                del xdg
                return (
                    [e for e in host.events if e[2] == "button"],
                    [e for e in c.events if e[2] == "button"],
                )

        host, guest = await it.client(act)
        assert host == []
        assert guest == []


async def test_the_compositor_going_away_ends_every_connection_with_a_reason():
    async with stand() as it:

        def act(c: Window) -> str:
            c.show(100, 100, PAINT)
            it.comp.child.kill()
            try:
                while True:
                    c.read()
            except (GoneError, ServerError, TimeoutError) as error:
                return type(error).__name__

        assert await it.client(act) in {"ServerError", "GoneError"}
        assert any("compositor" in str(end) for end in it.ends)
        # A new client is told at once, and the filter lives on.
        await it.comp.child.wait()
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(it.path))
            late.settimeout(30)
            assert await trio.to_thread.run_sync(late.recv, 10) == b""
