"""Drags stay in their sandbox: real pointer, real compositor, jailed workers."""

from __future__ import annotations

import os
from functools import partial

import trio

from tests.kit.clip_client import TEXT, Guest, guest
from tests.kit.clip_stand import COLOURS, Desk, desk
from tests.kit.compositor import pixels
from tests.kit.wayland_input import Pointer

SIZE = (1280, 800)
FROM, TO = (150, 350), (750, 350)
ICON = 60
IMITATED = 0x10A010
"""The colour of another sandbox's frames."""


def drags(c: Guest, it: Desk, target: str, look=None) -> list[bytes]:
    """Drag from here over the target's window and drop; what was told meanwhile."""
    for title, x in (("from", 100), (target, 700)):
        order = f'[title="{title}"] move position {x} 300'
        trio.from_thread.run(it.comp.command, order)
    with Pointer(it.comp.display, SIZE) as mouse:
        c.make(c.seat, "get_pointer", "wl_pointer")
        mouse.move(*FROM)
        c.wait(lambda e: e[1:3] == ("wl_pointer", "enter"))
        mouse.button(True)
        serial = c.wait(lambda e: e[1:3] == ("wl_pointer", "button"))[3][0]
        source = c.make(c.manager, "create_data_source", "wl_data_source")
        c.send(source, "offer", TEXT)
        c.send(source, "set_actions", 1)
        icon = c.surface()
        c.send(c.device, "start_drag", source, c.window, icon, serial)
        c.paint(icon, ICON, ICON, 0xFF000000 | IMITATED)
        c.send(icon, "commit")
        c.roundtrip()
        for step in range(FROM[0], TO[0] + 1, 50):
            mouse.move(step, FROM[1])
        c.roundtrip()
        seen = look() if look else None
        mouse.button(False)
        c.wait(lambda e: e[0] == source and e[2] in {"cancelled", "dnd_drop_performed"})
        return seen


def told(c: Guest) -> list[str]:
    """What a window was told of a drag over it."""
    c.roundtrip()
    names = {"enter", "motion", "drop", "data_offer"}
    return [e[2] for e in c.events if e[0] == c.device and e[2] in names]


async def over(it: Desk, name: str, *, direct: bool = False):
    """What a window of this sandbox learns of a drag of red's over it."""

    def target(c: Guest) -> tuple[list[str], list[bytes]]:
        act = partial(drags, it=it, target="target")
        trio.from_thread.run(partial(guest, it, "red", act, title="from"))
        return told(c), [e[3][0] for e in c.events if e[2] == "offer"]

    return await guest(it, name, target, direct=direct, title="target")


async def test_a_window_of_another_sandbox_learns_nothing_of_a_drag():
    async with desk("red", "blue") as it:
        assert await over(it, "blue") == ([], [])


async def test_a_window_of_the_same_sandbox_has_all_of_it():
    """So the test above is known to bite."""
    async with desk("red") as it:
        names, types = await over(it, "red")
        assert {"enter", "data_offer"} <= set(names)
        assert types == [TEXT]


async def test_the_persons_own_program_can_take_nothing_of_it():
    async with desk("red") as it:

        def target(c: Guest) -> tuple[list[bytes], bytes]:
            act = partial(drags, it=it, target="target")
            trio.from_thread.run(partial(guest, it, "red", act, title="from"))
            c.roundtrip()
            types = [e[3][0] for e in c.events if e[2] == "offer"]
            offers = [e[3][0] for e in c.events if e[2] == "data_offer"]
            theirs, ours = os.pipe()
            if offers and types:
                c.send(offers[-1], "receive", types[-1], fds=[ours])
            os.close(ours)
            c.roundtrip()
            with os.fdopen(theirs, "rb") as pipe:
                found = pipe.read()
            return types, found

        types, found = await guest(it, "", target, direct=True, title="target")
        assert TEXT not in types
        assert len(types) == 1
        assert b"red" not in types[0], "nor the sandbox's name"
        assert found == b""


async def test_a_picture_that_is_dragged_has_the_frame_of_its_own_sandbox():
    """However it is painted: here in the colour of another one's frames."""
    async with desk("red", "blue") as it:

        def target(c: Guest):
            def looks():
                return trio.from_thread.run(pixels, it.comp)

            act = partial(drags, it=it, target="target", look=looks)
            return trio.from_thread.run(partial(guest, it, "red", act, title="from"))

        image = await guest(it, "blue", target, title="target")
    found = [
        (x, y)
        for y in range(300, 460)
        for x in range(700, 900)
        if image.getpixel((x, y)) == _rgb(IMITATED)
    ]
    assert found, "the picture is shown"
    left, top = min(x for x, _ in found), min(y for _, y in found)
    right, bottom = max(x for x, _ in found), max(y for _, y in found)
    frame = _rgb(COLOURS[0])
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for spot in (
        (left - 1, middle_y),
        (right + 1, middle_y),
        (middle_x, top - 1),
        (middle_x, bottom + 1),
    ):
        assert image.getpixel(spot) == frame, spot


def _rgb(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255
