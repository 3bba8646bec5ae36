"""The pointer's picture through waypipe servers and our end: themes, surfaces, shapes."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import pixels, windows
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.stand import SIZE, unchanged
from tests.kit.waypipe.stand import SERVER, Wire, server_of, wire

_AWAY = (1270, 790)
_PINK = (255, 0, 255)


@asynccontextmanager
async def pointing(it: Wire):
    """A pointer, and the place of the only window, which is still."""
    with await trio.to_thread.run_sync(Pointer, it.comp.display, SIZE) as mouse:

        async def move(x: int, y: int) -> None:
            await trio.to_thread.run_sync(mouse.move, x, y)

        yield move


async def _placed(it: Wire) -> tuple[int, int, int, int]:
    async def shown():
        return windows(await it.comp.tree())

    (node,) = await eventually(shown)
    rect = node["rect"]
    return rect["x"], rect["y"], rect["width"], rect["height"]


async def _settled(it: Wire):
    """The screen once it has not changed for a while."""
    last = await unchanged(it.comp)
    return np.asarray(last.convert("RGB")).astype(int)


def _shape(with_it, without, spot: tuple[int, int]):
    """What the pointer changes around a spot: 64 x 64 pixels, true or false."""
    x, y = spot
    part = (slice(y - 32, y + 32), slice(x - 32, x + 32))
    return (with_it[part] != without[part]).any(axis=2)


async def _pointers(it: Wire, move) -> tuple[np.ndarray, np.ndarray]:
    """The shapes of the pointer on the frame's upper edge and on the content."""
    x, y, w, h = await _placed(it)
    shapes = []
    for spot in ((x + w // 2, y + 1), (x + w // 2, y + h // 2)):
        await move(*_AWAY)
        without = await _settled(it)
        with trio.fail_after(60):
            while True:
                # An application may learn of the pointer only now.
                await move(spot[0] - 1, spot[1])
                await move(*spot)
                shape = _shape(await _settled(it), without, spot)
                if shape.any():
                    break
        shapes.append(shape)
    return shapes[0], shapes[1]


_STILL = ("foot", "-o", "cursor.blink=no", "-T", "still", "sleep", "1000")


async def test_a_terminal_has_its_own_pointer_and_the_frame_ours():
    """foot takes its bar from a theme of the sandbox, as a separate surface."""
    async with wire() as it, pointing(it) as move:
        it.run(*_STILL)
        await _placed(it)
        frame, content = await _pointers(it, move)
        assert frame.any()
        assert (frame != content).any(), "the same picture on both"
        assert not it.ends


def _painted(display: Path, shown: threading.Event, over: threading.Event) -> None:
    """A client whose pointer is a pink square."""
    with Window(display, deadline=60).start() as client:
        seat = client.bind("wl_seat", 5)
        pointer = client.make(seat, "get_pointer", "wl_pointer")
        client.show(300, 200, 0xFF204060)
        shown.set()
        enter = client.wait(lambda e: e[0] == pointer and e[2] == "enter")
        cursor = client.surface()
        client.send(pointer, "set_cursor", enter[3][0], cursor, 10, 10)
        client.paint(cursor, 20, 20, 0xFFFF00FF)
        client.send(cursor, "commit")
        client.roundtrip()
        over.wait(60)


@pytest.mark.parametrize(
    "suite",
    ["", pytest.param("trixie", marks=pytest.mark.long), pytest.param("sid", marks=pytest.mark.long)],
    ids=["own", "trixie", "sid"],
)  # fmt: skip
async def test_a_surface_is_the_pointer_on_the_content_only(suite):
    shown, over = threading.Event(), threading.Event()
    async with wire() as it, server_of(suite, Path(it.path)) as display:
        async with trio.open_nursery() as nursery, pointing(it) as move:
            nursery.start_soon(trio.to_thread.run_sync, _painted, display, shown, over)
            x, y, w, h = await _placed(it)
            middle = (x + w // 2, y + h // 2)

            async def pink() -> int:
                await move(middle[0] - 1, middle[1])
                await move(*middle)
                return await _pink(it)

            assert await eventually(pink, deadline=60) == 20 * 20
            # Where it is put is where its hot spot says.
            image = await pixels(it.comp)
            assert image.getpixel((middle[0] - 10, middle[1] - 10)) == _PINK
            assert image.getpixel((middle[0] - 11, middle[1] - 10)) != _PINK
            await move(x + w // 2, y + 1)

            async def ours() -> bool:
                return not await _pink(it)

            await eventually(ours)
            over.set()
        assert not it.ends


async def _pink(it: Wire) -> int:
    image = await pixels(it.comp)
    return sum(n for n, colour in image.getcolors(1 << 24) if colour == _PINK)


@pytest.mark.long
@pytest.mark.parametrize("suite", ["trixie", "sid"])
async def test_a_shape_by_its_name_where_compositor_and_application_know_them(suite):
    """foot of these suites asks for wp_cursor_shape_v1, which sway of trixie has."""
    async with wire(kind="sway") as it, pointing(it) as move:
        root = await trio.to_thread.run_sync(suite_root, suite)
        server = (*inside(root, str(Path(it.path).parent)), *SERVER)
        it.run(*_STILL, server=server)
        await _placed(it)
        (connection,) = it.connections
        frame, content = await _pointers(it, move)
        kinds = {obj.interface for obj in connection.core.by_client.values()}
        assert "wp_cursor_shape_device_v1" in kinds
        assert (frame != content).any()
        assert not it.ends
