"""Drags between applications of a sandbox, through waypipe servers and our end.

weston's demonstration moves a flower from one window into another; clients of
the test's own move bytes that can be counted, with the servers of three
releases.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import pixels, windows
from tests.kit.wayland.input import LEFT, Pointer
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.stand import CONFIG, FRAME, SIZE
from tests.kit.waypipe.stand import Wire, server_of, wire

_TYPE = b"application/x-test"
_COPY = 1
_STALLS_ABOVE = 60_000
"""Bytes that waypipe 0.8.4 carries out; above 64 KiB its server stops for ever."""


class Mouse:
    """The person's pointer, from the loop."""

    def __init__(self, pointer: Pointer) -> None:
        self._pointer = pointer

    async def move(self, x: int, y: int) -> None:
        await trio.to_thread.run_sync(self._pointer.move, x, y)

    async def press(self, down: bool) -> None:
        await trio.to_thread.run_sync(self._pointer.button, down)


async def _side_by_side(it: Wire, count: int = 2) -> None:
    """Two windows at 100, 100 and at 700, 100, in the order of their titles."""

    async def shown():
        found = windows(await it.comp.tree())
        return found if len(found) == count else []

    found = sorted(await eventually(shown), key=lambda node: node["name"])
    for x, node in zip((100, 700), found, strict=True):
        await it.comp.command(f"[con_id={node['id']}] move absolute position {x} 100")

    async def placed():
        return sorted(node["rect"]["x"] for node in await shown()) == [100, 700]

    await eventually(placed)


# -- a real program ------------------------------------------------------------------

_FLOWER, _EMPTY = (238, 179), (758, 179)
"""The middles of the first flower of one window and of a free place of the other."""


def _flowery(image, spot: tuple[int, int]) -> bool:
    """Whether something bright lies there, and not the dark ground of the window."""
    x, y = spot
    part = image.crop((x - 24, y - 24, x + 24, y + 24)).convert("L")
    return sum(part.histogram()[80:]) > 300


async def _drag_a_flower(it: Wire, mouse: Mouse) -> bool:
    """One try; whether its picture was seen in a frame on the way."""
    x, y = _FLOWER
    await mouse.move(x - 4, y)
    await mouse.move(x, y)
    await mouse.press(True)
    framed = False
    for step in range(1, 21):
        await mouse.move(x + 26 * step, y)
        if 470 < x + 26 * step < 680 and not framed:
            # Between the windows there is nothing else of that colour.
            here = mask(await pixels(it.comp), FRAME)[:, 460:699]
            framed = bool(here.sum() > 200)
    with trio.move_on_after(3):
        await eventually(lambda: _is_at(it, _EMPTY))
    await mouse.press(False)
    await mouse.move(600, 700)
    return framed


async def _is_at(it: Wire, spot: tuple[int, int]) -> bool:
    return _flowery(await pixels(it.comp), spot)


async def test_a_flower_is_dragged_from_one_window_into_another():
    async with wire(config=CONFIG) as it:
        for _ in range(2):
            it.run("weston-dnd")
        await _side_by_side(it)
        with Pointer(it.comp.display, SIZE) as pointer:
            mouse = Mouse(pointer)
            await mouse.move(600, 700)

            async def drawn():
                return await _is_at(it, _FLOWER) and not await _is_at(it, _EMPTY)

            await eventually(drawn)
            framed = False
            moved = False
            with trio.fail_after(90):
                while not moved:
                    framed = await _drag_a_flower(it, mouse) or framed
                    # Dropped before it was accepted it goes back, which is no fault.
                    with trio.move_on_after(5):
                        while not moved:
                            image = await pixels(it.comp)
                            moved = _flowery(image, _EMPTY) and not _flowery(
                                image, _FLOWER
                            )
            assert framed, "its picture on the way had no frame"
        assert not it.ends
        assert len(it.connections) == 2


# -- bytes that can be counted --------------------------------------------------------


@dataclass
class Dragging:
    """What two clients, each in a thread, and the test say to each other."""

    data: bytes
    got: bytes = b""
    entered: threading.Event = field(default_factory=threading.Event)
    pressed: threading.Event = field(default_factory=threading.Event)
    accepted: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


def _window(display: Path, title: bytes, color: int) -> tuple[Window, int, int, int]:
    """A client with a window: itself, its surface, data device and manager."""
    client = Window(display, deadline=60).start()
    seat = client.bind("wl_seat", 5)
    manager = client.bind("wl_data_device_manager", 3)
    client.make(seat, "get_pointer", "wl_pointer")
    device = client.make(manager, "get_data_device", "wl_data_device", None, seat)
    surface, _, top = client.show(300, 200, color)
    client.send(top, "set_title", title)
    client.roundtrip()
    return client, surface, device, manager


def _source(display: Path, it: Dragging) -> None:
    client, surface, device, manager = _window(display, b"1", 0xFF204060)
    with client:
        # A surface enters an output, too; that event has one argument.
        client.wait(lambda e: e[2] == "enter" and len(e[3]) == 4)
        it.entered.set()
        press = client.wait(lambda e: e[2] == "button" and e[3][2:] == [LEFT, 1])
        source = client.make(manager, "create_data_source", "wl_data_source")
        client.send(source, "offer", _TYPE)
        client.send(source, "set_actions", _COPY)
        icon = client.surface()
        client.send(device, "start_drag", source, surface, icon, press[3][0])
        client.paint(icon, 40, 40, 0xFF20C020)
        client.send(icon, "commit")
        client.roundtrip()
        it.pressed.set()
        client.wait(lambda e: e[2] == "target" and e[3][0] == _TYPE)
        it.accepted.set()
        client.wait(lambda e: e[0] == source and e[2] == "send")
        fd = client.fds.pop()
        os.set_blocking(fd, True)  # the waypipe in Rust makes it otherwise
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(it.data)
        client.wait(lambda e: e[2] == "dnd_finished")
        it.finished.set()


def _target(display: Path, it: Dragging) -> None:
    client, _, device, _ = _window(display, b"2", 0xFF604020)
    with client:
        enter = client.wait(lambda e: e[0] == device and e[2] == "enter")
        serial, offer = enter[3][0], enter[3][4]
        assert any(e[2] == "offer" and e[3][0] == _TYPE for e in client.events)
        client.send(offer, "accept", serial, _TYPE)
        client.send(offer, "set_actions", _COPY, _COPY)
        client.wait(lambda e: e[0] == device and e[2] == "drop")
        reading, writing = os.pipe2(os.O_CLOEXEC)
        client.send(offer, "receive", _TYPE, fds=[writing])
        os.close(writing)
        # No question to the compositor before all is read: its answer would
        # come after the bytes, which waypipe's server holds until they are.
        with os.fdopen(reading, "rb") as pipe:
            it.got = pipe.read()
        client.send(offer, "finish")
        client.roundtrip()
        it.finished.wait(60)


@pytest.mark.parametrize(
    ("suite", "size"),
    [
        ("", _STALLS_ABOVE),
        pytest.param("trixie", 4 << 20, marks=pytest.mark.long),
        pytest.param("sid", 4 << 20, marks=pytest.mark.long),
    ],
    ids=["own", "trixie", "sid"],
)
async def test_dropped_content_is_the_dragged_content(suite, size):
    async with wire(config=CONFIG) as it, server_of(suite, Path(it.path)) as display:
        drag = Dragging(os.urandom(size))
        with Pointer(it.comp.display, SIZE) as pointer:
            mouse = Mouse(pointer)
            await mouse.move(600, 700)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, _source, display, drag)
                nursery.start_soon(trio.to_thread.run_sync, _target, display, drag)
                await eventually(lambda: _titled(it))
                await _side_by_side(it)
                await _enter(mouse, drag)
                await mouse.press(True)
                await _happens(drag.pressed)
                for x in range(260, 860, 40):
                    await mouse.move(x, 200)
                await _happens(drag.accepted)
                await mouse.press(False)
        assert hashlib.sha256(drag.got).digest() == hashlib.sha256(drag.data).digest()
        assert not it.ends


async def _titled(it: Wire) -> bool:
    names = {node["name"] for node in windows(await it.comp.tree())}
    return names == {"[work] 1", "[work] 2"}


async def _enter(mouse: Mouse, drag: Dragging) -> None:
    """Move about on the first window until it knows, which may just be moving itself."""

    async def moved() -> bool:
        await mouse.move(251, 200)
        await mouse.move(250, 200)
        return drag.entered.is_set()

    await eventually(moved)


async def _happens(event: threading.Event) -> None:
    assert await trio.to_thread.run_sync(event.wait, 60)
