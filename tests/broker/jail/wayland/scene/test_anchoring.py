"""A popup's content is told and placed as if it had no frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.jail.wayland.scene.anchoring import around_content
from broker.jail.wayland.scene.geometry import Rect
from broker.jail.wayland.scene.placement import Wish, touching

EDGES = (4, 20, 5, 6)
"""Left, top, right, bottom of the popup's own frame."""
AROUND = 24
"""The parent's frame on each side."""
_LOW_X, _HIGH_X = {3, 5, 6}, {4, 7, 8}
_LOW_Y, _HIGH_Y = {1, 5, 7}, {2, 6, 8}
_FLIPPED_X = {0: 0, 1: 1, 2: 2, 3: 4, 4: 3, 5: 7, 6: 8, 7: 5, 8: 6}
_FLIPPED_Y = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4, 5: 6, 6: 5, 7: 8, 8: 7}


def place(rect, anchor, gravity, size, offset):
    """Where xdg_positioner puts a popup of that size."""
    spot = []
    for axis, (low, high) in enumerate(((_LOW_X, _HIGH_X), (_LOW_Y, _HIGH_Y))):
        start, wide = (rect[0], rect[2]) if axis == 0 else (rect[1], rect[3])
        at = start if anchor in low else start + wide if anchor in high else None
        at = start + wide // 2 if at is None else at
        away = size[axis] if gravity in low else 0
        away = away if gravity in low | high else size[axis] // 2
        spot.append(at - away + offset[axis])
    return tuple(spot)


rects = st.builds(
    Rect, st.integers(0, 150), st.integers(0, 80), st.integers(1, 50), st.integers(1, 20)
)  # fmt: skip
sides = st.integers(0, 8)


@given(
    rects, sides, sides, st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
)  # fmt: skip
def test_the_content_is_where_a_bare_popup_would_be(
    rect, anchor, gravity, offset, size
):
    left, top, right, bottom = EDGES
    outer = (size[0] + left + right, size[1] + top + bottom)
    parent = (200 + 2 * AROUND, 100 + 2 * AROUND)
    inside = Rect(rect.x + AROUND, rect.y + AROUND, rect.w, rect.h)
    moved, shift = around_content(inside, parent, (anchor, gravity), EDGES, offset)
    assert moved.w >= 1
    assert moved.h >= 1
    assert moved.x >= 0
    assert moved.y >= 0
    assert moved.x + moved.w <= parent[0]
    assert moved.y + moved.h <= parent[1]
    x, y = place(moved, anchor, gravity, outer, shift)
    bare = place(inside, anchor, gravity, size, offset)
    # A middle of an odd number of pixels is rounded.
    assert abs(x + left - bare[0]) <= (0 if gravity in _LOW_X | _HIGH_X else 1)
    assert abs(y + top - bare[1]) <= (0 if gravity in _LOW_Y | _HIGH_Y else 1)


@pytest.mark.parametrize(("anchor", "gravity"), [(2, 2), (6, 8), (8, 8), (7, 8)])
def test_it_is_also_where_the_compositor_flips_it(anchor, gravity):
    """A drop-down menu above its button, a submenu left of its menu."""
    size, rect = (90, 60), Rect(AROUND + 40, AROUND + 30, 80, 40)
    outer = (90 + EDGES[0] + EDGES[2], 60 + EDGES[1] + EDGES[3])
    moved, shift = around_content(rect, (248, 148), (anchor, gravity), EDGES, (0, 0))
    for flip in (_FLIPPED_X, _FLIPPED_Y):
        a, g = flip[anchor], flip[gravity]
        x, y = place(moved, a, g, outer, shift)
        bare = place(rect, a, g, size, (0, 0))
        assert (x + EDGES[0], y + EDGES[1]) == pytest.approx(bare, abs=1)


def test_a_point_is_anchored_by_the_offset():
    """A context menu at the pointer: there is nothing to take from its anchor."""
    rect, offset = around_content(Rect(50, 50, 1, 1), (200, 200), (8, 8), (4, 4, 4, 4), (0, 0))  # fmt: skip
    assert rect == (50, 50, 1, 1)
    assert offset == (-4, -4)


def test_a_moved_popup_still_touches_its_parent():
    rect, offset = around_content(Rect(4, 4, 1, 1), (208, 108), (5, 5), (4, 4, 4, 4), (-500, -500))  # fmt: skip
    wish = touching((208, 108), Wish((58, 38), rect, 5, 5, offset))
    assert place(rect, 5, 5, (58, 38), wish.offset) == (-58, -38)
