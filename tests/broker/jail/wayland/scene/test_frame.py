"""Windows and their frames, judged on the model compositor."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import ProtocolFault
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.model import Model
from tests.kit.wayland.talk import Talk

MAXIMIZED, FULLSCREEN, ACTIVATED = 1, 2, 4


def guest_rects(
    talk: Talk,
) -> list[tuple[tuple[int, int, int, int], tuple[int, int, int, int]]]:
    """(content rectangle, guest rectangle) for all that guests show in windows."""
    found = []
    for root in talk.model.roots():
        own = talk.core.by_server[root.oid]
        promoted = own.alias.sub.promoted if own.alias.sub is not None else None
        frame = promoted.frame if promoted is not None else own.alias.xdg.frame
        edges = frame.edges
        x, y, w, h = 0, 0, *root.size()
        assert frame.outer == (w, h)
        content = (x + edges.left, y + edges.top, w - edges.wide, h - edges.high)
        for oid, *rect in talk.model.rects(root):
            if isinstance(talk.core.by_server.get(oid), Surface):
                found.append((content, tuple(rect)))
    return found


def contained(content, rect) -> bool:
    """Inside the content, or one pixel under the frame's corner."""
    cx, cy, cw, ch = content
    x, y, w, h = rect
    inside = cx <= x and cy <= y and x + w <= cx + cw and y + h <= cy + ch
    return inside or (x, y, w, h) == (cx - 1, cy - 1, 1, 1)


def test_a_window_is_its_content_plus_the_frame(talk):
    _, xdg, _ = talk.show(200, 100, 0xFF00FF00)
    server = talk.server_side(xdg)
    assert server.state["geometry"] == (0, 0, 208, 108)
    assert server.state["surface"].size() == (208, 108)
    assert guest_rects(talk) == [((4, 4, 200, 100), (4, 4, 200, 100))]


def test_strips_lie_above_the_guest_on_all_four_sides(talk):
    surface, _, _ = talk.show(200, 100, 0)
    (root,) = talk.model.roots()
    rects = talk.model.rects(root)
    guest = talk.core.by_client[surface].sid
    order = [r[0] for r in rects]
    assert order.index(guest) == 1
    strips = {tuple(r[1:]) for r in rects[2:]}
    assert strips == {
        (0, 0, 208, 4),
        (0, 104, 208, 4),
        (0, 4, 4, 100),
        (204, 4, 4, 100),
    }


def test_a_thicker_top_strip():
    with Talk(WindowRules("work", top=20)) as it:
        it.start().show(100, 50, 0)
        assert guest_rects(it) == [((4, 20, 100, 50), (4, 20, 100, 50))]


def test_the_frame_has_the_sandboxs_colour_and_takes_input():
    with Talk(WindowRules("work", color=0x123456)) as it:
        it.start().show(100, 50, 0)
        (paint,) = it.machine.paints
        assert bytes(paint.pixels[16384:16388]) == b"\x56\x34\x12\xff"
        (root,) = it.model.roots()
        assert "input" not in root.now, "the root takes input everywhere"


def test_an_opaque_frame_stands_behind_a_translucent_window():
    with Talk() as it:
        it.start().show(100, 50, 0)
        forms = [args[-1] for args in it.told("wl_shm_pool", "create_buffer")]
        assert forms.count(1) >= 3
        (root,) = it.model.roots()
        assert root.now["buffer"].state["size"] == (64, 64)


def test_content_is_cropped_to_its_window_geometry(talk):
    surface = talk.surface()
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.send(xdg, "set_window_geometry", 10, 20, 100, 50)
    talk.paint(surface, 300, 300, 0)
    talk.send(surface, "commit")
    assert guest_rects(talk) == [((4, 4, 100, 50), (4, 4, 100, 50))]
    server = talk.server_side(surface)
    assert server.now["source"] == (10 * 256, 20 * 256, 100 * 256, 50 * 256)
    assert talk.core.by_client[surface].cx == 10


def test_a_picture_of_less_than_a_pixel_is_let_through_alone(talk):
    """GTK's and Qt's placeholder, at scale 2."""
    surface = talk.surface()
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    talk.send(surface, "set_buffer_scale", 2)
    talk.paint(surface, 1, 1, 0)
    talk.send(surface, "commit")
    ((place, _shown),) = guest_rects(talk)
    assert place == (4, 4, 1, 1)


def test_a_crop_composes_with_scale_transform_and_viewport(talk):
    surface = talk.surface()
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    view = talk.make(talk.viewporter, "get_viewport", "wp_viewport", None, surface)
    talk.send(view, "set_destination", 400, 400)
    talk.send(surface, "set_buffer_scale", 2)
    talk.send(surface, "set_buffer_transform", 1)
    talk.send(xdg, "set_window_geometry", 100, 0, 300, 400)
    talk.paint(surface, 200, 400, 0)
    talk.send(surface, "commit")
    assert guest_rects(talk) == [((4, 4, 300, 400), (4, 4, 300, 400))]
    assert talk.server_side(surface).now["source"] == (
        50 * 256,
        0,
        150 * 256,
        100 * 256,
    )


def test_sizes_shrink_on_the_way_down_and_grow_on_the_way_up(talk):
    surface, xdg, top = talk.show(200, 100, 0)
    talk.model.configure(talk.server_side(xdg), 800, 600, (ACTIVATED,))
    talk.pump()
    w, h, states = talk.heard("configure", top)[-1]
    assert (w, h) == (792, 592)
    assert states == b"".join(n.to_bytes(4, "little") for n in (4, 8, 7, 6, 5))
    talk.model.configure(talk.server_side(xdg), 800, 600, (ACTIVATED, 5, 7))
    talk.pump()
    w, h, states = talk.heard("configure", top)[-1]
    assert states == b"".join(n.to_bytes(4, "little") for n in (4, 5, 6, 7, 8))
    talk.send(top, "set_min_size", 50, 0)
    talk.send(surface, "commit")
    assert talk.server_side(top).state["min"] == (58, 0)


@pytest.mark.parametrize(("told", "heard"), [(0, 0), (1, 1), (8, 1), (9, 1), (10, 2)])
def test_a_size_without_room_for_the_frame_is_one_pixel_and_none_stays_none(
    talk, told, heard
):
    _, xdg, top = talk.show(200, 100, 0)
    talk.model.configure(talk.server_side(xdg), told, told)
    talk.pump()
    assert talk.heard("configure", top)[-1][:2] == [heard, heard]


def test_a_resize_is_one_commit_of_the_root(talk):
    surface, _, _ = talk.show(200, 100, 0)
    talk.model.commits = 0
    talk.paint(surface, 300, 150, 0)
    talk.send(surface, "commit")
    assert talk.model.commits == 1
    assert guest_rects(talk) == [((4, 4, 300, 150), (4, 4, 300, 150))]


def test_a_larger_frame_leaves_the_memory_of_shown_pictures_where_it_is(talk):
    """wl_shm_pool.resize may move it, under a renderer that remembers where it was."""
    surface, _, _ = talk.show(200, 100, 0)
    pools = len(talk.told("wl_shm", "create_pool"))
    talk.core.palette.take(9000, 4)
    talk.paint(surface, 300, 100, 0)
    talk.send(surface, "commit")
    assert talk.told("wl_shm_pool", "resize") == []
    # The frame's larger one, and that of the client's own picture.
    assert len(talk.told("wl_shm", "create_pool")) == pools + 2


def test_a_state_is_answered_with_a_picture(talk):
    """weston 10 looks at state and size only when a picture comes with them."""

    def answer(w: int, h: int) -> int:
        serial = talk.model.configure(talk.server_side(xdg), w, h, (MAXIMIZED,))
        talk.pump()
        before = len(talk.told("wl_surface", "attach"))
        talk.send(xdg, "ack_configure", serial)
        talk.send(surface, "commit")
        talk.send(surface, "commit")
        return len(talk.told("wl_surface", "attach")) - before

    surface, xdg, _ = talk.show(200, 100, 0)
    assert answer(208, 108) == 1, "the frame's own"
    # Smaller than it was maximised to: weston would end its client.
    assert answer(800, 600) == 0
    before = len(talk.told("wl_surface", "attach"))
    talk.paint(surface, 300, 200, 0)
    talk.send(surface, "commit")
    assert len(talk.told("wl_surface", "attach")) == before + 5, "content and strips"
    talk.paint(surface, 792, 592, 0)
    talk.send(surface, "commit")
    assert len(talk.told("wl_surface", "attach")) == before + 11, "and the frame's own"


@pytest.mark.parametrize("mode", list(Fullscreen))
def test_unacknowledged_configures_are_forgotten(mode):
    with Talk(WindowRules("work", fullscreen=mode)) as it:
        _, xdg, top = it.start().show(200, 100, 0)
        for _ in range(2 * limits.WAYLAND_SERIALS):
            for state in (MAXIMIZED, FULLSCREEN):
                it.model.configure(it.server_side(xdg), 800, 600, (state,))
        it.pump()
        role = it.core.by_client[top]
        most = limits.WAYLAND_SERIALS + 1
        assert len(role.told_maximized) <= most
        assert len(role.told_edges) <= most


def test_the_acknowledgement_waits_for_the_commit_that_answers_it(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = talk.model.configure(talk.server_side(xdg), 800, 600)
    talk.pump()
    before = len(talk.told("xdg_surface", "ack_configure"))
    talk.send(xdg, "ack_configure", serial)
    assert len(talk.told("xdg_surface", "ack_configure")) == before
    talk.send(surface, "commit")
    assert talk.told("xdg_surface", "ack_configure")[-1] == [serial]


def test_our_own_commits_never_flush_half_of_a_clients_state(talk):
    """A desynchronised child commits while its parent's new size is pending."""
    parent, xdg, _ = talk.show(200, 100, 0)
    child = talk.surface()
    sub = talk.child(child, parent, 5, 5)
    talk.send(sub, "set_desync")
    talk.paint(child, 20, 20, 0)
    talk.send(child, "commit")
    talk.send(parent, "commit")
    talk.paint(parent, 700, 700, 0)
    talk.send(xdg, "set_window_geometry", 0, 0, 700, 700)
    talk.paint(child, 30, 30, 0)
    talk.send(child, "commit")
    assert talk.server_side(parent).size() == (200, 100)
    assert talk.server_side(child).size() == (30, 30)
    talk.send(parent, "commit")
    assert talk.server_side(parent).size() == (700, 700)


def test_a_synchronised_child_waits_for_its_parent(talk):
    parent, _, _ = talk.show(200, 100, 0)
    child = talk.surface()
    talk.child(child, parent, 5, 5)
    talk.paint(child, 20, 20, 0)
    talk.send(child, "commit")
    assert talk.server_side(child).size() is None
    talk.send(parent, "commit")
    assert ((4, 4, 200, 100), (9, 9, 20, 20)) in guest_rects(talk)


def test_a_child_outside_is_cropped_and_its_own_child_stays_in_place(talk):
    parent, _, _ = talk.show(200, 100, 0)
    outside, inside = talk.surface(), talk.surface()
    talk.child(outside, parent, -50, -50)
    talk.child(inside, outside, 60, 60)
    for surface, size in ((outside, 40), (inside, 20)):
        talk.paint(surface, size, size, 0)
    talk.send(inside, "commit")
    talk.send(outside, "commit")
    talk.send(parent, "commit")
    rects = [r for _, r in guest_rects(talk)]
    assert (3, 3, 1, 1) in rects
    assert (14, 14, 20, 20) in rects


def test_unmapping_takes_frame_and_content_away_at_once(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    talk.model.commits = 0
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    assert talk.model.roots() == []
    assert talk.model.commits == 1
    # Showing it again begins with a configure, and with its name.
    titles = len(talk.told("xdg_toplevel", "set_title"))
    talk.send(surface, "commit")
    talk.configured(xdg)
    assert len(talk.told("xdg_toplevel", "set_title")) == titles + 1
    talk.paint(surface, 50, 50, 0)
    talk.send(surface, "commit")
    assert guest_rects(talk) == [((4, 4, 50, 50), (4, 4, 50, 50))]


def test_windows_come_and_go_without_leaving_objects(talk):
    def one() -> int:
        surface, xdg, top = talk.show(200, 100, 0)
        talk.send(top, "destroy")
        talk.send(xdg, "destroy")
        talk.send(surface, "destroy")
        # The test's own buffers stay.
        return sum(
            o.interface != "wl_buffer" or not o.cid
            for o in talk.core.by_server.values()
        )

    one()  # makes what all windows share
    before = one()
    for _ in range(3):
        assert one() == before


def test_a_surface_destroyed_before_its_window_leaves_no_picture(talk):
    talk.send(talk.compositor, "create_region", talk.new("wl_region"))
    surface, xdg, top = talk.show(200, 100, 0)
    talk.send(surface, "destroy")
    assert talk.model.roots() == []
    talk.send(top, "destroy")
    talk.send(xdg, "destroy")


def _asked(it: Talk, count: int) -> list[str]:
    """The last requests of windows that reached the compositor."""
    names = [name for kind, name, _ in it.model.requests if kind == "xdg_toplevel"]
    return names[-count:]


@pytest.mark.parametrize(
    ("fullscreen", "request_sent"),
    [
        (Fullscreen.FAKE, "set_maximized"),
        (Fullscreen.FRAMED, "set_fullscreen"),
        (Fullscreen.REAL, "set_fullscreen"),
    ],
)
def test_fullscreen_is_what_the_record_says(fullscreen, request_sent):
    with Talk(WindowRules("work", fullscreen=fullscreen)) as it:
        surface, xdg, top = it.start().show(200, 100, 0)
        it.all_hear("wl_keyboard", "enter", 5, it.model.roots()[0], b"")
        it.send(top, "set_fullscreen", 0)
        assert _asked(it, 1) == [request_sent]
        states = (MAXIMIZED,) if fullscreen is Fullscreen.FAKE else (FULLSCREEN,)
        it.model.configure(it.server_side(xdg), 1280, 800, states)
        it.pump()
        w, h, told = it.heard("configure", top)[-1]
        assert told[:4] == FULLSCREEN.to_bytes(4, "little"), (
            "the application believes it is fullscreen"
        )
        assert (w, h) == ((1280, 800) if fullscreen is Fullscreen.REAL else (1272, 792))
        it.configured(xdg)
        it.configured(xdg) if it.heard("configure", xdg) else None
        it.paint(surface, w, h, 0)
        it.send(surface, "commit")
        edge = 0 if fullscreen is Fullscreen.REAL else 4
        assert guest_rects(it) == [((edge, edge, w, h), (edge, edge, w, h))]


@pytest.mark.parametrize("fullscreen", [Fullscreen.FRAMED, Fullscreen.REAL])
def test_without_the_keyboard_fullscreen_is_a_maximised_window(fullscreen):
    """And really so when it is asked for with it; also before the window is shown."""
    with Talk(WindowRules("work", fullscreen=fullscreen)) as it:
        _, _, top = it.start().show(200, 100, 0)
        it.send(top, "set_fullscreen", 0)
        assert _asked(it, 1) == ["set_maximized"]
        it.all_hear("wl_keyboard", "enter", 5, it.model.roots()[0], b"")
        it.send(top, "set_fullscreen", 0)
        assert _asked(it, 2) == ["unset_maximized", "set_fullscreen"]
        coming = it.make(it.shell, "get_xdg_surface", "xdg_surface", None, it.surface())
        new = it.make(coming, "get_toplevel", "xdg_toplevel")
        it.all_hear("wl_keyboard", "leave", 6, it.model.roots()[0])
        it.send(new, "set_fullscreen", 0)
        assert _asked(it, 1) == ["set_fullscreen"]


class Hiding(Model):
    """A compositor that draws no window."""

    def wl_surface_frame(self, surface, callback) -> None:
        """Answer nothing, as for windows of another workspace."""


@pytest.mark.parametrize("away", [False, True])
def test_a_hidden_window_that_asked_with_the_keyboard_takes_none_when_it_is_shown(away):
    """Its user has turned to another program meanwhile, beside which it is shown."""
    rules = WindowRules("work", fullscreen=Fullscreen.REAL)
    with Talk(rules, model=Hiding()) as it:
        it.start().show(200, 100, 0)
        _, _, hidden = it.show(200, 100, 0)
        front, _behind = it.model.roots()
        it.all_hear("wl_keyboard", "enter", 5, front, b"")
        it.send(hidden, "set_fullscreen", 0)
        assert "set_fullscreen" not in _asked(it, 9)
        if away:
            it.all_hear("wl_keyboard", "leave", 6, front)
        (drawn,) = it.told("wl_surface", "frame")[-1]
        it.model.tell(drawn, "done", 1)
        it.pump()
        assert _asked(it, 1) == ["set_maximized" if away else "set_fullscreen"]


def test_titles_carry_the_sandboxs_name_and_nothing_hidden(talk):
    surface, _, top = talk.show(200, 100, 0)
    assert talk.server_side(top).state["title"] == b"[work]"
    talk.send(top, "set_title", "[vault] \u202egnp.exe\u200b\n".encode())
    assert talk.server_side(top).state["title"] == b"[work] [vault] gnp.exe"
    talk.send(top, "set_app_id", b"org.evil (a|b)")
    assert talk.server_side(top).state["app_id"] == b"vitrail.work.org.evil__a_b_"
    del surface


# -- state machine -------------------------------------------------------------------


def _second_role(t: Talk) -> None:
    surface, xdg, _ = t.show(10, 10, 0)
    t.make(xdg, "get_toplevel", "xdg_toplevel")
    del surface


def _xdg_first(t: Talk) -> None:
    _, xdg, _ = t.show(10, 10, 0)
    t.send(xdg, "destroy")


def _base_first(t: Talk) -> None:
    t.show(10, 10, 0)
    t.send(t.shell, "destroy")


def _unconfigured(t: Talk) -> None:
    surface = t.surface()
    t.toplevel(surface)
    t.paint(surface, 10, 10, 0)
    t.send(surface, "commit")


def _no_role(t: Talk) -> None:
    surface = t.surface()
    t.make(t.shell, "get_xdg_surface", "xdg_surface", None, surface)
    t.send(surface, "commit")


def _buffer_before_window(t: Talk) -> None:
    surface = t.surface()
    t.paint(surface, 10, 10, 0)
    t.send(surface, "commit")
    t.toplevel(surface)


def _two_roles(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    t.child(surface, t.surface(), 0, 0)


def _loop(t: Talk) -> None:
    one, two = t.surface(), t.surface()
    t.child(one, two, 0, 0)
    t.child(two, one, 0, 0)


def _self_child(t: Talk) -> None:
    one = t.surface()
    t.child(one, one, 0, 0)


def _stranger_sibling(t: Talk) -> None:
    one, two, three = t.surface(), t.surface(), t.surface()
    sub = t.child(one, two, 0, 0)
    t.send(sub, "place_above", three)


def _window_sibling(t: Talk) -> None:
    """Above the strips would be above the frame: only siblings may be named."""
    surface, _, _ = t.show(10, 10, 0)
    child, other = t.surface(), t.surface()
    sub = t.child(child, surface, 0, 0)
    t.send(sub, "place_above", other)


def _foreign_serial(t: Talk) -> None:
    _, xdg, _ = t.show(10, 10, 0)
    t.send(xdg, "ack_configure", 4711)


def _own_parent(t: Talk) -> None:
    _, _, top = t.show(10, 10, 0)
    t.send(top, "set_parent", top)


def _negative_size(t: Talk) -> None:
    _, _, top = t.show(10, 10, 0)
    t.send(top, "set_min_size", -5, 1)


def _crossed_limits(t: Talk) -> None:
    surface, _, top = t.show(10, 10, 0)
    t.send(top, "set_min_size", 100, 100)
    t.send(top, "set_max_size", 50, 50)
    t.send(surface, "commit")


def _attach_offset(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    t.send(surface, "attach", t.buffer(5, 5), 3, 0)


def _bad_scale(t: Talk) -> None:
    t.send(t.surface(), "set_buffer_scale", limits.WAYLAND_SCALE + 1)


def _smaller_than_its_scale(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    t.send(surface, "set_buffer_scale", 2)
    t.paint(surface, 1, 900, 0)
    t.send(surface, "commit")


def _part_of_a_pixel_stretched(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    view = t.make(t.viewporter, "get_viewport", "wp_viewport", None, surface)
    t.send(view, "set_destination", 100, 100)
    t.send(surface, "set_buffer_scale", 2)
    t.paint(surface, 1, 1, 0)
    t.send(surface, "commit")


def _bad_transform(t: Talk) -> None:
    t.send(t.surface(), "set_buffer_transform", 8)


def _viewport_outside(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    view = t.make(t.viewporter, "get_viewport", "wp_viewport", None, surface)
    t.send(view, "set_source", 0, 0, 11 * 256, 256)
    t.send(surface, "commit")


def _viewport_twice(t: Talk) -> None:
    surface = t.surface()
    for _ in range(2):
        t.make(t.viewporter, "get_viewport", "wp_viewport", None, surface)


def _viewport_orphan(t: Talk) -> None:
    surface = t.surface()
    view = t.make(t.viewporter, "get_viewport", "wp_viewport", None, surface)
    t.send(surface, "destroy")
    t.send(view, "set_destination", 5, 5)


def _fractional_without_size(t: Talk) -> None:
    surface, _, _ = t.show(10, 10, 0)
    view = t.make(t.viewporter, "get_viewport", "wp_viewport", None, surface)
    t.send(view, "set_source", 0, 0, 300, 300)
    t.send(surface, "commit")


def _popup_without_parent(t: Talk) -> None:
    positioner = t.make(t.shell, "create_positioner", "xdg_positioner")
    xdg = t.make(t.shell, "get_xdg_surface", "xdg_surface", None, t.surface())
    t.make(xdg, "get_popup", "xdg_popup", None, 0, positioner)


def _incomplete_positioner(t: Talk) -> None:
    _, parent, _ = t.show(10, 10, 0)
    positioner = t.make(t.shell, "create_positioner", "xdg_positioner")
    xdg = t.make(t.shell, "get_xdg_surface", "xdg_surface", None, t.surface())
    t.make(xdg, "get_popup", "xdg_popup", None, parent, positioner)


def _pool_shrinks(t: Talk) -> None:
    pool = t.make(t.shm, "create_pool", "wl_shm_pool", None, 4096, fds=[t.machine.fd()])
    t.send(pool, "resize", 4095)


def _huge_pool(t: Talk) -> None:
    t.make(
        t.shm,
        "create_pool",
        "wl_shm_pool",
        None,
        limits.WAYLAND_POOL_BYTES + 1,
        fds=[t.machine.fd()],
    )


def _short_file(t: Talk) -> None:
    t.machine.largest = 100
    t.make(t.shm, "create_pool", "wl_shm_pool", None, 4096, fds=[t.machine.fd()])


def _buffer_beyond_pool(t: Talk) -> None:
    pool = t.make(t.shm, "create_pool", "wl_shm_pool", None, 4096, fds=[t.machine.fd()])
    t.make(pool, "create_buffer", "wl_buffer", None, 4, 32, 32, 128, 0)


def _wide_buffer(t: Talk) -> None:
    width = limits.WAYLAND_BUFFER_SIDE + 1
    pool = t.make(
        t.shm, "create_pool", "wl_shm_pool", None, width * 4, fds=[t.machine.fd()]
    )
    t.make(pool, "create_buffer", "wl_buffer", None, 0, width, 1, width * 4, 0)


def _buffer_overflow(t: Talk) -> None:
    pool = t.make(t.shm, "create_pool", "wl_shm_pool", None, 4096, fds=[t.machine.fd()])
    t.make(pool, "create_buffer", "wl_buffer", None, 0, 1 << 30, 1 << 30, 4, 0)


@pytest.mark.parametrize(
    "crime",
    [
        _second_role, _xdg_first, _base_first, _unconfigured, _no_role, _buffer_before_window, _two_roles,
        _loop, _self_child, _stranger_sibling, _window_sibling, _foreign_serial, _own_parent, _negative_size,
        _crossed_limits, _attach_offset, _bad_scale, _bad_transform, _viewport_outside, _viewport_twice,
        _smaller_than_its_scale, _part_of_a_pixel_stretched,
        _viewport_orphan, _fractional_without_size, _popup_without_parent, _incomplete_positioner,
        _pool_shrinks, _huge_pool, _short_file, _buffer_beyond_pool, _buffer_overflow, _wide_buffer,
    ],
)  # fmt: skip
def test_breaking_the_protocol_never_reaches_the_compositor(talk, crime):
    with pytest.raises(ServerError):
        crime(talk)
    assert isinstance(talk.core.fault, ProtocolFault), "refused, not stumbled over"


# -- popups -------------------------------------------------------------------------------


def popup(
    t: Talk,
    parent: int,
    size=(100, 60),
    rect=(0, 0, 10, 10),
    offset=(0, 0),
    anchor=0,
    gravity=0,
    adjustment=0,
):
    positioner = t.make(t.shell, "create_positioner", "xdg_positioner")
    t.send(positioner, "set_size", *size)
    t.send(positioner, "set_anchor_rect", *rect)
    t.send(positioner, "set_anchor", anchor)
    t.send(positioner, "set_gravity", gravity)
    t.send(positioner, "set_constraint_adjustment", adjustment)
    t.send(positioner, "set_offset", *offset)
    surface = t.surface()
    xdg = t.make(t.shell, "get_xdg_surface", "xdg_surface", None, surface)
    made = t.make(xdg, "get_popup", "xdg_popup", None, parent, positioner)
    t.send(positioner, "destroy")
    t.send(surface, "commit")
    return surface, xdg, made


def test_a_popup_is_framed_like_a_window(talk):
    _, parent, _ = talk.show(200, 100, 0)
    surface, xdg, made = popup(talk, parent)
    talk.configured(xdg)
    talk.paint(surface, 100, 60, 0)
    talk.send(surface, "commit")
    assert ((4, 4, 100, 60), (4, 4, 100, 60)) in guest_rects(talk)
    assert talk.heard("configure", made) == [[5, 6, 100, 60]]


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    rect=st.tuples(
        st.integers(-4000, 4000),
        st.integers(-4000, 4000),
        st.integers(0, 4000),
        st.integers(0, 4000),
    ),
    offset=st.tuples(
        st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)
    ),
    anchor=st.integers(0, 8),
    gravity=st.integers(0, 8),
    adjustment=st.integers(0, 127),
)
def test_every_popup_touches_its_parent(
    size, rect, offset, anchor, gravity, adjustment
):
    with Talk() as it:
        _, parent, _ = it.start().show(200, 100, 0)
        _, _, made = popup(it, parent, size, rect, offset, anchor, gravity, adjustment)
        state = it.server_side(made).state["positioner"]
        assert state["adjustment"] == adjustment & 63 | 3, "as asked, and it may slide"
        w, h = state["size"]
        assert w <= 1280 * 0.9
        assert h <= 800 * 0.9
        x, y, rw, rh = state["rect"]
        assert x >= 0
        assert y >= 0
        assert x + rw <= 208 + 1
        assert y + rh <= 108 + 1
        ax = (
            x if anchor in {3, 5, 6} else x + rw if anchor in {4, 7, 8} else x + rw // 2
        )
        ay = (
            y if anchor in {1, 5, 7} else y + rh if anchor in {2, 6, 8} else y + rh // 2
        )
        px = (
            ax - w
            if gravity in {3, 5, 6}
            else ax
            if gravity in {4, 7, 8}
            else ax - w // 2
        )
        py = (
            ay - h
            if gravity in {1, 5, 7}
            else ay
            if gravity in {2, 6, 8}
            else ay - h // 2
        )
        px, py = px + state["offset"][0], py + state["offset"][1]
        assert -w <= px <= 208
        assert -h <= py <= 108


def test_a_popup_larger_than_it_said_is_cropped(talk):
    _, parent, _ = talk.show(200, 100, 0)
    surface, xdg, _ = popup(talk, parent)
    talk.configured(xdg)
    talk.paint(surface, 5000, 5000, 0)
    talk.send(surface, "commit")
    assert talk.server_side(surface).parent.size() == (108, 68)


def test_a_popup_grows_by_acknowledged_sizes_only(talk):
    """Until then the compositor has it where the smaller one stays on the screen."""

    def grow() -> tuple[int, int]:
        talk.paint(surface, 300 + len(talk.model.requests), 200, 0)
        talk.send(surface, "commit")
        return talk.server_side(surface).parent.size()

    _, parent, _ = talk.show(200, 100, 0)
    surface, xdg, made = popup(talk, parent)
    talk.configured(xdg)
    assert grow() == (108, 68)
    positioner = talk.make(talk.shell, "create_positioner", "xdg_positioner")
    talk.send(positioner, "set_size", 180, 90)
    talk.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
    talk.send(made, "reposition", positioner, 7)
    assert grow() == (108, 68), "not agreed by the client"
    serial = talk.model.configure(talk.server_side(xdg))
    talk.pump()
    assert grow() == (108, 68), "it has not acknowledged"
    talk.send(xdg, "ack_configure", serial)
    assert grow() == (188, 98)
    for _ in range(2 * limits.WAYLAND_SERIALS):
        talk.model.configure(talk.server_side(xdg))
    talk.pump()
    assert len(talk.core.by_client[made].told) <= limits.WAYLAND_SERIALS + 1


def test_a_grab_needs_a_serial_that_was_delivered(talk):
    seat = talk.bind("wl_seat")
    _, parent, _ = talk.show(200, 100, 0)
    _, _, made = popup(talk, parent)
    talk.send(made, "grab", seat, 12345)
    assert talk.heard("popup_done", made) == [[]]
    assert talk.told("xdg_popup", "grab") == []


def test_a_popup_under_another_cannot_go_first(talk):
    _, parent, _ = talk.show(200, 100, 0)
    _, lower, made = popup(talk, parent)
    popup(talk, lower)
    with pytest.raises(ServerError):
        talk.send(made, "destroy")


@pytest.mark.parametrize("extra", [0, 1])
def test_popups_nest_only_so_deep(talk, extra):
    _, parent, _ = talk.show(200, 100, 0)
    for _ in range(limits.WAYLAND_POPUP_DEPTH):
        _, parent, _ = popup(talk, parent)
    if extra:
        with pytest.raises(ServerError):
            popup(talk, parent)


# -- buffers --------------------------------------------------------------------------------


def test_a_buffer_destroyed_before_its_commit_is_still_shown(talk):
    surface, _, _ = talk.show(200, 100, 0)
    buffer = talk.paint(surface, 50, 60, 0)
    talk.send(buffer, "destroy")
    talk.send(surface, "commit")
    assert talk.server_side(surface).size() == (50, 60)
    assert [buffer] in talk.heard("delete_id")


def test_a_pools_file_lives_until_its_last_buffer_is_gone(talk):
    buffer = talk.buffer(10, 10)
    pool = talk.machine.pools[-1]
    assert not pool.closed
    talk.send(buffer, "destroy")
    assert pool.closed


# -- cursors ----------------------------------------------------------------------------------


def test_a_cursor_is_cropped_and_its_hotspot_kept_inside(talk):
    seat = talk.bind("wl_seat")
    pointer = talk.make(seat, "get_pointer", "wl_pointer")
    surface, _, _ = talk.show(200, 100, 0)
    server_pointer = talk.server_side(pointer)
    talk.model.tell(server_pointer, "enter", 55, talk.server_side(surface), 0, 0)
    talk.pump()
    cursor = talk.surface()
    talk.paint(cursor, 400, 300, 0)
    talk.send(cursor, "commit")
    talk.send(pointer, "set_cursor", 55, cursor, 200, -9)
    server = talk.server_side(cursor)
    assert server.size() == (64, 64)
    assert server.state["hot"] == (63, 0)
    talk.send(cursor, "commit")


def test_a_cursor_needs_a_serial_that_was_delivered(talk):
    seat = talk.bind("wl_seat")
    pointer = talk.make(seat, "get_pointer", "wl_pointer")
    talk.send(pointer, "set_cursor", 9, 0, 0, 0)
    assert talk.told("wl_pointer", "set_cursor") == []


def test_a_cursors_offsets_go_nowhere():
    with Talk() as it:
        it.start(compositor=4)
        pointer = it.make(it.bind("wl_seat"), "get_pointer", "wl_pointer")
        surface, _, _ = it.show(200, 100, 0)
        it.model.tell(
            it.server_side(pointer), "enter", 55, it.server_side(surface), 0, 0
        )
        it.pump()
        cursor = it.surface()
        it.send(pointer, "set_cursor", 55, cursor, 0, 0)
        for _ in range(20):
            it.send(pointer, "set_cursor", 54, cursor, 63, 63)  # refused
            it.send(cursor, "attach", it.buffer(8, 8), -40, 0)
            it.send(cursor, "commit")
        assert all(args[1:] == [0, 0] for args in it.told("wl_surface", "attach"))


def test_a_region_is_shifted_with_the_crop(talk):
    surface = talk.surface()
    xdg, _ = talk.toplevel(surface)
    talk.send(surface, "commit")
    talk.configured(xdg)
    region = talk.make(talk.compositor, "create_region", "wl_region")
    talk.raw(emit.region_add(region, 10, 20, 30, 40))
    talk.send(surface, "set_input_region", region)
    talk.send(region, "destroy")
    talk.send(xdg, "set_window_geometry", 10, 20, 100, 50)
    talk.paint(surface, 300, 300, 0)
    talk.send(surface, "commit")
    assert talk.server_side(surface).now["input"] == [("add", 0, 0, 30, 40)]


def test_an_acknowledgement_that_crossed_the_unmapping_is_forgiven(talk):
    surface, xdg, _ = talk.show(200, 100, 0)
    serial = talk.model.configure(talk.server_side(xdg), 800, 600)
    talk.pump()
    talk.send(surface, "attach", 0, 0, 0)
    talk.send(surface, "commit")
    before = len(talk.told("xdg_surface", "ack_configure"))
    talk.send(xdg, "ack_configure", serial)
    assert len(talk.told("xdg_surface", "ack_configure")) == before


def test_an_attach_offset_of_a_window_goes_nowhere():
    with Talk() as it:
        surface, _, _ = it.start(compositor=4).show(100, 100, 0)
        it.send(surface, "attach", it.buffer(100, 100), -80, -80)
        it.send(surface, "commit")
        assert it.told("wl_surface", "attach")[-2:] != []
        assert all(args[1:] == [0, 0] for args in it.told("wl_surface", "attach"))


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ((), [50, 60, 10, 10]),
        (("set_buffer_scale", 2), [100, 120, 20, 20]),
        (("set_buffer_transform", 1), [0, 0, 32000, 32000]),
    ],
)
@pytest.mark.parametrize("version", [3, 4])
def test_damage_of_cropped_content_is_told_in_its_buffer_s_pixels(
    prepare, expected, version
):
    """wlroots 0.18 takes the crop's origin off a surface's damage twice."""
    with Talk() as it:
        surface, xdg, _ = it.start(compositor=version).show(400, 400, 0)
        it.send(xdg, "set_window_geometry", 20, 30, 100, 100)
        if prepare:
            it.send(surface, *prepare)
        it.paint(surface, 400, 400, 0)
        it.send(surface, "commit")
        before = len(it.told("wl_surface", "damage"))
        it.send(surface, "damage", 50, 60, 10, 10)
        it.send(surface, "commit")
        assert it.told("wl_surface", "damage_buffer")[-1] == expected
        assert len(it.told("wl_surface", "damage")) == before
        # The request is one of version 4, whatever the client has bound.
        bound = it.told("wl_registry", "bind")
        versions = [args[2] for args in bound if args[1] == b"wl_compositor"]
        assert versions == [4, 4]


# -- what adds up, and what nobody can check --------------------------------------------


def test_a_child_that_commits_for_ever_holds_a_bounded_state(talk):
    """Its commits wait for a parent that never commits."""
    parent, _, _ = talk.show(200, 100, 0)
    child = talk.surface()
    talk.child(child, parent, 0, 0)
    for n in range(3 * limits.WAYLAND_DAMAGE):
        talk.send(child, "damage", n, 0, 1, 1)
        talk.send(child, "damage_buffer", n, 0, 1, 1)
        talk.send(child, "commit")
    held = talk.core.by_client[child].cached
    assert len(held.damage) <= limits.WAYLAND_DAMAGE
    assert len(held.buffer_damage) <= limits.WAYLAND_DAMAGE
    talk.send(parent, "commit")
    assert talk.core.fault is None


@pytest.mark.parametrize("extra", [0, 1])
def test_moves_of_grandchildren_that_wait_are_bounded(talk, extra):
    parent, _, _ = talk.show(200, 100, 0)
    child, grandchild = talk.surface(), talk.surface()
    talk.child(child, parent, 0, 0)
    sub = talk.child(grandchild, child, 0, 0)
    talk.send(child, "commit")

    def act() -> None:
        for n in range(limits.WAYLAND_CHILD_OPS - 1 + extra):
            talk.send(sub, "set_position", n, 0)
            talk.send(child, "commit")

    if extra:
        with pytest.raises(ServerError, match="never shown"):
            act()
    else:
        act()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_region_with_too_many_rectangles_becomes_the_one_around_them(talk, extra):
    surface, _, _ = talk.show(200, 100, 0)
    region = talk.make(talk.compositor, "create_region", "wl_region")
    count = limits.WAYLAND_SURFACE_RECTS + extra
    for n in range(count):
        talk.send(region, "add", n, 2 * n, 1, 1)
    talk.send(surface, "set_input_region", region)
    before = len(talk.told("wl_region", "add"))
    talk.send(surface, "commit")
    sent = talk.told("wl_region", "add")[before:]
    assert len(sent) == (1 if extra else count)
    if extra:
        assert sent == [[0, 0, count, 2 * count - 1]]


@pytest.mark.parametrize("translucent", [False, True])
def test_a_claim_to_be_opaque_is_only_passed_on_where_it_may_be_wrong(translucent):
    """Translucent pixels under it would show the earlier picture."""
    with Talk(WindowRules("work", translucent=translucent)) as it:
        surface, _, _ = it.start().show(200, 100, 0)
        region = it.make(it.compositor, "create_region", "wl_region")
        it.send(region, "add", 0, 0, 200, 100)
        it.send(surface, "set_opaque_region", region)
        it.send(surface, "commit")
        assert bool(it.told("wl_surface", "set_opaque_region")) is translucent


def test_no_window_is_larger_than_the_screen(talk):
    """Its frame could lie beyond every edge: that is fullscreen without a frame."""
    surface, xdg, _ = talk.show(200, 100, 0)
    talk.paint(surface, 3000, 2000, 0)
    talk.send(surface, "commit")
    assert talk.server_side(xdg).state["geometry"] == (0, 0, 1280, 800)
    assert guest_rects(talk) == [((4, 4, 1272, 792), (4, 4, 1272, 792))]


@pytest.mark.parametrize("version", [1, 4])
def test_a_window_comes_no_larger_than_the_space_beside_the_panel(version):
    """KWin centres a window, so that the name of a higher one is above the screen."""
    with Talk() as it:
        it.start(shell=version)
        surface = it.surface()
        xdg, top = it.toplevel(surface)
        shown, window = it.server_side(xdg), it.server_side(top)
        it.model.tell(window, "configure_bounds", 1280, 756)
        it.send(surface, "commit")
        it.configured(xdg)
        assert [b[-2] for b in it.told("wl_registry", "bind")].count(4)
        told = [[1272, 748]] if version >= 4 else []
        assert it.heard("configure_bounds", top) == told

        def draw() -> tuple[int, int, int, int]:
            it.paint(surface, 1000, 900, 0)
            it.send(surface, "commit")
            return shown.state["geometry"]

        assert draw() == (0, 0, 1008, 756)
        assert draw() == (0, 0, 1008, 756), "the program has not answered"
        serial = it.model.configure(shown, 1008, 756)
        it.pump()
        it.send(xdg, "ack_configure", serial)
        assert draw() == (0, 0, 1008, 800), "the program wants more, and is placed"
        it.send(surface, "attach", 0, 0, 0)
        it.send(surface, "commit")
        it.send(surface, "commit")
        it.send(xdg, "ack_configure", it.heard("configure", xdg)[-1][0])
        assert draw() == (0, 0, 1008, 756), "it comes again"


def test_the_compositor_may_make_a_window_larger_than_its_bounds():
    with Talk() as it:
        it.start()
        surface = it.surface()
        xdg, top = it.toplevel(surface)
        it.model.tell(it.server_side(top), "configure_bounds", 1280, 756)
        it.send(surface, "commit")
        serial = it.model.configure(it.server_side(xdg), 1280, 800, (MAXIMIZED,))
        it.pump()
        it.send(xdg, "ack_configure", serial)
        it.paint(surface, 1272, 792, 0)
        it.send(surface, "commit")
        assert it.server_side(xdg).state["geometry"] == (0, 0, 1280, 800)


def test_an_old_program_is_told_no_states_that_it_does_not_know():
    """Its window is bound at a newer version at the compositor."""
    with Talk() as it:
        it.start(shell=1)
        _, xdg, top = it.show(200, 100, 0)
        it.model.configure(it.server_side(xdg), 640, 700, (ACTIVATED, 5, 6, 7, 8))
        it.pump()
        width, height, states = it.heard("configure", top)[-1]
        assert (width, height) == (632, 692)
        # Of its exact size, which sway tells such a program in the same way.
        assert states == struct.pack("=2I", MAXIMIZED, ACTIVATED)
        it.model.configure(it.server_side(xdg), 640, 700, (ACTIVATED, 5, 6))
        it.pump()
        assert it.heard("configure", top)[-1][2] == struct.pack("=I", ACTIVATED)


def test_the_compositor_may_make_a_window_larger_than_a_screen(talk):
    """A person may stretch a window over two screens."""
    surface, xdg, top = talk.show(200, 100, 0)
    server = talk.server_side(top)
    talk.model.tell(server, "configure", 2568, 700, b"")
    talk.server_side(xdg).state["serials"].append(77)
    talk.model.tell(talk.server_side(xdg), "configure", 77)
    talk.pump()
    talk.send(xdg, "ack_configure", 77)
    talk.paint(surface, 3000, 2000, 0)
    talk.send(surface, "commit")
    assert talk.server_side(xdg).state["geometry"] == (0, 0, 2568, 800)


@pytest.mark.parametrize("far", [False, True])
def test_a_popup_that_its_parent_shrinks_away_from_is_hidden(talk, far):
    """Placed beside a wide window, it would stay alone on the screen."""
    surface, xdg, _ = talk.show(900, 100, 0)
    menu, made, role = popup(talk, xdg, (100, 60))
    place = (850, 10) if far else (5, 10)
    talk.model.tell(talk.server_side(role), "configure", *place, 108, 68)
    serial = talk.model.serial = talk.model.serial + 1
    talk.server_side(made).state["serials"].append(serial)
    talk.model.tell(talk.server_side(made), "configure", serial)
    talk.pump()
    talk.send(made, "ack_configure", serial)
    talk.paint(menu, 100, 60, 0)
    talk.send(menu, "commit")
    assert len(talk.model.roots()) == 2
    talk.send(xdg, "set_window_geometry", 0, 0, 10, 10)
    talk.send(surface, "commit")
    assert len(talk.model.roots()) == (1 if far else 2)
    assert len(talk.heard("popup_done", role)) == (1 if far else 0)
    # What the client still says about it changes nothing, and is no error.
    for _ in range(2):
        talk.paint(menu, 300, 200, 0)
        talk.send(menu, "commit")
        assert len(talk.model.roots()) == (1 if far else 2)
    for thing in (role, made, menu):
        talk.send(thing, "destroy")


@pytest.mark.parametrize(("asked", "told"), [(1271, 1279), (1272, 1280), (1273, 1280)])
def test_a_least_size_is_at_most_the_screens(asked, told):
    """So that no compositor makes a window whose frame lies beyond all edges."""
    with Talk() as talk:
        talk.start()
        surface, _, top = talk.show(100, 80, 0)
        talk.send(top, "set_min_size", asked, 0)
        talk.send(surface, "commit")
        assert talk.told("xdg_toplevel", "set_min_size")[-1] == [told, 0]


@pytest.mark.parametrize("way", ["unmapped", "destroyed", "never shown"])
def test_a_popup_without_a_shown_parent_is_not_shown(talk, way):
    """Nor one on it; the client may destroy them in order, and begin again."""
    if way == "never shown":
        surface = talk.surface()
        xdg, top = talk.toplevel(surface)
        talk.send(surface, "commit")
        talk.configured(xdg)
    else:
        surface, xdg, top = talk.show(300, 200, 0)

    def popup(parent: int) -> tuple[int, int, int]:
        positioner = talk.make(talk.shell, "create_positioner", "xdg_positioner")
        talk.send(positioner, "set_size", 80, 60)
        talk.send(positioner, "set_anchor_rect", 0, 0, 10, 10)
        made = talk.surface()
        mine = talk.make(talk.shell, "get_xdg_surface", "xdg_surface", None, made)
        role = talk.make(mine, "get_popup", "xdg_popup", None, parent, positioner)
        talk.send(made, "commit")
        if way != "never shown":
            talk.configured(mine)
            talk.paint(made, 80, 60, 0)
            talk.send(made, "commit")
        return made, mine, role

    menus = [popup(xdg)]
    menus.append(popup(menus[0][1]))
    if way == "unmapped":
        talk.send(surface, "attach", 0, 0, 0)
        talk.send(surface, "commit")
    elif way == "destroyed":
        talk.send(top, "destroy")
    for made, mine, role in reversed(menus):
        assert talk.heard("popup_done", role) == [[]]
        frame = talk.core.by_client[mine].frame
        assert frame is not None
        assert not talk.core.by_client[mine].mapped
        if way != "never shown":
            talk.paint(made, 70, 50, 0)
        talk.send(made, "commit")
        for oid in (role, mine, made):
            talk.send(oid, "destroy")
    assert talk.core.fault is None
