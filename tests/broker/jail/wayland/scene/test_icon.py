"""Pictures in tiles: whatever an application draws, the border is ours."""

from __future__ import annotations

import random

from broker.jail.wayland.scene import icon

RED = bytes((0x10, 0x10, 0xD0, 0xFF))
EDGE = (icon.SIDE - icon.INNER) // 2


def pixels(picture: bytes, side: int) -> list[list[bytes]]:
    """Rows of pixels."""
    flat = [picture[at : at + 4] for at in range(0, len(picture), 4)]
    assert len(flat) == side * side
    return [flat[at : at + side] for at in range(0, len(flat), side)]


def redrawn(source: bytes, side: int, *, opaque: bool = False) -> list[list[bytes]]:
    def row(y: int) -> bytes:
        return source[y * side * 4 : (y + 1) * side * 4]

    return pixels(icon.shrunk(row, side, opaque=opaque), icon.INNER)


def test_border_is_around_whatever_is_drawn():
    rng = random.Random(1)
    noise = rng.randbytes(icon.INNER * icon.INNER * 4)
    rows = pixels(icon.tile(0xD01010, noise), icon.SIDE)
    inner = range(EDGE, icon.SIDE - EDGE)
    for y, row in enumerate(rows):
        for x, pixel in enumerate(row):
            if x not in inner or y not in inner:
                assert pixel == RED
    inside = b"".join(b"".join(rows[y][EDGE:-EDGE]) for y in inner)
    assert inside == noise


def test_picture_of_any_size_fits():
    for side in (1, 2, 3, 16, 47, 48, 49, 64, 255, 256):
        colour = bytes((1, 2, 3, 255))
        assert redrawn(colour * side * side, side) == [
            [colour] * icon.INNER for _ in range(icon.INNER)
        ]


def test_picture_keeps_its_place():
    """A quarter of the source is a quarter of the icon."""
    side, blue, red = 96, bytes((255, 0, 0, 255)), bytes((0, 0, 255, 255))
    half = side // 2
    source = (blue * half + red * half) * half + red * side * half
    rows = redrawn(source, side)
    middle = icon.INNER // 2
    assert rows[0][0] == rows[middle - 1][middle - 1] == blue
    assert rows[0][middle] == rows[middle][0] == rows[-1][-1] == red


def test_picture_is_opaque():
    """No pixel lets the pixels below the icon through, nor claims more than all light."""
    for pixel in (bytes(4), b"\xff\xff\xff\0", bytes((9, 9, 9, 128))):
        for row in redrawn(pixel * 48 * 48, 48):
            assert {p[3] for p in row} == {255}
    clear = redrawn(bytes(4) * 48 * 48, 48)
    assert clear[0][0] == b"\xfa\xfa\xfa\xff"
    without_alpha = redrawn(bytes((9, 9, 9, 0)) * 48 * 48, 48, opaque=True)
    assert without_alpha[0][0] == bytes((9, 9, 9, 255))


def test_window_without_a_picture_has_its_sandboxs_letter():
    drawn = icon.initial("work", 0xD01010)
    rows = pixels(drawn, icon.INNER)
    assert rows[0] == [RED] * icon.INNER
    assert drawn != icon.initial("bank", 0xD01010)
    assert len(icon.initial("", 0)) == len(drawn)
