"""No guest pixel outside its frame: hostile clients on a real sway.

Each hostile client draws in one colour; a screenshot is judged.  The control
shows that the same client without the filter does leave its window, so the
judge can find them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import numpy as np
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from PIL import Image

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from tests.broker.jail.wayland.test_trees import OPS, Tree
from tests.kit.wayland.client import GoneError, ServerError, Window
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import frames, mask, near, outside
from tests.kit.wayland.stand import BORDER, FRAME, GUEST, SIZE, Stand, stand

PAINT = 0xFF000000 | GUEST


def contents(it: Stand, image) -> list[tuple[int, int, int, int]]:
    """The content rectangles of all windows: sway's, without the frame."""
    inner = []
    for node in it.tree():
        r = node["rect"]
        inner.append(
            (
                r["x"] + BORDER,
                r["y"] + BORDER,
                r["width"] - 2 * BORDER,
                r["height"] - 2 * BORDER,
            )
        )
    for f in frames(image, FRAME):
        inner.append((f.x + BORDER, f.y + BORDER, f.w - 2 * BORDER, f.h - 2 * BORDER))
    return inner


def judge(it: Stand) -> tuple[int, int]:
    """(guest pixels outside all content, guest pixels in all)."""
    image = it.settled()
    spots = mask(image, GUEST)
    return outside(spots, contents(it, image)), int(spots.sum())


# -- what a hostile window does; each is called with its window shown ------------------


def small_geometry(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", 300, 200, 50, 50)
    c.paint(surface, 900, 700, PAINT)
    c.send(surface, "commit")


def far_geometry(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", -100, -60, 340, 300)
    c.send(surface, "commit")


def one_pixel_geometry(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", 0, 0, 1, 1)
    c.paint(surface, 900, 700, PAINT)
    c.send(surface, "commit")


def geometry_outside_the_surface(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", 5000, 5000, 200, 200)
    c.send(surface, "commit")


def subsurfaces_on_four_sides(c: Window, surface: int, xdg: int) -> None:
    for x, y in ((-200, 0), (300, 0), (0, -200), (0, 300)):
        child = c.surface()
        c.child(child, surface, x, y)
        c.paint(child, 150, 150, PAINT)
        c.send(child, "commit")
    c.send(surface, "commit")


def overlapping_the_frame(c: Window, surface: int, xdg: int) -> None:
    child = c.surface()
    c.child(child, surface, -100, -100)
    c.paint(child, 700, 700, PAINT)
    c.send(child, "commit")
    c.send(surface, "commit")


def deep_and_negative(c: Window, surface: int, xdg: int) -> None:
    parent = surface
    made = []
    for n in range(6):
        child = c.surface()
        sub = c.child(child, parent, -60 * n, 80 * n)
        c.send(sub, "set_desync")
        c.paint(child, 400, 400, PAINT)
        made.append(child)
        parent = child
    for child in reversed(made):
        c.send(child, "commit")
    c.send(surface, "commit")


def desynchronised_growth(c: Window, surface: int, xdg: int) -> None:
    child = c.surface()
    sub = c.child(child, surface, 10, 10)
    c.send(sub, "set_desync")
    c.paint(child, 20, 20, PAINT)
    c.send(child, "commit")
    c.send(surface, "commit")
    c.paint(child, 900, 700, PAINT)
    c.send(child, "commit")


def huge_child_left_uncommitted(c: Window, surface: int, xdg: int) -> None:
    child = c.surface()
    c.child(child, surface, 0, 0)
    c.paint(child, 900, 700, PAINT)
    c.send(surface, "commit")


def place_above_everything(c: Window, surface: int, xdg: int) -> None:
    children = [c.surface() for _ in range(3)]
    subs = [c.child(child, surface, -50, -50) for child in children]
    for child, sub in zip(children, subs, strict=True):
        c.send(sub, "place_above", children[0] if child != children[0] else surface)
        c.paint(child, 500, 500, PAINT)
        c.send(child, "commit")
    c.send(surface, "commit")


def hidden_parent_with_visible_children(c: Window, surface: int, xdg: int) -> None:
    outside_, inside = c.surface(), c.surface()
    c.child(outside_, surface, -300, -300)
    c.child(inside, outside_, 310, 310)
    for s in (inside, outside_):
        c.paint(s, 100, 100, PAINT)
        c.send(s, "commit")
    c.send(surface, "commit")


def scale_games(c: Window, surface: int, xdg: int) -> None:
    c.send(surface, "set_buffer_scale", 2)
    c.paint(surface, 400, 400, PAINT)
    c.send(surface, "commit")
    c.send(surface, "set_buffer_scale", 1)
    c.send(surface, "commit")


def transform_games(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", 0, 0, 100, 300)
    c.paint(surface, 700, 100, PAINT)
    c.send(surface, "commit")
    c.send(surface, "set_buffer_transform", 1)
    c.send(surface, "commit")


def viewport_stretch(c: Window, surface: int, xdg: int) -> None:
    view = c.make(c.viewporter, "get_viewport", "wp_viewport", None, surface)
    c.send(xdg, "set_window_geometry", 10, 10, 60, 60)
    c.send(view, "set_destination", 900, 600)
    c.send(surface, "commit")


def viewport_removed_later(c: Window, surface: int, xdg: int) -> None:
    c.send(xdg, "set_window_geometry", 0, 0, 60, 60)
    view = c.make(c.viewporter, "get_viewport", "wp_viewport", None, surface)
    c.send(view, "set_destination", 60, 60)
    c.paint(surface, 900, 700, PAINT)
    c.send(surface, "commit")
    c.send(view, "destroy")
    c.send(surface, "commit")


def shrinks_later(c: Window, surface: int, xdg: int) -> None:
    overlapping_the_frame(c, surface, xdg)
    c.send(xdg, "set_window_geometry", 20, 20, 40, 40)
    c.send(surface, "commit")


def null_attach_in_between(c: Window, surface: int, xdg: int) -> None:
    overlapping_the_frame(c, surface, xdg)
    c.send(surface, "attach", 0, 0, 0)
    c.send(surface, "commit")
    # sway 1.7 never configures it again, with or without a filter: it stays dark.
    c.send(surface, "commit")


def attach_with_offset(c: Window, surface: int, xdg: int) -> None:
    for _ in range(5):
        buffer = c.buffer(200, 200, PAINT)
        c.send(surface, "attach", buffer, -80, -80)
        c.send(surface, "commit")


def another_parent(c: Window, surface: int, xdg: int) -> None:
    """KWin 5.27 shows it at its new parent's corner before any client commits."""
    for side in (1, 180):
        corner, carrier, large = c.surface(), c.surface(), c.surface()
        c.child(corner, surface, 150, 150)
        sub = c.child(carrier, surface, 0, 0)
        c.child(large, carrier, 0, 0)
        for each, size in ((large, 190), (carrier, side), (corner, 40)):
            c.paint(each, size, size, PAINT)
            c.send(each, "commit")
        c.send(surface, "commit")
        c.send(sub, "destroy")
        c.child(carrier, corner, 0, 0)


WINDOWS = [
    small_geometry, far_geometry, one_pixel_geometry, geometry_outside_the_surface, subsurfaces_on_four_sides,
    overlapping_the_frame, deep_and_negative, desynchronised_growth, huge_child_left_uncommitted,
    place_above_everything, hidden_parent_with_visible_children, scale_games, transform_games,
    viewport_stretch, viewport_removed_later, shrinks_later, null_attach_in_between, attach_with_offset,
    another_parent,
]  # fmt: skip


async def try_windows(
    it: Stand, look: Callable[[Stand], tuple[int, int]], *, hidden: int
) -> None:
    """Show each of ``WINDOWS``: no pixel leaks, and at most ``hidden`` show nothing.

    ``look`` returns the guest's pixels outside of frames, and all of its pixels.
    """
    seen = {}
    for crime in WINDOWS:

        def act(c: Window, crime=crime) -> tuple[int, int]:
            surface, xdg, _ = c.show(200, 200, PAINT)
            crime(c, surface, xdg)
            c.roundtrip()
            return look(it)

        # Version 4 of wl_compositor, where an attach may still have an offset.
        seen[crime.__name__] = await it.client(act, compositor=4)
    assert {name: leak for name, (leak, _) in seen.items() if leak} == {}
    assert sum(shown > 0 for _, shown in seen.values()) >= len(seen) - hidden, seen


async def test_no_window_shows_anything_outside_its_frame():
    async with stand() as it:
        await try_windows(it, judge, hidden=2)
        assert it.ends == []


async def test_a_feedback_of_a_presentation_that_is_gone_moves_nothing():
    """Held for a commit, it must not be said to whatever has that id by then.

    The id becomes that of the subsurface in a new window's frame, for which
    the same bytes mean "set_position", with two ids for coordinates.
    """
    async with stand() as it:

        def act(c: Window) -> tuple[int, int]:
            far = [c.surface() for _ in range(200)]  # the last one's id is a place
            presentation = c.bind("wp_presentation")
            window = c.surface()
            doomed = c.surface()
            c.make(presentation, "feedback", "wp_presentation_feedback", far[-1], None)
            for oid in (presentation, doomed):
                c.send(oid, "destroy")
            c.roundtrip()
            xdg, _ = c.toplevel(window)
            c.send(window, "commit")
            c.configured(xdg)
            c.paint(window, 200, 200, PAINT)
            c.send(window, "commit")
            c.roundtrip()
            c.send(far[-1], "commit")
            c.send(window, "commit")
            c.roundtrip()
            return judge(it)

        leak, shown = await it.client(act)
        assert leak == 0
        assert shown == 200 * 200
        assert it.ends == []


async def test_the_judge_sees_the_same_client_leave_its_window_without_the_filter():
    async with stand() as it:

        def act() -> tuple[int, int]:
            with Window(it.comp.display).start(compositor=4) as c:
                surface, xdg, _ = c.show(200, 200, PAINT)
                small_geometry(c, surface, xdg)
                subsurfaces_on_four_sides(c, surface, xdg)
                c.roundtrip()
                return judge(it)

        leak, _ = await trio.to_thread.run_sync(act)
        assert leak > 1000


@pytest.mark.parametrize("tip", [(120, 90), (103, 162), (241, 70), (170, 163)])
def test_the_judge_finds_a_frame_that_the_pointer_touches(tip):
    image = Image.new("RGB", (400, 300), (90, 80, 70))
    red = (FRAME >> 16, FRAME >> 8 & 255, FRAME & 255)
    image.paste(red, (100, 40, 244, 164))
    image.paste((0, 0, 200), (104, 44, 240, 160))
    assert frames(image, FRAME) == [(100, 40, 144, 124, BORDER)]
    image.paste((255, 255, 255), (*tip, tip[0] + 10, tip[1] + 16))
    assert (100, 40, 144, 124, BORDER) in frames(image, FRAME, pointer=tip)


@pytest.mark.parametrize("extra", [(), ("translucent",)])
async def test_the_frame_is_whole_and_exact_at_every_size(extra):
    """Strips of real size: one pixel scaled would end short (pitfall 10)."""
    rules = WindowRules("work", color=FRAME, translucent=bool(extra))
    async with stand(rules) as it:

        def act(c: Window) -> None:
            surface, _, _ = c.show(100, 100, PAINT)
            for w, h in ((1, 1), (7, 3), (812, 640), (333, 777), (1200, 700)):
                c.paint(surface, w, h, PAINT)
                c.send(surface, "commit")
                c.roundtrip()
                it.order("[title=.*] move position 10 10")
                image = it.settled()
                (node,) = it.tree()
                assert (node["rect"]["width"], node["rect"]["height"]) == (w + 8, h + 8)
                found = [
                    f
                    for f in frames(image, FRAME, least=4)
                    if (f.w, f.h) == (w + 8, h + 8)
                ]
                assert found, (w, h, frames(image, FRAME, least=4))
                assert found[0].border == BORDER

        await it.client(act)


async def test_while_a_window_changes_size_every_picture_has_its_border():
    async with stand() as it:

        def act(c: Window) -> tuple[int, int]:
            surface, _, _ = c.show(100, 100, PAINT)
            it.settled()
            pictures, bad = 0, 0
            for step in range(60):
                c.paint(surface, 100 + 9 * step, 100 + 7 * (step % 50), PAINT)
                c.send(surface, "commit")
                if step % 4 == 0:
                    # Not waited for: the picture may show any moment.
                    image = it.look()
                    found = frames(image, FRAME)
                    pictures += 1
                    inside = [(f.x + 4, f.y + 4, f.w - 8, f.h - 8) for f in found]
                    if len(found) != 1 or outside(mask(image, GUEST), inside) != 0:
                        bad += 1
            return pictures, bad

        pictures, bad = await it.client(act)
        assert pictures == 15
        assert bad == 0


# -- popups, cursors ----------------------------------------------------------------------


def popup(
    c: Window,
    parent: int,
    size=(100, 60),
    rect=(0, 0, 10, 10),
    offset=(0, 0),
    shown=None,
) -> tuple[int, int]:
    positioner = c.make(c.shell, "create_positioner", "xdg_positioner")
    c.send(positioner, "set_size", *size)
    c.send(positioner, "set_anchor_rect", *rect)
    c.send(positioner, "set_offset", *offset)
    surface = c.surface()
    xdg = c.make(c.shell, "get_xdg_surface", "xdg_surface", None, surface)
    c.make(xdg, "get_popup", "xdg_popup", None, parent, positioner)
    c.send(surface, "commit")
    c.configured(xdg)
    c.paint(surface, *(shown or size), PAINT)
    c.send(surface, "commit")
    c.roundtrip()
    return surface, xdg


async def test_a_popup_shows_each_picture_in_its_frame():
    """Also those that are committed without their frame, as on sway 1.7."""

    def act(c: Window) -> None:
        _, xdg, _ = c.show(200, 200, 0xFF0000FF)
        surface, _ = popup(c, xdg)
        for step, (w, h) in enumerate([(100, 60), (100, 60), (60, 40), (60, 40)] * 2):
            color = (0x00FF80, 0x00FFFF)[step % 2]
            c.paint(surface, w, h, 0xFF000000 | color)
            c.send(surface, "commit")
            c.roundtrip()
            image = it.settled()
            ys, xs = np.nonzero(mask(image, color))
            assert len(ys) == w * h, step
            box = (xs.min() - BORDER, ys.min() - BORDER, w + 2 * BORDER, h + 2 * BORDER)
            assert box in [(f.x, f.y, f.w, f.h) for f in frames(image, FRAME)], step

    async with stand() as it:
        await it.client(act)


@pytest.mark.parametrize(
    ("size", "rect", "offset", "shown"),
    [
        ((100, 60), (0, 0, 10, 10), (0, 0), None),
        ((100, 60), (0, 0, 10, 10), (5000, 5000), None),
        ((100, 60), (-3000, -3000, 1, 1), (-700, 0), None),
        ((5000, 5000), (0, 0, 10, 10), (0, 0), (3000, 2000)),
        ((50, 50), (0, 0, 10, 10), (0, 0), (900, 700)),
        ((100, 60), (2**31 - 9, 2**31 - 9, 5, 5), (-(2**31), 2**31 - 1), None),
    ],
)
async def test_popups_are_framed_bounded_and_touch_their_parent(
    size, rect, offset, shown
):
    async with stand() as it:

        def act(c: Window) -> None:
            _, xdg, _ = c.show(200, 200, 0xFF0000FF)
            it.order("[title=.*] move position 500 300")
            popup(c, xdg, size, rect, offset, shown)
            image = it.settled()
            found = frames(image, FRAME)
            guest = mask(image, GUEST)
            assert guest.any()
            assert (
                outside(guest, [(f.x + 4, f.y + 4, f.w - 8, f.h - 8) for f in found])
                == 0
            )
            ys, xs = np.nonzero(guest)
            x0, y0, x1, y1 = xs.min() - 4, ys.min() - 4, xs.max() + 5, ys.max() + 5
            assert x1 - x0 <= SIZE[0] * 0.9 + 1
            assert y1 - y0 <= SIZE[1] * 0.9 + 1
            parent = (500, 300, 708, 508)
            beside = x0 <= parent[2], parent[0] <= x1, y0 <= parent[3], parent[1] <= y1
            assert all(beside), "beside its parent"

        await it.client(act)


async def test_a_cursor_image_stays_small():
    async with stand() as it:

        def act(c: Window) -> int:
            with Pointer(it.comp.display, SIZE) as mouse:
                mouse.move(5, 5)
                seat = c.bind("wl_seat")
                pointer = c.make(seat, "get_pointer", "wl_pointer")
                c.show(300, 300, 0xFF0000FF)
                it.order("[title=.*] move position 400 200")
                mouse.move(500, 300)
                enter = c.wait(lambda e: e[2] == "enter" and e[0] == pointer)
                cursor = c.surface()
                c.send(pointer, "set_cursor", enter[3][0], cursor, 200, 200)
                c.paint(cursor, 500, 400, PAINT)
                c.send(cursor, "commit")
                child = c.surface()
                c.child(child, cursor, 50, 50)
                c.paint(child, 500, 400, PAINT)
                c.send(child, "commit")
                c.send(cursor, "commit")
                c.roundtrip()
                return int(near(it.look(), GUEST, 8).sum())

        # grim draws the cursor only where the output does in software, as here.
        assert await it.client(act) <= 64 * 64


async def test_a_cursor_image_does_not_follow_onto_the_frame():
    async with stand() as it:

        def act(c: Window) -> tuple[int, int]:
            with Pointer(it.comp.display, SIZE) as mouse:
                mouse.move(5, 5)
                pointer = c.make(c.bind("wl_seat"), "get_pointer", "wl_pointer")
                c.show(300, 300, 0xFF0000FF)
                it.order("[title=.*] move position 400 200")
                mouse.move(500, 300)
                enter = c.wait(lambda e: e[2] == "enter" and e[0] == pointer)
                cursor = c.surface()
                c.send(pointer, "set_cursor", enter[3][0], cursor, 0, 0)
                c.paint(cursor, 60, 60, PAINT)
                c.send(cursor, "commit")
                c.roundtrip()
                over_content = int(mask(it.settled(), GUEST).sum())
                mouse.move(600, 201)
                # A last word after the pointer has left: too late.
                c.send(pointer, "set_cursor", enter[3][0], cursor, 0, 0)
                c.roundtrip()
                return over_content, int(mask(it.settled(), GUEST).sum())

        over_content, over_frame = await it.client(act)
        assert over_content == 60 * 60
        assert over_frame == 0


# -- random trees, by pixels ---------------------------------------------------------------


class _RealTree(Tree):
    """The tree of the model's test on a real compositor."""

    def op_stack(self, n: int, other: int, above: bool) -> None:
        """Needs the filter's own tables to be legal; the model's test does it."""

    def op_paint(self, n: int, w: int, h: int) -> None:
        self.talk.paint(self.nodes[n], w, h, PAINT)


async def random_trees(
    count: int,
    leak_of: Callable[[Stand], int],
    there: AbstractAsyncContextManager[Stand],
) -> None:
    """Real trees of the model's test: ``leak_of`` what the screen shows is 0."""
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Windows come faster than a sandbox without input may open them.
        patch.setattr(limits, "WAYLAND_MAPPINGS_PER_MINUTE", 1 << 20)
        it = await stack.enter_async_context(there)
        leaks = []

        @settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(OPS_LIST)
        def one(ops) -> None:
            with Window(it.path).start(compositor=4) as client:
                tree = _RealTree(client)
                try:
                    for op in ops:
                        tree.do(*op)
                    client.roundtrip()
                except (ServerError, GoneError, BrokenPipeError, ConnectionResetError):
                    return
                leak = leak_of(it)
                if leak:
                    leaks.append((ops, leak))
                assert not leak

        await trio.to_thread.run_sync(one)
        assert not leaks


from hypothesis import strategies as _st  # noqa: E402 - beside what it makes

OPS_LIST = _st.lists(OPS, min_size=3, max_size=25)


@pytest.mark.slow
async def test_random_trees_show_nothing_outside():
    await random_trees(25, lambda it: judge(it)[0], stand())


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_many_random_trees_show_nothing_outside():
    await random_trees(200, lambda it: judge(it)[0], stand())
