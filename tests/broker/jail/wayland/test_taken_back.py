"""Surfaces that get a parent when they have a picture already.

wl_subcompositor means the parent's next commit; KWin 5.27 shows the new
subsurface at once, at its parent's corner, with all that is on it.  So does the
model, and it is judged after each request, not only when all is said.
"""

from __future__ import annotations

import pytest

from broker.core.streams.wayland_rules import WindowRules
from tests.broker.jail.wayland.scene.test_frame import contained, guest_rects
from tests.kit.wayland.talk import Talk


class Watched(Talk):
    """Looks at all windows after each request for a subsurface.

    The compositor is slow to confirm ids, so that their order shows.
    """

    def __init__(self, rules: WindowRules | None = None) -> None:
        super().__init__(rules)
        self.strange, self.looks = [], 0
        self.model.confirms = False
        made = self.model.wl_subcompositor_get_subsurface

        def get_subsurface(*args) -> None:
            made(*args)
            for root in self.model.roots():
                own = self.core.by_server[root.oid]
                if own.alias is None or own.alias.xdg is None:
                    continue
                self.looks += 1
                edges, (w, h) = own.alias.xdg.frame.edges, root.size()
                inside = (edges.left, edges.top, w - edges.wide, h - edges.high)
                guests = self.guests()
                self.strange += [
                    rect
                    for oid, *rect in self.model.rects(root)
                    if oid in guests and not contained(inside, rect)
                ]

        self.model.wl_subcompositor_get_subsurface = get_subsurface

    def guests(self) -> set[int]:
        """The client's surfaces, as the compositor names them."""
        return {
            oid
            for oid, thing in self.model.things.items()
            if thing.kind == "wl_surface" and self.core.by_server[oid].cid
        }


def tree(t: Talk, surface: int) -> tuple[int, int]:
    """A child that fills a large window, with one on it; its surface and role."""
    child, leaf = t.surface(), t.surface()
    sub = t.child(child, surface, 0, 0)
    t.child(leaf, child, 500, 300)
    for each, size in ((leaf, (250, 250)), (child, (800, 600))):
        t.paint(each, *size, 0)
        t.send(each, "commit")
    t.send(surface, "commit")
    return child, sub


@pytest.mark.parametrize("committed", [False, True])
def test_a_surface_that_was_large_in_one_window_is_not_in_another(committed):
    with Watched() as t:
        t.start()
        large, _, _ = t.show(800, 600, 0)
        small, _, _ = t.show(10, 10, 0)
        child, sub = tree(t, large)
        assert ((4, 4, 800, 600), (504, 304, 250, 250)) in guest_rects(t)
        t.send(sub, "destroy")
        if committed:
            t.send(large, "commit")
        before = t.looks
        t.child(child, small, 0, 0)
        assert t.looks > before
        assert t.strange == []
        # Laid out, it is as it should be.
        t.send(small, "commit")
        assert ((4, 4, 10, 10), (4, 4, 10, 10)) in guest_rects(t)
        assert all(contained(*pair) for pair in guest_rects(t))
        t.send(small, "commit")
        assert t.core.fault is None


def test_a_surface_without_a_parent_is_not_larger_than_its_first_one():
    with Watched() as t:
        t.start()
        small, _, _ = t.show(10, 10, 0)
        child, leaf = t.surface(), t.surface()
        t.child(leaf, child, 30, 30)
        for each in (leaf, child):
            t.paint(each, 300, 300, 0)
            t.send(each, "commit")
        t.child(child, small, 0, 0)
        assert t.looks
        assert t.strange == []


def test_nor_what_lies_on_one_that_is_as_small_as_it_can_be():
    """Of the lower one a pixel shows before as after, and nothing of it moves."""
    with Watched() as t:
        t.start()
        large, _, _ = t.show(800, 600, 0)
        small, _, _ = t.show(10, 10, 0)
        child, leaf = t.surface(), t.surface()
        sub = t.child(child, large, 0, 0)
        t.child(leaf, child, 0, 0)
        for each, size in ((leaf, 300), (child, 1)):
            t.paint(each, size, size, 0)
            t.send(each, "commit")
        t.send(large, "commit")
        t.send(sub, "destroy")
        before = t.looks
        t.child(child, small, 0, 0)
        assert t.looks > before
        assert t.strange == []


def test_back_in_the_window_that_it_left_it_is_as_before():
    with Watched() as t:
        t.start()
        large, _, _ = t.show(800, 600, 0)
        child, sub = tree(t, large)
        before = sorted(guest_rects(t))
        t.send(sub, "destroy")
        t.child(child, large, 0, 0)
        t.send(large, "commit")
        assert sorted(guest_rects(t)) == before
        assert t.strange == []


@pytest.mark.parametrize("place", [(0, 0), (-150, -20), (190, 90)])
def test_a_window_that_returns_from_its_own_popup_is_not_shown_as_large(place):
    with Watched(WindowRules("work", promote=True)) as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        child, leaf = t.surface(), t.surface()
        sub = t.child(child, surface, 150, 60)
        t.child(leaf, child, 250, 150)
        for each, size in ((leaf, (60, 60)), (child, (400, 300))):
            t.paint(each, *size, 0)
            t.send(each, "commit")
        t.send(surface, "commit")
        (held,) = t.core.promoted
        assert held.promoted is not None
        t.paint(child, 150, 40, 0)
        t.send(child, "commit")
        t.send(sub, "set_position", *place)
        before = t.looks
        if place == (0, 0):
            t.send(surface, "commit")  # it fits, and is taken back
        else:
            t.send(sub, "destroy")
        assert held not in t.core.promoted
        assert t.looks > before
        assert t.strange == []
        assert all(contained(*pair) for pair in guest_rects(t))


def test_a_child_without_a_picture_costs_nothing_more():
    with Talk() as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        child = t.surface()
        before = len(t.model.requests)
        t.child(child, surface, 5, 5)
        assert [n for _, n, _ in t.model.requests[before:]] == ["get_subsurface"]
