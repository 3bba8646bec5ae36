"""Drags stay in their sandbox: real pointer, real compositor, jailed workers."""

from __future__ import annotations

import os
from functools import partial

import trio

from tests.kit.clipboard.client import TEXT, Guest, dragging, guest, let_go, shown
from tests.kit.clipboard.stand import COLOURS, Desk, desk
from tests.kit.wayland.compositor import pixels

ICON = 60
IMITATED = 0x10A010
"""The colour of another sandbox's frames."""


def drags(c: Guest, look=None):
    """Drag from here over the target's window and drop; return the picture meanwhile."""
    with dragging(c, "target", paint=(ICON, 0xFF000000 | IMITATED)) as drag:
        seen = look() if look else None
        let_go(c, drag)
        return seen


async def over(it: Desk, name: str, *, direct: bool = False):
    """What a window of this sandbox learns of a drag of red's over it."""

    def target(c: Guest) -> tuple[list[str], list[bytes]]:
        trio.from_thread.run(partial(guest, it, "red", drags, title="from"))
        return shown(c), [e[3][0] for e in c.events if e[2] == "offer"]

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
            trio.from_thread.run(partial(guest, it, "red", drags, title="from"))
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

            act = partial(drags, look=looks)
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
