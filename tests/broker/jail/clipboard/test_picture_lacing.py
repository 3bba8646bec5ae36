"""Seven small pictures become one, and none is there that has no pixel."""

from __future__ import annotations

import pytest

from broker.jail.clipboard.picture_lacing import Canvas, passes


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("height", range(1, 10))
def test_each_pixel_is_in_one_pass(width, height):
    found = [
        (one.x + column * one.across, one.y + line * one.down)
        for one in passes(width, height)
        for line in range(one.height)
        for column in range(one.width)
    ]
    assert sorted(found) == [(x, y) for x in range(width) for y in range(height)]


def test_a_picture_of_one_pixel_has_one_pass():
    assert len(list(passes(1, 1))) == 1
    assert len(list(passes(5, 5))) == 7


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 24, 32, 48, 64])
def test_a_canvas_has_every_pixel_where_it_belongs(bits):
    width, height = 7, 5
    canvas = Canvas(width, height, bits)
    most = min(bits, 8)
    value = lambda x, y: (y * width + x) % (1 << most)  # noqa: E731
    for one in passes(width, height):
        for line in range(one.height):
            numbers = [
                value(one.x + n * one.across, one.y + line * one.down)
                for n in range(one.width)
            ]
            canvas.put(one, line, packed(numbers, bits))
    rows = [packed([value(x, y) for x in range(width)], bits) for y in range(height)]
    assert list(canvas.rows()) == rows


def packed(numbers: list[int], bits: int) -> bytes:
    """A row of these pixels; zeros fill the last byte up."""
    text = "".join(f"{number:0{bits}b}" for number in numbers)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)
