"""A program that says who draws its title bar, and changes its mind.

Invariant: while the compositor draws no title bar for a window, its frame has the
sandbox's name in the upper edge, with no pixel of the program's on it.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.jail.wayland.model import FULLSCREEN, MAXIMIZED
from broker.jail.wayland.scene import label, resize_timeout
from tests.kit.wayland.client import Window
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.pixels import mask
from tests.kit.wayland.stand import FRAME, GUEST, stand
from tests.kit.wayland.talk import Talk

MANAGER, DECORATION = "zxdg_decoration_manager_v1", "zxdg_toplevel_decoration_v1"
KDE_MANAGER = "org_kde_kwin_server_decoration_manager"
KDE_DECORATION = "org_kde_kwin_server_decoration"
OWN, SERVERS = 1, 2
TOP, PLAIN = 18, 4
RULES = WindowRules("work", label=None, named_top=TOP)
WIDE, _ = label.draw("work", TOP, 0)


class Decorating(Model):
    """A compositor that draws a title bar as it was asked last, at once."""

    def __init__(self) -> None:
        super().__init__([*GLOBALS, (MANAGER, 1), (KDE_MANAGER, 1)])
        self.bars: dict[int, Any] = {}
        """Decorations by their window."""
        self.on_root_commit = lambda _: self.look()
        self.exact = True
        """Whether windows are looked at with each change."""
        self.prefers = SERVERS
        """The mode of windows that leave the choice."""

    def zxdg_decoration_manager_v1_get_toplevel_decoration(
        self, _manager: Any, made: Any, top: Any
    ) -> None:
        made.state["mode"] = SERVERS
        self.bars[top.oid] = made

    def org_kde_kwin_server_decoration_manager_create(
        self, _manager: Any, decoration: Any, root: Any
    ) -> None:
        decoration.state["mode"] = SERVERS
        self.bars[root.xdg.state["role"].oid] = decoration
        self.tell(decoration, "mode", SERVERS)

    def org_kde_kwin_server_decoration_request_mode(
        self, decoration: Any, mode: int
    ) -> None:
        self.zxdg_toplevel_decoration_v1_set_mode(decoration, mode)
        self.tell(decoration, "mode", mode)

    def org_kde_kwin_server_decoration_release(self, decoration: Any) -> None:
        self.zxdg_toplevel_decoration_v1_destroy(decoration)

    def zxdg_toplevel_decoration_v1_set_mode(self, made: Any, mode: int) -> None:
        made.state["mode"] = mode
        self.look()

    def zxdg_toplevel_decoration_v1_unset_mode(self, made: Any) -> None:
        made.state["mode"] = self.prefers
        self.look()

    def zxdg_toplevel_decoration_v1_destroy(self, made: Any) -> None:
        self.bars = {top: bar for top, bar in self.bars.items() if bar is not made}
        self._remove(made)
        self.look()

    def configure(self, xdg: Any, w: int = 0, h: int = 0, states=()) -> int:
        """As wlroots, which has the mode before the size; others have it after."""
        role = xdg.state["role"]
        if role.oid in self.bars:
            bar = self.bars[role.oid]
            name = "mode" if bar.kind == KDE_DECORATION else "configure"
            self.tell(bar, name, bar.state["mode"])
        xdg.state["states"] = states
        return super().configure(xdg, w, h, states)

    def look(self) -> None:
        """No window without a title bar is without its name."""
        for root in self.roots() if self.exact else ():
            xdg = root.xdg
            bar = self.bars.get(xdg.state["role"].oid)
            drawn = bar is not None and bar.state["mode"] == SERVERS
            if not drawn or FULLSCREEN in xdg.state.get("states", ()):
                assert named(self, root), "neither a title bar nor a name"


def named(model: Model, root: Any) -> bool:
    """Whether the name is the uppermost surface, above all that the program shows."""
    *below, last = model.rects(root)
    free = all(y >= TOP or oid == root.oid or h <= TOP for oid, _, y, _, h in below[1:])
    return last[1:] == (4, 0, WIDE, TOP) and free


class Program(Talk):
    """A client with one window and its decoration."""

    def open(self, mode: int | None) -> tuple[int, int, int, int]:
        self.manager = self.start().bind(MANAGER)
        surface = self.surface()
        xdg, top = self.toplevel(surface)
        bar = self.decorate(top)
        if mode is not None:
            self.send(bar, "set_mode", mode)
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, 200, 50, 0)
        self.send(surface, "commit")
        return surface, xdg, top, bar

    def decorate(self, top: int) -> int:
        return self.make(self.manager, "get_toplevel_decoration", DECORATION, None, top)

    def answer(self, surface: int, xdg: int, *told: Any) -> None:
        """Have the compositor configure the window, acknowledge, and show a picture."""
        serial = self.model.configure(self.server_side(xdg), *told)
        self.pump()
        self.send(xdg, "ack_configure", serial)
        self.paint(surface, 200, 50, 0)
        self.send(surface, "commit")

    def open_kde(self, mode: int | None) -> tuple[int, int, int, int]:
        """As GTK does: the surface has its decoration before it is a window."""
        self.manager = self.start().bind(KDE_MANAGER)
        surface = self.surface()
        bar = self.decorate_surface(surface)
        if mode is not None:
            self.send(bar, "request_mode", mode)
        xdg, top = self.toplevel(surface)
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, 200, 50, 0)
        self.send(surface, "commit")
        return surface, xdg, top, bar

    def decorate_surface(self, surface: int) -> int:
        return self.make(self.manager, "create", KDE_DECORATION, None, surface)

    def named(self) -> bool:
        (root,) = self.model.roots()
        return named(self.model, root)

    def late(self) -> None:
        """A program that does not answer."""
        self.now += 2 * limits.WAYLAND_LATE_SECONDS
        resize_timeout.hurry(self.core, self.now)
        self.pump()


@pytest.fixture
def it():
    with Program(RULES, model=Decorating()) as made:
        yield made


@pytest.mark.parametrize(
    ("mode", "has"), [(SERVERS, False), (None, False), (OWN, True)]
)
def test_a_window_has_its_name_by_the_mode_in_force(it, mode, has):
    surface, xdg, _, _ = it.open(mode)
    assert it.named() == has
    it.answer(surface, xdg)
    assert it.named() == has


def test_a_window_without_a_decoration_has_its_name(it):
    it.start().bind(MANAGER)
    it.show(200, 50, 0)
    assert it.named()


def test_who_binds_after_its_first_window_has_no_name_twice(it):
    it.start().show(200, 50, 0)
    it.manager = it.bind(MANAGER)
    surface = it.surface()
    xdg, top = it.toplevel(surface)
    it.decorate(top)
    it.send(surface, "commit")
    it.configured(xdg)
    it.paint(surface, 200, 50, 0)
    it.send(surface, "commit")
    assert [named(it.model, root) for root in it.model.roots()] == [True, False]


def test_the_name_comes_before_its_program_may_draw_the_title_bar(it):
    surface, _, _, bar = it.open(SERVERS)
    it.send(bar, "set_mode", OWN)
    assert it.named()
    it.send(surface, "commit")
    assert it.named()


def test_the_name_comes_before_the_choice_is_left_to_the_compositor(it):
    """labwc's server_decoration is client: it takes the title bar away at once."""
    it.model.prefers = OWN
    surface, xdg, _, bar = it.open(SERVERS)
    for _ in range(2):
        it.send(bar, "unset_mode")
        assert it.named()
        it.send(bar, "set_mode", SERVERS)
        it.answer(surface, xdg)


def test_the_name_comes_before_the_decoration_ends(it):
    surface, xdg, top, bar = it.open(SERVERS)
    it.send(bar, "destroy")
    assert it.named()
    it.decorate(top)
    it.answer(surface, xdg)
    assert it.named(), "a window that has once had its own keeps its name"


def test_back_and_forth_at_each_commit_leaves_the_name(it):
    """Old and new configure events, acknowledged or not, in any order."""
    surface, xdg, top, bar = it.open(SERVERS)
    dice = random.Random(68)
    serials: list[int] = []
    for _ in range(400):
        step = dice.randrange(6)
        if step == 0:
            it.send(bar, "set_mode", OWN)
        elif step == 1:
            it.send(bar, "set_mode", SERVERS)
        elif step == 2:
            it.send(bar, "unset_mode")
        elif step == 3:
            it.send(bar, "destroy")
            bar = it.decorate(top)
        elif step == 4:
            serials.append(it.model.configure(it.server_side(xdg)))
            it.pump()
        elif serials:
            at = dice.randrange(len(serials))
            it.send(xdg, "ack_configure", serials[at])
            del serials[: at + 1]
        it.paint(surface, 200, dice.choice([50, 66, 120]), 0)
        it.send(surface, "commit")
    assert it.named()


def test_changes_before_the_first_picture_leave_the_last_one(it):
    """SDL makes a window with a title bar of its own, and changes that."""
    it.manager = it.start().bind(MANAGER)
    surface = it.surface()
    xdg, top = it.toplevel(surface)
    bar = it.decorate(top)
    it.send(bar, "set_mode", OWN)
    it.send(surface, "commit")
    it.configured(xdg)
    it.send(bar, "set_mode", SERVERS)
    it.answer(surface, xdg)
    assert not it.named()


def test_an_acknowledgement_of_before_takes_no_name_away(it):
    it.manager = it.start().bind(MANAGER)
    surface = it.surface()
    xdg, top = it.toplevel(surface)
    bar = it.decorate(top)
    it.send(surface, "commit")
    it.send(bar, "set_mode", OWN)
    it.configured(xdg)
    it.paint(surface, 200, 50, 0)
    it.send(surface, "commit")
    assert it.named()


def test_who_does_not_answer_the_compositors_own_change_gets_its_name(it):
    _, xdg, top, _ = it.open(SERVERS)
    it.model.exact = False
    it.model.bars[it.server_side(top).oid].state["mode"] = OWN
    it.model.configure(it.server_side(xdg))
    it.pump()
    it.late()
    assert it.named()


@pytest.mark.parametrize("answers", [True, False])
def test_a_fullscreen_window_has_its_name(it, answers):
    """No compositor draws a title bar there."""
    surface, xdg, _, _ = it.open(SERVERS)
    it.model.exact = False
    told = (1280, 800, (FULLSCREEN,))
    if answers:
        it.answer(surface, xdg, *told)
    else:
        it.model.configure(it.server_side(xdg), *told)
        it.pump()
        it.late()
    assert it.named()
    it.answer(surface, xdg, 208, 58)
    assert not it.named()


def test_real_fullscreen_stays_real():
    rules = WindowRules("work", label=None, named_top=TOP, fullscreen=Fullscreen.REAL)
    with Program(rules, model=Decorating()) as it:
        surface, xdg, _, _ = it.open(SERVERS)
        it.model.exact = False
        it.answer(surface, xdg, 1280, 800, (FULLSCREEN,))
        (root,) = it.model.roots()
        assert root.size() == (200, 50)


def test_the_name_takes_its_room_from_the_content(it):
    """Of who does not answer that its window has a title bar from now on."""
    surface, xdg, top, _ = it.open(None)
    bar = it.model.bars[it.server_side(top).oid]
    it.model.exact = False
    for mode, high in (OWN, TOP), (SERVERS, PLAIN):
        bar.state["mode"] = mode
        serial = it.model.configure(it.server_side(xdg), 300, 100)
        it.pump()
        assert it.heard("configure", top)[-1][:2] == [292, 100 - high - 4]
        if mode == OWN:
            it.send(xdg, "ack_configure", serial)
        it.paint(surface, 400, 400, 0)
        it.send(surface, "commit")
    it.late()
    (root,) = it.model.roots()
    assert it.named()
    assert root.size() == (300, 100)


@pytest.mark.parametrize("mode_first", [True, False])
def test_the_size_is_for_the_frame_of_the_same_configure_event(it, mode_first):
    """wlroots sends the mode after the size, KWin before it."""
    _, _, top, _ = it.open(SERVERS)
    model, window = it.model, it.server_side(top)
    bar = model.bars[window.oid]
    for mode, high in (OWN, TOP), (SERVERS, PLAIN):
        model.exact = False
        it.core.by_client[top].own_title = False
        states = MAXIMIZED.to_bytes(4, "little")
        events = [
            (bar, "configure", mode),
            (window, "configure", 1280, 800, states),
        ]
        for thing, *event in events if mode_first else reversed(events):
            model.tell(thing, *event)
        it.pump()
        assert it.heard("configure", top)[-1][:2] == [1272, 800 - high - 4]


@pytest.mark.parametrize("label_rule", [True, False])
def test_a_record_that_decides_is_obeyed(label_rule):
    rules = WindowRules("work", label=label_rule, top=TOP if label_rule else PLAIN)
    with Program(rules, model=Decorating()) as it:
        it.model.exact = False
        _, _, _, bar = it.open(SERVERS)
        assert it.named() == label_rule
        it.send(bar, "set_mode", OWN)
        assert it.named() == label_rule


# -- KDE's protocol --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "has"), [(SERVERS, False), (None, False), (OWN, True), (0, True)]
)
def test_kde_decoration_made_before_its_window_decides_on_the_name(it, mode, has):
    surface, xdg, _, bar = it.open_kde(mode)
    assert it.named() == has
    it.answer(surface, xdg)
    assert it.named() == has
    in_force = SERVERS if mode is None else mode
    assert it.heard("mode", bar)[-1] == [in_force]


def test_kde_mode_back_and_forth_leaves_the_name(it):
    surface, xdg, _, bar = it.open_kde(SERVERS)
    dice = random.Random(78)
    serials: list[int] = []
    for _ in range(400):
        step = dice.randrange(5)
        if step < 2:
            it.send(bar, "request_mode", dice.choice([0, OWN, SERVERS, SERVERS, 77]))
        elif step == 2:
            it.send(bar, "release")
            bar = it.decorate_surface(surface)
        elif step == 3:
            serials.append(it.model.configure(it.server_side(xdg)))
            it.pump()
        elif serials:
            last = dice.randrange(len(serials))
            it.send(xdg, "ack_configure", serials[last])
            del serials[: last + 1]
        it.paint(surface, 200, dice.choice([50, 66, 120]), 0)
        it.send(surface, "commit")
    assert it.named()
    assert it.core.fault is None


def test_kde_decoration_that_ends_leaves_the_name(it):
    *_, bar = it.open_kde(SERVERS)
    it.send(bar, "release")
    assert it.named()


def test_kde_decoration_with_another_one_is_told_that_it_does_not_count(it):
    it.manager = it.start().bind(MANAGER)
    surface = it.surface()
    xdg, top = it.toplevel(surface)
    bar = it.decorate(top)
    it.manager = it.bind(KDE_MANAGER)
    it.send(surface, "commit")
    for _ in range(2):
        second = it.decorate_surface(surface)
        assert it.heard("mode", second) == [[OWN]]
        it.send(second, "request_mode", SERVERS)
        it.send(second, "request_mode", OWN)
        it.answer(surface, xdg)
        assert not it.named()
    assert not it.told(KDE_MANAGER, "create")
    it.send(bar, "set_mode", OWN)
    assert it.named()


@pytest.mark.parametrize("mapped", [True, False])
def test_xdg_decoration_replaces_a_kde_one(it, mapped):
    it.manager = it.start().bind(KDE_MANAGER)
    surface = it.surface()
    old = it.decorate_surface(surface)
    xdg, top = it.toplevel(surface)
    if mapped:
        it.send(surface, "commit")
        it.answer(surface, xdg)
    it.manager = it.bind(MANAGER)
    bar = it.decorate(top)
    if not mapped:
        it.send(surface, "commit")
        it.answer(surface, xdg)
    assert len(it.told(KDE_DECORATION, "release")) == 1
    assert it.named() == mapped
    it.send(old, "request_mode", SERVERS)
    it.send(bar, "set_mode", OWN)
    assert it.named()
    it.send(old, "release")
    assert it.core.fault is None


def test_kde_decoration_follows_its_surface_to_the_next_window(it):
    surface, xdg, top, bar = it.open_kde(SERVERS)
    it.send(surface, "attach", 0, 0, 0)
    it.send(surface, "commit")
    it.send(top, "destroy")
    it.send(xdg, "destroy")
    it.roundtrip()
    assert len(it.told(KDE_DECORATION, "release")) == 1
    xdg, _ = it.toplevel(surface)
    it.send(surface, "commit")
    it.answer(surface, xdg)
    assert not it.named()
    assert it.told(KDE_DECORATION, "request_mode") == [[SERVERS]] * 2
    it.send(bar, "release")
    assert it.named()


def test_kde_decoration_of_what_is_no_window_stays_in_the_filter(it):
    surface, _, _ = it.start().show(200, 50, 0)
    it.manager = it.bind(KDE_MANAGER)
    for surface_ in (it.surface(), surface):
        it.send(it.decorate_surface(surface_), "request_mode", SERVERS)
    it.roundtrip()
    assert not it.told(KDE_MANAGER, "create")
    assert it.named()


# -- at sway -------------------------------------------------------------------------


async def test_sway_shows_the_title_bar_or_the_name_at_all_times():
    """In each picture of the screen while the program changes its mind."""
    rules = WindowRules("work", label=None, top=4, named_top=20)
    config = "default_floating_border normal\nfor_window [title=.*] floating enable, move position 100 100\n"
    async with stand(rules, config=config) as it:

        def play(c: Window) -> list[tuple[bool, bool]]:
            surface = c.surface()
            xdg, top = c.toplevel(surface)
            bar = c.make(
                c.bind(MANAGER), "get_toplevel_decoration", DECORATION, None, top
            )
            c.send(bar, "set_mode", SERVERS)
            c.send(surface, "commit")
            c.configured(xdg)
            found = []
            for n in range(16):
                c.paint(surface, 300, 200, GUEST)
                c.send(surface, "commit")
                c.roundtrip()
                picture = it.settled() if n in {0, 15} else it.look()
                (window,) = it.tree()
                bars = window["deco_rect"]["height"] > 0
                found.append((bars, _thick(mask(picture, FRAME)) == 20))
                c.send(bar, "set_mode", OWN if n % 2 else SERVERS)
            return found

        with trio.fail_after(60):
            found = await it.client(play)
        assert found[0] == (True, False)
        assert found[-1][1]
        assert all(bar or name for bar, name in found), found
        assert it.ends == []


def _thick(seen: Any) -> int:
    """How many rows the upper edge of the frame has, at its right end."""
    ys, xs = seen.nonzero()
    column = xs.max() - 20
    rows = [int(y) for y, x in zip(ys, xs, strict=True) if x == column]
    return next((n for n, y in enumerate(rows) if y != rows[0] + n), len(rows))
