"""The sandbox's name as pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.errors import RefusedError
from broker.core.streams.wayland_rules import MAX_STRIP, Fullscreen, WindowRules
from broker.ipc import worker
from broker.jail.wayland.scene import label
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk


def rows(name: str, height: int) -> list[str]:
    width, pixels = label.draw(name, height, 0x800000)
    assert len(pixels) == width * height * 4
    dots = [
        "#" if pixels[n : n + 3] == b"\xff\xff\xff" else "."
        for n in range(0, len(pixels), 4)
    ]
    return ["".join(dots[y * width : (y + 1) * width]) for y in range(height)]


def test_letters_are_drawn():
    assert rows("t1", 9) == [
        ".............",
        "..#......#...",
        "..#.....##...",
        ".###.....#...",
        "..#......#...",
        "..#......#...",
        "..#..#...#...",
        "...##...###..",
        ".............",
    ]


def test_letters_grow_with_the_strip():
    assert label.scale_for(8) == 0
    assert label.scale_for(9) == 1
    assert label.scale_for(16) == 2
    assert sum(r.count("#") for r in rows("a", 16)) == 4 * sum(
        r.count("#") for r in rows("a", 9)
    )
    with pytest.raises(ValueError, match="too few"):
        label.draw("a", 8, 0)


def test_every_character_of_a_name_has_a_letter():
    assert set("abcdefghijklmnopqrstuvwxyz0123456789- ") == set(label.GLYPHS)
    assert all(
        len(glyph) == label.HIGH and max(glyph) < 32 for glyph in label.GLYPHS.values()
    )


@pytest.mark.parametrize(
    ("color", "ink"), [(0xFFFF00, 0), (0x000080, 0xFFFFFF), (0xD01010, 0xFFFFFF)]
)
def test_ink_reads_on_its_colour(color, ink):
    assert label.ink(color) == ink


@pytest.mark.parametrize(("width", "shown"), [(200, True), (20, False)])
def test_the_name_stands_in_the_upper_strip_where_there_is_room(width, shown):
    with Talk(WindowRules("work", label=True, top=18)) as it:
        it.start().show(width, 50, 0)
        (root,) = it.model.roots()
        last = it.model.rects(root)[-1]
        wide, _ = label.draw("work", 18, 0)
        assert (last[1:] == (4, 0, wide, 18)) == shown
        assert not it.machine.paints[1:]


def test_menus_have_a_thin_frame_without_the_name():
    from tests.broker.jail.wayland.scene.test_frame import guest_rects, popup

    with Talk(WindowRules("work", label=True, top=18)) as it:
        _, parent, _ = it.start().show(200, 100, 0)
        surface, xdg, made = popup(it, parent)
        it.configured(xdg)
        it.paint(surface, 100, 60, 0)
        it.send(surface, "commit")
        assert ((4, 4, 100, 60), (4, 4, 100, 60)) in guest_rects(it)
        # The frame lies at 5, 6 of the parent's frame; content in content lies
        # higher, as the parent's strip is the thicker one.
        assert it.heard("configure", made) == [[5, 6 + 4 - 18, 100, 60]]


def test_a_name_of_the_desktop_s_font_is_mixed_from_colour_and_ink():
    width, pixels = label.draw_strip(bytes([0, 255, 128, 0, 0, 0]), 2, 0x800000)
    assert width == 3
    dark, light, mixed = pixels[:4], pixels[4:8], pixels[8:12]
    assert dark == bytes([0, 0, 0x80, 255])
    assert light == b"\xff" * 4
    assert mixed == bytes([128, 128, 191, 255])


def test_the_strip_has_the_name_of_the_desktop_s_font():
    rules = WindowRules("work", label=True, top=18, strip=bytes(50 * 18))
    with Talk(rules) as it:
        it.start().show(200, 50, 0)
        (root,) = it.model.roots()
        assert it.model.rects(root)[-1][1:] == (4, 0, 50, 18)


@pytest.mark.parametrize("size", [17, 18 * 9000])
def test_a_name_of_another_size_is_refused(size):
    with pytest.raises(RefusedError, match="rows"):
        WindowRules("work", label=True, top=18, strip=bytes(size))


def test_the_longest_name_fits():
    rules = WindowRules("w" * 32, label=True, top=64, strip=bytes(MAX_STRIP))
    assert len(worker.encode(worker.FrameRules(rules))) > MAX_STRIP


DECORATIONS = ("zxdg_decoration_manager_v1", 1)
BY_COMPOSITOR = WindowRules("work", label=None, named_top=18)


def last_strip(it):
    (root,) = it.model.roots()
    return it.model.rects(root)[-1][1:]


@pytest.mark.parametrize(
    ("offers", "rules", "named"),
    [
        (GLOBALS, BY_COMPOSITOR, True),
        ([*GLOBALS, DECORATIONS], BY_COMPOSITOR, False),
        # The programs of such a record are offered no title bar.
        (
            [*GLOBALS, DECORATIONS],
            replace(BY_COMPOSITOR, deny=frozenset(DECORATIONS[:1])),
            True,
        ),
        (GLOBALS, replace(BY_COMPOSITOR, label=False), False),
        ([*GLOBALS, DECORATIONS], replace(BY_COMPOSITOR, label=True, top=18), True),
    ],
)
def test_a_window_has_its_name_where_the_compositor_draws_no_title_bar(
    offers, rules, named
):
    with Talk(rules, model=Model(offers)) as it:
        it.start()
        leave_to_compositor(it)
        wide, _ = label.draw("work", 18, 0)
        assert (last_strip(it) == (4, 0, wide, 18)) == named


def leave_to_compositor(it):
    """Show a window whose title bar the compositor draws, if it offers that."""
    manager = it.bind(DECORATIONS[0]) if DECORATIONS[0] in it.globals else None
    surface = it.surface()
    xdg, top = it.toplevel(surface)
    if manager is not None:
        kind = "zxdg_toplevel_decoration_v1"
        made = it.make(manager, "get_toplevel_decoration", kind, None, top)
        it.model.tell(it.server_side(made), "configure", 2)
    it.send(surface, "commit")
    it.configured(xdg)
    it.paint(surface, 200, 50, 0)
    it.send(surface, "commit")
    return xdg


@pytest.mark.parametrize("late", [False, True])
def test_a_window_has_its_name_where_its_program_draws_the_title_bar(late):
    """GTK and Firefox; one that asks for the compositor's after its first window, too."""
    with Talk(BY_COMPOSITOR, model=Model([*GLOBALS, DECORATIONS])) as it:
        it.start()
        it.core.change_look(replace(BY_COMPOSITOR, color=0x123456))
        it.show(200, 50, 0)
        if late:
            it.bind(DECORATIONS[0])
            it.pump()
        wide, _ = label.draw("work", 18, 0)
        assert last_strip(it) == (4, 0, wide, 18)
        assert it.core.rules.color == 0x123456


def test_a_picture_of_the_name_s_strip_fits_any_edge_without_one():
    """The broker may have it before it is known whether the compositor draws titles."""
    for border in range(1, 18):
        rules = replace(BY_COMPOSITOR, border=border, top=border, strip=bytes(7 * 18))
        with Talk(rules, model=Model([*GLOBALS, DECORATIONS])) as it:
            it.start()
            xdg = leave_to_compositor(it)
            assert it.core.by_client[xdg].frame.edges.top == border


def test_a_window_that_is_open_gets_the_picture_of_its_name():
    with Talk(BY_COMPOSITOR) as it:
        it.start().show(200, 50, 0)
        titles = len(it.told("xdg_toplevel", "set_title"))
        it.core.change_look(replace(BY_COMPOSITOR, strip=bytes(7 * 18)))
        it.pump()
        assert last_strip(it)[2] == 7
        assert len(it.told("xdg_toplevel", "set_title")) == titles


def test_title_and_strip_say_that_the_sandbox_asks_and_no_longer():
    with Talk(BY_COMPOSITOR) as it:
        _, _, top = it.start().show(200, 50, 0)
        it.send(top, "set_title", b"letter")
        for marks, words, title in [
            (("asks",), "work asks", b"[work asks] letter"),
            ((), "work", b"[work] letter"),
            (("pregunta",), "work pregunta", b"[work pregunta] letter"),
            (("asks", "camera"), "work asks camera", b"[work asks camera] letter"),
            ((), "work", b"[work] letter"),
        ]:
            look = replace(BY_COMPOSITOR, marks=marks)
            it.core.change_look(look)
            it.pump()
            assert last_strip(it)[2] == label.draw(words, 18, 0)[0]
            assert it.told("xdg_toplevel", "set_title")[-1] == [title]


def test_a_menu_stays_when_its_sandbox_begins_to_ask():
    from tests.broker.jail.wayland.scene.test_frame import popup

    with Talk(BY_COMPOSITOR) as it:
        _, parent, _ = it.start().show(200, 100, 0)
        surface, xdg, made = popup(it, parent)
        it.configured(xdg)
        it.paint(surface, 100, 60, 0)
        it.send(surface, "commit")
        it.core.change_look(replace(BY_COMPOSITOR, marks=("asks",), color=0x123456))
        it.pump()
        assert not it.heard("popup_done", made)
        assert it.core.fault is None


THIN = WindowRules("work", label=False, fullscreen=Fullscreen.FRAMED)


@pytest.mark.parametrize("rules", [BY_COMPOSITOR, THIN])
def test_frame_shows_a_use_while_it_lasts(rules):
    """Attack: a sandbox that hides the notification about its microphone."""
    with Talk(rules) as it:
        it.start().show(200, 50, 0)
        before = last_strip(it)
        for _ in range(3):
            using = replace(rules, marks=("microphone",), in_use=True)
            it.core.change_look(using)
            it.pump()
            spot = label.draw_spot(rules.top, 0)[0]
            width = spot + label.draw(using.strip_words, 18, 0)[0] * bool(rules.label)
            assert last_strip(it)[:3:2] == (rules.border, width)
            it.core.change_look(rules)
            it.pump()
            if rules.label:
                assert last_strip(it) == before
            else:
                assert last_strip(it)[3] == before[3], "the sign has gone"
        assert len(it.core._labels) <= 1


def test_frame_of_a_narrow_window_shows_a_use():
    with Talk(BY_COMPOSITOR) as it:
        it.start().show(60, 50, 0)
        using = replace(BY_COMPOSITOR, marks=("microphone", "camera"), in_use=True)
        it.core.change_look(using)
        it.pump()
        assert last_strip(it)[2] == label.draw_spot(18, 0)[0]


@pytest.mark.parametrize("height", [1, 4, 14, 20, 64])
def test_spot_is_red_in_a_white_line(height):
    width, pixels = label.draw_spot(height, 0x00FF00)
    assert len(pixels) == 4 * width * height
    row = pixels[4 * width * (height // 2) :][: 4 * width]
    assert row[4 * (width // 2) :][:3] == b"\x24\x1b\xe0"
    assert b"\xff\xff\xff" in row
