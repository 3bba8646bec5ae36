"""Subsurfaces that become framed popups, judged on the model compositor."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.protocol import emit, signatures
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.scene.geometry import Rect
from broker.jail.wayland.scene.placement import touching
from broker.jail.wayland.scene.promote import overhangs, wish_for
from tests.broker.jail.wayland.scene.test_frame import contained, guest_rects, popup
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

FAR = limits.WAYLAND_OVERHANG


def promoting(**more) -> Talk:
    return Talk(WindowRules("work", promote=True), **more)


@pytest.fixture
def talk():
    with promoting() as it:
        yield it.start()
    assert it.machine.leaked() == []


def popover(t: Talk, surface: int, x: int, y: int, w: int, h: int) -> tuple[int, int]:
    """A child of a window, shown: its surface and wl_subsurface."""
    child = t.surface()
    sub = t.child(child, surface, x, y)
    t.paint(child, w, h, 0)
    t.send(child, "commit")
    t.send(surface, "commit")
    return child, sub


def popups(t: Talk) -> list[tuple[tuple[int, int], dict]]:
    """Outer size and positioner of each popup that is shown."""
    roles = [(r, r.xdg.state["role"]) for r in t.model.roots()]
    return [
        (r.size(), role.state["positioner"])
        for r, role in roles
        if role.kind == "xdg_popup"
    ]


def packed(t: Talk, oid: int, name: str, *args: int) -> bytes:
    return emit.packer(signatures.request(t.kinds[oid], name))(oid, *args)


def parent_of(t: Talk, child: int) -> int:
    """The compositor's id of the surface that a child lies on."""
    return t.server_side(child).parent.oid


def test_what_reaches_outside_becomes_a_framed_popup_at_the_same_place(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    ((size, positioner),) = popups(talk)
    assert size == (128, 88)
    # Of the window's content at (4, 4) the popup's content is at (150, 60).
    assert positioner["rect"] == (4, 4, 1, 1)
    assert positioner["offset"] == (146, 56)
    assert positioner["adjustment"] == 3
    assert parent_of(talk, child) != talk.server_side(surface).oid
    inside = [rect for _, rect in guest_rects(talk)]
    assert (4, 4, 120, 80) in inside
    assert all(contained(*pair) for pair in guest_rects(talk))


def test_by_default_it_is_cropped():
    with Talk() as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        popover(t, surface, 150, 60, 120, 80)
        assert popups(t) == []
        assert ((4, 4, 200, 100), (154, 64, 50, 40)) in guest_rects(t)


@pytest.mark.parametrize(("over", "expected"), [(FAR, 0), (FAR + 1, 1)])
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_a_decoration_s_edge_is_cropped(talk, over, expected, side):
    surface, _, _ = talk.show(200, 100, 0)
    x, y = {
        "left": (-over, 20),
        "top": (20, -over),
        "right": (150 + over, 20),
        "bottom": (20, 70 + over),
    }[side]
    popover(talk, surface, x, y, 50, 30)
    assert len(popups(talk)) == expected
    assert all(contained(*pair) for pair in guest_rects(talk))


def test_it_is_no_larger_than_a_popup_may_be(talk):
    surface, _, _ = talk.show(200, 100, 0)
    popover(talk, surface, 100, 50, 3000, 3000)
    ((size, _),) = popups(talk)
    assert size == (1152, 720)  # nine tenths of 1280 x 800
    assert all(contained(*pair) for pair in guest_rects(talk))


@pytest.mark.parametrize("place", [(5000, 40), (-5000, 40), (30, 5000), (30, -5000)])
def test_it_touches_its_window(talk, place):
    surface, _, _ = talk.show(200, 100, 0)
    popover(talk, surface, *place, 50, 30)
    ((size, positioner),) = popups(talk)
    x, y = (4 + o for o in positioner["offset"])
    assert -size[0] <= x <= 208
    assert -size[1] <= y <= 108


def test_its_subsurfaces_are_cropped_to_it(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    popover(talk, child, 100, 70, 90, 90)
    talk.send(surface, "commit")
    assert len(popups(talk)) == 1
    assert ((4, 4, 120, 80), (104, 74, 20, 10)) in guest_rects(talk)


def test_and_to_one_as_small_as_it_is_whatever_was_granted(talk):
    """The compositor has not answered its wish for less yet."""
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    leaf = talk.surface()
    talk.child(leaf, child, 90, 30)
    talk.paint(leaf, 30, 50, 0)
    talk.send(leaf, "commit")
    talk.model.xdg_popup_reposition = lambda *_: None
    talk.paint(child, 100, 40, 0)
    talk.send(child, "commit")
    talk.send(surface, "commit")
    assert popups(talk)[0][0] == (108, 48)
    rects = guest_rects(talk)
    assert ((4, 4, 100, 40), (94, 34, 10, 10)) in rects
    assert all(contained(*pair) for pair in rects)


def test_one_on_another_ends_when_that_is_promoted(talk):
    """First the upper one reaches outside, then the one that it lies on."""
    surface, _, _ = talk.show(200, 100, 0)
    child, sub = popover(talk, surface, 20, 20, 50, 50)
    upper, _ = popover(talk, child, 20, 20, 300, 300)
    talk.send(surface, "commit")
    assert parent_of(talk, upper) != talk.server_side(child).oid
    talk.send(sub, "set_position", 170, 20)
    talk.send(surface, "commit")
    assert [size for size, _ in popups(talk)] == [(58, 58)]
    assert parent_of(talk, upper) == talk.server_side(child).oid
    assert all(contained(*pair) for pair in guest_rects(talk))


def test_it_moves_and_comes_back(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, sub = popover(talk, surface, 150, 60, 120, 80)
    talk.send(sub, "set_position", 160, 70)
    talk.send(surface, "commit")
    ((_, positioner),) = popups(talk)
    assert positioner["offset"] == (156, 66)
    assert len(talk.told("xdg_popup", "reposition")) == 1
    talk.send(sub, "set_position", 10, 10)
    talk.send(surface, "commit")
    assert popups(talk) == []
    assert parent_of(talk, child) == talk.server_side(surface).oid
    assert ((4, 4, 200, 100), (14, 14, 120, 80)) in guest_rects(talk)
    assert talk.sandbox.totals["popups"] == 0


def test_where_popups_cannot_be_moved_each_place_is_a_new_one():
    with promoting() as t:
        t.start(shell=1)
        surface, _, _ = t.show(200, 100, 0)
        _, sub = popover(t, surface, 150, 60, 120, 80)
        t.send(sub, "set_position", 160, 70)
        t.send(surface, "commit")
        ((_, positioner),) = popups(t)
        assert positioner["offset"] == (156, 66)
        assert len(t.told("xdg_surface", "get_popup")) == 2
        assert t.sandbox.totals["popups"] == 1


def test_while_the_compositor_has_not_answered_no_more_is_asked(talk):
    surface, _, _ = talk.show(200, 100, 0)
    _, sub = popover(talk, surface, 150, 60, 120, 80)
    for x in range(20):
        talk.core.from_client(
            packed(talk, sub, "set_position", 150 + x, 60)
            + packed(talk, surface, "commit"),
            [],
            0.0,
        )
    talk.pump()
    ((_, positioner),) = popups(talk)
    assert positioner["offset"] == (165, 56), "the last place counts"
    assert len(talk.told("xdg_popup", "reposition")) == 2


def test_its_content_changes_with_its_parent_s_commit(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    talk.paint(child, 100, 70, 0)
    talk.send(child, "commit")
    assert popups(talk)[0][0] == (128, 88)
    talk.send(surface, "commit")
    assert popups(talk)[0][0] == (108, 78)


def test_it_grows_when_the_compositor_allows_it(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, sub = popover(talk, surface, 150, 60, 120, 80)
    talk.send(sub, "set_desync")
    talk.paint(child, 300, 200, 0)
    talk.send(child, "commit")
    assert popups(talk)[0][0] == (308, 208)
    assert len(talk.told("xdg_popup", "reposition")) == 1


def _null(t, surface, child, sub, _xdg, _top):
    t.send(child, "attach", 0, 0, 0)
    t.send(child, "commit")
    t.send(surface, "commit")


def _unsub(t, surface, child, sub, _xdg, _top):
    t.send(sub, "destroy")


def _child_gone(t, surface, child, sub, _xdg, _top):
    t.send(child, "destroy")


def _unmap(t, surface, child, sub, _xdg, _top):
    t.send(surface, "attach", 0, 0, 0)
    t.send(surface, "commit")


def _window_gone(t, surface, child, sub, xdg, top):
    t.send(top, "destroy")


def _all_gone(t, surface, child, sub, xdg, top):
    t.send(top, "destroy")
    t.send(xdg, "destroy")
    t.send(surface, "destroy")


@pytest.mark.parametrize(
    "how", [_null, _unsub, _child_gone, _unmap, _window_gone, _all_gone]
)
def test_it_ends_before_its_parent(talk, how):
    surface, xdg, top = talk.show(200, 100, 0)
    child, sub = popover(talk, surface, 150, 60, 120, 80)
    start = len(talk.model.requests)
    how(talk, surface, child, sub, xdg, top)
    talk.roundtrip()
    said = [(kind, name) for kind, name, _ in talk.model.requests[start:]]
    assert popups(talk) == []
    assert not talk.core.promoted
    assert talk.sandbox.totals["popups"] == 0
    first = said.index(("xdg_popup", "destroy"))
    assert ("xdg_toplevel", "destroy") not in said[:first]
    assert said.index(("xdg_surface", "destroy")) == first + 1
    # And the rest may be shown, as before.
    if how is _unsub:
        talk.child(child, surface, 150, 60)
        talk.send(surface, "commit")
        assert len(popups(talk)) == 1


def test_a_window_may_be_shown_again_with_it(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    popover(talk, surface, 150, 60, 120, 80)
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.paint(surface, 200, 100, 0)
    talk.send(surface, "commit")
    talk.roundtrip()
    assert len(popups(talk)) == 1
    assert all(contained(*pair) for pair in guest_rects(talk))


def test_at_the_limit_of_popups_it_is_cropped():
    sandbox = Sandbox("work", {"popups": 1})
    with promoting(sandbox=sandbox) as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        popover(t, surface, 150, 60, 120, 80)
        popover(t, surface, -60, 10, 120, 80)
        assert len(popups(t)) == 1
        assert all(contained(*pair) for pair in guest_rects(t))
        t.send(surface, "commit")
        assert sandbox.refused["popups"] == 1, "said once"


def test_popups_that_are_closed_together_are_not_committed(talk):
    """sway 1.7 closes a menu with all on it, and ends who commits one of them."""
    surface, _, _ = talk.show(200, 100, 0)
    popover(talk, surface, 150, 60, 120, 80)
    popover(talk, surface, -90, 10, 120, 80)
    roles = [r.xdg.state["role"] for r in talk.model.roots()]
    menus = [role for role in roles if role.kind == "xdg_popup"]
    assert len(menus) == 2
    closed = [role.state["xdg"].state["surface"] for role in menus]

    def refuse(root) -> None:
        assert root not in closed, "xdg_surface has never been configured"

    for role in menus:
        talk.model.configure(role.state["xdg"])
    for role in menus:
        talk.model.tell(role, "popup_done")
    talk.model.on_root_commit = refuse
    talk.pump()
    assert popups(talk) == []
    assert ((4, 4, 200, 100), (154, 64, 50, 40)) in guest_rects(talk)


def test_part_of_closed_menu_is_not_committed(talk):
    """wlroots applies a commit that waits when the surface ends: sway 1.7 died of that."""
    _, window, _ = talk.show(200, 100, 0)
    surface, xdg, menu = popup(talk, window)
    talk.configured(xdg)
    talk.paint(surface, 60, 60, 0)
    talk.send(surface, "commit")
    popover(talk, surface, 40, 30, 120, 80)
    roles = [r.xdg.state["role"] for r in talk.model.roots()]
    closed = [role for role in roles if role.kind == "xdg_popup"]
    assert len(closed) == 2
    for role in reversed(closed):
        talk.model.tell(role, "popup_done")
    talk.pump()  # the model refuses commits that wait
    assert talk.heard("popup_done", menu)


def test_part_is_not_committed_before_its_popup_is_configured(talk, monkeypatch):
    surface, _, _ = talk.show(200, 100, 0)
    unconfigured = []
    with monkeypatch.context() as patch:
        patch.setattr(talk.model, "configure", unconfigured.append)
        child, _ = popover(talk, surface, 150, 60, 120, 80)
        part = talk.surface()
        talk.child(part, child, 0, 0)
        talk.paint(part, 10, 10, 0)
        talk.send(part, "commit")
        talk.send(child, "commit")
        talk.send(surface, "commit")  # the model refuses commits that wait
    (xdg,) = unconfigured
    talk.model.configure(xdg)
    talk.pump()
    ((size, _),) = popups(talk)
    assert size == (128, 88)
    assert talk.server_side(part).size() == (10, 10)


def test_parts_of_ended_window_are_shown_at_their_places_in_next_one(talk):
    surface, xdg, top = talk.show(200, 100, 0)
    for x, kind in ((10, "place_below"), (50, "place_above"), (90, "place_above")):
        part, sub = popover(talk, surface, x, 20, 30, 30)
        talk.send(sub, kind, surface)
        nested = talk.surface()
        talk.child(nested, part, 5, 5)
        talk.paint(nested, 9, 9, 0)
        talk.send(nested, "commit")
        talk.send(part, "commit")
        talk.send(surface, "commit")
    rects = guest_rects(talk)
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    subs = len(talk.told("wl_subsurface", "destroy"))
    talk.send(top, "destroy")
    assert len(talk.told("wl_subsurface", "destroy")) == subs + 6
    talk.send(xdg, "destroy")
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.paint(surface, 200, 100, 0)
    talk.send(surface, "commit")
    assert guest_rects(talk) == rects


def test_dismissed_it_is_cropped_until_it_comes_again(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    (role,) = [
        r.xdg.state["role"]
        for r in talk.model.roots()
        if r.xdg.state["role"].kind == "xdg_popup"
    ]
    talk.model.tell(role, "popup_done")
    talk.pump()
    assert popups(talk) == []
    assert ((4, 4, 200, 100), (154, 64, 50, 40)) in guest_rects(talk)
    talk.send(surface, "commit")
    assert popups(talk) == []
    talk.send(child, "attach", 0, 0, 0)
    talk.send(child, "commit")
    talk.send(surface, "commit")
    talk.paint(child, 120, 80, 0)
    talk.send(child, "commit")
    talk.send(surface, "commit")
    assert len(popups(talk)) == 1


@pytest.mark.parametrize("above", [True, False])
def test_back_in_its_window_it_lies_where_it_was_among_the_others(talk, above):
    surface, _, _ = talk.show(200, 100, 0)
    low, _ = popover(talk, surface, 0, 0, 10, 10)
    child, sub = popover(talk, surface, 150, 60, 120, 80)
    high, _ = popover(talk, surface, 20, 0, 10, 10)
    assert len(popups(talk)) == 1
    talk.send(sub, "place_above" if above else "place_below", low)
    talk.send(sub, "set_position", 0, 0)
    talk.send(surface, "commit")
    assert popups(talk) == []
    order = [s.oid for s in talk.server_side(surface).children]
    mine, its, last = (talk.server_side(s).oid for s in (child, low, high))
    assert order == ([its, mine, last] if above else [mine, its, last])


def test_a_sibling_may_be_placed_by_one_that_is_promoted(talk):
    surface, _, _ = talk.show(200, 100, 0)
    low, low_sub = popover(talk, surface, 0, 0, 10, 10)
    child, sub = popover(talk, surface, 150, 60, 120, 80)
    high, _ = popover(talk, surface, 20, 0, 10, 10)
    talk.send(low_sub, "place_above", child)
    talk.send(surface, "commit")
    talk.send(sub, "set_position", 0, 0)
    talk.send(surface, "commit")
    order = [s.oid for s in talk.server_side(surface).children]
    assert order == [talk.server_side(s).oid for s in (child, low, high)]


def test_one_below_its_window_stays_below(talk):
    surface, _, _ = talk.show(200, 100, 0)
    _, sub = popover(talk, surface, 150, 60, 120, 80)
    talk.send(sub, "place_below", surface)
    talk.send(sub, "set_position", 0, 0)
    talk.send(surface, "commit")
    parent = talk.server_side(surface)
    assert talk.told("wl_subsurface", "place_below")[-1] == [parent]


def test_the_pointer_on_it_is_told_in_its_own_coordinates(talk):
    surface, _, _ = talk.show(200, 100, 0)
    child, _ = popover(talk, surface, 150, 60, 120, 80)
    seat = talk.bind("wl_seat")
    pointer = talk.make(seat, "get_pointer", "wl_pointer")
    talk.model.tell(
        talk.server_side(pointer), "enter", 9, talk.server_side(child), 256, 512
    )
    talk.pump()
    assert talk.heard("enter", pointer) == [[9, child, 256, 512]]
    # Over its frame no client gets an event.
    (root,) = [r for r in talk.model.roots() if r.xdg.state["role"].kind == "xdg_popup"]
    talk.model.tell(talk.server_side(pointer), "leave", 10, talk.server_side(child))
    talk.model.tell(talk.server_side(pointer), "enter", 11, root, 0, 0)
    talk.model.tell(talk.server_side(pointer), "button", 12, 0, 0x110, 1)
    talk.pump()
    assert len(talk.heard("enter", pointer)) == 1
    assert talk.heard("button", pointer) == []
    assert talk.told("xdg_toplevel", "move") == []


def test_a_popup_s_own_children_stand_on_it(talk):
    _surface, xdg, _ = talk.show(200, 100, 0)
    menu, menu_xdg, role = popup(talk, xdg)
    talk.configured(menu_xdg)
    talk.paint(menu, 100, 60, 0)
    talk.send(menu, "commit")
    popover(talk, menu, 90, 60, 50, 50)
    assert len(popups(talk)) == 2
    start = len(talk.model.requests)
    talk.send(role, "destroy")
    ends = [a for k, n, a in talk.model.requests[start:] if n == "destroy"]
    assert ends
    assert popups(talk) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Rect(0, 0, 10, 10), False),
        (Rect(-500, -500, 2000, 2000), False),
        (Rect(0, 0, 100 - FAR, 100), False),
        (Rect(0, 0, 99 - FAR, 100), True),
    ],
)
def test_what_overhangs(content, expected):
    extent = (10, 10) if content.w == 10 else (100, 100)
    assert overhangs(extent, content) is expected


def test_a_wish_is_as_near_as_it_may_be(talk):
    _, xdg, _ = talk.show(200, 100, 0)
    window = talk.core.by_client[xdg]
    wish = wish_for(talk.core, window, (50, 30), Rect(-10_000, 0, 200, 100))
    assert wish == touching((208, 108), wish)


def test_what_is_not_shown_again_keeps_its_popup_until_it_is():
    """Without xdg_popup.reposition (sway 1.7) another place is another popup."""
    offers = [(i, 2 if i == "xdg_wm_base" else v) for i, v in GLOBALS]
    with promoting(model=Model(offers)) as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        _, sub = popover(t, surface, 150, 60, 120, 80)
        assert len(t.told("xdg_surface", "get_popup")) == 1
        answer = t.model.wl_surface_frame
        t.model.wl_surface_frame = lambda _surface, _callback: None
        t.send(sub, "set_position", 140, 50)
        t.send(surface, "commit")
        assert len(t.told("xdg_surface", "get_popup")) == 1
        *_, (asked,) = t.told("wl_surface", "frame")
        t.model.wl_surface_frame = answer
        t.model.tell(asked, "done", 1)
        t.pump()
        assert len(t.told("xdg_surface", "get_popup")) == 2
        assert len(popups(t)) == 1


def test_no_frame_is_committed_while_its_window_is_laid_out():
    """A part that is back in a larger window has its place, and the frame not its size."""
    offers = [(i, 2 if i == "xdg_wm_base" else v) for i, v in GLOBALS]
    with promoting(model=Model(offers)) as t:
        t.start()
        surface, _, _ = t.show(200, 100, 0)
        back, _ = popover(t, surface, 210, 60, 60, 80)
        _, other = popover(t, surface, 20, 60, 30, 500)
        assert len(popups(t)) == 2
        # The window is not drawn again, so the other popup cannot be moved yet.
        t.model.wl_surface_frame = lambda _surface, _callback: None
        guests = {t.server_side(one).oid for one in (surface, back)}
        judged = []

        def judge(root):
            # The filter is ahead of the compositor: what it knows is of the next commits.
            wide, high = root.size()
            judged.extend(
                (x >= 4 and y >= 4 and x + w <= wide - 4 and y + h <= high - 4)
                for oid, x, y, w, h in t.model.rects(root)
                if root.xdg is not None and oid in guests
            )

        t.model.on_root_commit = judge
        t.send(other, "set_position", 25, 60)
        t.paint(surface, 300, 200, 0)
        t.send(surface, "commit")
        assert len(popups(t)) == 1
        assert judged
        assert all(judged)
