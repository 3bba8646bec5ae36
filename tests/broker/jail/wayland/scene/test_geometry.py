"""Which part of a buffer a crop shows: inside it, and of whole pixels where it can be."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.jail.wayland.scene.geometry import Rect, SourceRect, SurfaceContent

SCALES = [Fraction(5, 4), Fraction(3, 2), Fraction(7, 4), Fraction(9, 4)]


def fractional(w: int, h: int, scale: Fraction) -> SurfaceContent:
    """A surface as a client draws it for wp_fractional_scale_v1: rounded half up."""
    pixels = tuple(int(n * scale + Fraction(1, 2)) for n in (w, h))
    return SurfaceContent(buffer=pixels, size=(w, h))


def test_a_shadow_of_half_a_pixel_does_not_blur_the_window():
    """GTK's shadow of 23 at 1.5 is 34.5 pixels wide: the crop begins at 35."""
    view = fractional(1000, 600, Fraction(3, 2)).view(Rect(23, 23, 954, 554))
    assert view.source == SourceRect(35 * 256, 35 * 256, 1431 * 256, 831 * 256)
    assert view.size == (954, 554)


def test_a_part_at_the_edge_stays_inside_the_buffer():
    """1.5 and 1.5 pixels are both rounded up, and the buffer has three."""
    view = fractional(2, 2, Fraction(3, 2)).view(Rect(1, 1, 1, 1))
    assert view.source == SourceRect(2 * 256, 2 * 256, 256, 256)


@pytest.mark.parametrize(
    ("content", "crop", "source"),
    [
        # Whole scales, by the buffer's scale or by a viewport: as they are.
        (SurfaceContent((200, 100), scale=2), Rect(3, 5, 10, 20), (3, 5, 10, 20)),
        (
            SurfaceContent((200, 100), size=(100, 50)),
            Rect(3, 5, 10, 20),
            (6, 10, 20, 40),
        ),
        # A picture that is made larger keeps its exact place.
        (
            SurfaceContent((100, 100), size=(400, 400)),
            Rect(2, 2, 8, 8),
            (0.5, 0.5, 2, 2),
        ),
    ],
)
def test_other_contents_keep_their_exact_place(content, crop, source):
    assert content.view(crop).source == tuple(int(n * 256) for n in source)


def test_a_source_of_the_client_in_parts_of_a_pixel_is_kept_exact():
    source = SourceRect(128, 128, 150 * 256, 150 * 256)
    view = SurfaceContent((200, 200), source=source, size=(100, 100)).view(
        Rect(1, 1, 50, 50)
    )
    assert view.source == SourceRect(128 + 384, 128 + 384, 75 * 256, 75 * 256)


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(SCALES),
    st.data(),
)
def test_a_window_at_a_fractional_scale_has_whole_pixels(w, h, scale, data):
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    crop = Rect(
        x, y, data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y))
    )
    content = fractional(w, h, scale)
    view = content.view(crop)
    if crop == (0, 0, w, h):
        return
    whole = content.whole()
    source = view.source
    pairs = ((0, w, source.x, source.w, whole.w), (1, h, source.y, source.h, whole.h))
    for axis, extent, first, length, used in pairs:
        assert first >= 0
        assert length > 0
        assert first + length <= used
        if used % (256 * extent) == 0 or used < 256 * extent:
            continue
        assert first % 256 == length % 256 == 0
        # At most half a pixel of the buffer from the exact place.
        exact = Fraction(crop[axis] * used, extent)
        assert abs(first - exact) <= 128
        size = Fraction(crop[2 + axis] * used, extent)
        assert abs(length - size) <= 128 or first + length == used or length == 256


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(0, 399),
    st.integers(1, 400),
)
def test_every_part_is_inside_the_buffer_and_not_empty(used, extent, at, length):
    at = min(at, extent - 1)
    length = min(length, extent - at)
    content = SurfaceContent((used, 10), size=(extent, 10))
    view = content.view(Rect(at, 0, length, 10))
    if view is not None:
        assert view.source.x >= 0
        assert view.source.w >= 1
        assert view.source.x + view.source.w <= used * 256
