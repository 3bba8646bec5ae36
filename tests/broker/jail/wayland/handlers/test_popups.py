"""Menus that would leave their window: by shrinking, by waiting, by not answering."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from tests.broker.jail.wayland.scene.test_frame import contained, guest_rects, popup
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

WIDE = (900, 100)
MENU = (100, 60)


class Menu:
    """A popup on a wide window, which is at ``place`` on its parent's frame."""

    def __init__(self, t: Talk, place: tuple[int, int], size=MENU) -> None:
        self.talk = t
        self.window, self.parent, _ = t.show(*WIDE, 0)
        self.surface, self.xdg, self.role = popup(t, self.parent, size)
        t.configured(self.xdg)
        self.serial = self.place(*place, size)

    def place(self, x: int, y: int, size: tuple[int, int]) -> int:
        """The compositor's word; the client has not answered it yet."""
        t = self.talk
        xdg = t.server_side(self.xdg)
        t.model.serial += 1
        serial = t.model.serial
        outer = size[0] + 8, size[1] + 8
        t.model.tell(t.server_side(self.role), "configure", x, y, *outer)
        xdg.state["serials"].append(serial)
        t.model.tell(xdg, "configure", serial)
        t.pump()
        return serial

    def show(self, w: int, h: int, serial: int | None = None) -> None:
        """Draw a picture, for this configure if for any."""
        if serial is not None:
            self.talk.send(self.xdg, "ack_configure", serial)
        self.talk.paint(self.surface, w, h, 0)
        self.talk.send(self.surface, "commit")

    def shrink_window(self) -> None:
        self.talk.send(self.parent, "set_window_geometry", 0, 0, 10, 10)
        self.talk.send(self.window, "commit")

    @property
    def outer(self) -> tuple[int, int] | None:
        """Its frame's size, as the compositor shows it."""
        (root,) = self.roots() or (None,)
        return root.size() if root is not None else None

    def roots(self) -> list:
        return [r for r in self.talk.model.roots() if r.xdg is self._model_xdg()]

    def _model_xdg(self):
        return self.talk.server_side(self.xdg)

    @property
    def dismissed(self) -> bool:
        return self.talk.heard("popup_done", self.role) == [[]]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((-108, 0), (108, 18)),
        ((-18, 0), (18, 18)),
        ((0, -68), (18, 68)),
        ((-19, -19), (108, 68)),
        ((5, 5), (18, 18)),
    ],
)
def test_a_small_one_left_of_its_window_or_above_keeps_the_size_it_was_placed_with(
    talk, place, expected
):
    """Its place is its upper left corner's: it would be alone, as far as it likes."""
    menu = Menu(talk, place)
    menu.show(10, 10, menu.serial)
    assert menu.outer == expected
    assert all(contained(*pair) for pair in guest_rects(talk))
    menu.show(*MENU)
    assert menu.outer == (108, 68)
    assert not menu.dismissed


def test_one_that_is_first_shown_when_its_window_has_shrunk_is_not_shown(talk):
    menu = Menu(talk, (850, 10))
    menu.shrink_window()
    menu.show(*MENU, menu.serial)
    assert menu.outer is None
    assert menu.dismissed


def test_a_place_that_it_does_not_acknowledge_keeps_it_nowhere(talk):
    """Until it does so most compositors have it where it was."""
    menu = Menu(talk, (850, 10))
    menu.show(*MENU, menu.serial)
    menu.place(0, 0, MENU)
    menu.shrink_window()
    assert menu.outer is None
    assert menu.dismissed


def test_a_place_that_is_acknowledged_too_late_is_none(talk):
    menu = Menu(talk, (5, 5))
    menu.show(*MENU, menu.serial)
    menu.shrink_window()
    assert menu.outer == (108, 68)
    menu.place(850, 10, MENU)
    assert menu.outer is None, "some compositors move it at once"
    assert menu.dismissed


def test_a_place_that_it_acknowledges_and_never_takes_counts(talk):
    """It has said yes, some compositors have moved it, and no picture comes."""
    menu = Menu(talk, (5, 5))
    menu.show(*MENU, menu.serial)
    talk.send(menu.xdg, "ack_configure", menu.place(850, 10, MENU))
    menu.shrink_window()
    assert menu.outer is None
    assert menu.dismissed


def test_a_place_that_it_has_passed_over_counts_until_it_takes_the_next(talk):
    """KWin has it there: the next one is of another size, and waits for a picture."""
    menu = Menu(talk, (5, 5))
    menu.show(*MENU, menu.serial)
    menu.place(850, 10, MENU)
    talk.send(menu.xdg, "ack_configure", menu.place(0, 0, (50, 50)))
    menu.shrink_window()
    assert menu.outer is None
    assert menu.dismissed


def test_one_that_is_told_so_many_places_goes(talk):
    menu = Menu(talk, (5, 5))
    menu.show(*MENU, menu.serial)
    for _ in range(limits.WAYLAND_SERIALS):
        menu.place(5, 5, MENU)
    assert menu.outer == (108, 68)
    menu.place(5, 5, MENU)
    assert menu.outer is None
    assert menu.dismissed
    assert not talk.core.by_client[menu.role].sid, "the compositor has it no more"
    assert len(talk.core.by_client[menu.role].told) <= limits.WAYLAND_SERIALS + 1


def test_one_that_is_moved_follows_its_window(talk):
    menu = Menu(talk, (850, 10))
    menu.show(*MENU, menu.serial)
    menu.show(*MENU, menu.place(0, 0, MENU))
    menu.shrink_window()
    assert menu.outer == (108, 68)
    assert not menu.dismissed


def test_a_small_one_that_is_moved_at_once_grows_at_once(talk):
    """KWin moves one whose size stays without waiting for an answer."""
    menu = Menu(talk, (5, 5))
    menu.show(10, 10, menu.serial)
    assert menu.outer == (18, 18)
    menu.place(-90, 5, MENU)
    assert menu.outer == (108, 18)
    assert not menu.dismissed


def test_an_answer_that_changes_nothing_is_no_commit_of_ours(talk):
    menu = Menu(talk, (5, 5))
    menu.show(*MENU, menu.serial)
    before = talk.model.commits
    menu.place(20, 5, MENU)
    assert talk.model.commits == before


def test_nothing_is_promoted_on_one_that_is_not_shown():
    with Talk(WindowRules("work", promote=True)) as t:
        t.start()
        menu = Menu(t, (850, 10))
        menu.shrink_window()
        child = t.surface()
        t.child(child, menu.surface, 90, 50)
        t.paint(child, 80, 80, 0)
        t.send(child, "commit")
        menu.show(*MENU, menu.serial)
        assert menu.outer is None
        assert t.core.promoted == set()
        assert t.sandbox.totals["popups"] == 1


# -- at random -------------------------------------------------------------------------

SIDE = st.sampled_from([1, 9, 60, 100, 250])
FAR = st.integers(-300, 900)
OPS = st.one_of(
    st.tuples(st.just("place"), FAR, FAR, SIDE, SIDE),
    st.tuples(st.just("move"), FAR, FAR),
    st.tuples(st.just("acknowledge"), st.integers(0, 3)),
    st.tuples(st.just("draw"), SIDE, SIDE),
    st.tuples(st.just("commit")),
    st.tuples(st.just("resize"), SIDE, SIDE),
)


class Placed(Menu):
    """Knows where the compositor has it: ``hasty`` ones move it before its answer.

    They do so when it is as large already as they tell it to be, and put it where
    it was told when that is acknowledged, as KWin does.
    """

    def __init__(self, t: Talk, *, hasty: bool) -> None:
        self.hasty = hasty
        self.told: list[tuple[int, tuple[int, int]]] = []
        self.at = (5, 5)
        self.taken: tuple[int, int] | None = None
        super().__init__(t, (5, 5))
        self.op_acknowledge(0)
        self.show(*MENU)

    def op_place(self, x: int, y: int, w: int, h: int) -> None:
        """An honest compositor's: it touches the window as that is now."""
        wide, high = self.parents
        place = max(-w - 8, min(x, wide)), max(-h - 8, min(y, high))
        at_once = self.hasty and self.outer == (w + 8, h + 8)
        self.place(*place, (w, h))
        if at_once:
            self.at = place

    def op_move(self, x: int, y: int) -> None:
        wide, high = self.outer
        self.op_place(x, y, wide - 8, high - 8)

    def place(self, x: int, y: int, size: tuple[int, int]) -> int:
        serial = super().place(x, y, size)
        self.told.append((serial, (x, y)))
        return serial

    def op_acknowledge(self, which: int) -> None:
        if self.told:
            which = min(which, len(self.told) - 1)
            serial, self.taken = self.told[which]
            del self.told[: which + 1]
            self.talk.send(self.xdg, "ack_configure", serial)

    def op_draw(self, w: int, h: int) -> None:
        self.talk.paint(self.surface, w, h, 0)

    def op_commit(self) -> None:
        self.at, self.taken = self.taken or self.at, None
        self.talk.send(self.surface, "commit")

    def op_resize(self, w: int, h: int) -> None:
        self.talk.send(self.parent, "set_window_geometry", 0, 0, w, h)
        self.talk.send(self.window, "commit")

    @property
    def parents(self) -> tuple[int, int]:
        """The window's size, as the compositor shows it."""
        xdg = self.talk.server_side(self.parent)
        (root,) = (r for r in self.talk.model.roots() if r.xdg is xdg)
        return root.size()


@settings(max_examples=200)
@pytest.mark.parametrize("hasty", [False, True])
@given(ops=st.lists(OPS, max_size=30))
def test_no_menu_is_ever_shown_away_from_its_window(hasty, ops):
    with Talk() as t:
        menu = Placed(t.start(), hasty=hasty)
        assert menu.outer == (108, 68)
        for name, *args in ops:
            getattr(menu, f"op_{name}")(*args)
            if menu.outer is None:
                assert menu.dismissed
                return
            (w, h), (x, y), (wide, high) = menu.outer, menu.at, menu.parents
            assert -w <= x <= wide, (name, args)
            assert -h <= y <= high, (name, args)


def test_nothing_is_sent_of_a_popup_that_the_compositor_closed(talk, monkeypatch):
    """sway 1.7 takes its next commit for one before the first configure."""
    menu = Menu(talk, (10, 10))
    menu.show(*MENU, menu.serial)
    (root,) = menu.roots()
    commits, whole = [], talk.model.wl_surface_commit

    def committed(surface) -> None:
        commits.append(surface)
        whole(surface)

    monkeypatch.setattr(talk.model, "wl_surface_commit", committed)
    talk.model.tell(talk.server_side(menu.role), "popup_done")
    talk.pump()
    menu.show(*MENU)
    talk.send(menu.window, "commit")
    assert commits, "the window's own"
    assert root not in commits
    talk.send(menu.role, "destroy")
    talk.send(menu.xdg, "destroy")
    assert talk.heard("popup_done") == [[]]
    assert root.oid not in talk.model.things


class ClosingModel(Model):
    """A compositor that refuses what sway 1.7 does: commits of popups it has closed."""

    def __init__(self) -> None:
        old = {**dict(GLOBALS), "xdg_wm_base": 2}
        super().__init__(list(old.items()))
        self.closed = self.frames = 0

    def close(self, role) -> None:
        """Close a popup; its client does not know yet."""
        self.closed = role.oid

    def wl_surface_commit(self, surface) -> None:
        role = surface.xdg.state.get("role") if surface.xdg is not None else None
        if role is not None and role.kind == "xdg_popup":
            assert role.oid != self.closed, "xdg_surface has never been configured"
            self.frames += 1
        super().wl_surface_commit(surface)


def test_a_picture_on_its_way_to_a_menu_that_sway_closes_ends_nothing():
    """As a menu's that no longer marks the row that the pointer has left."""
    model = ClosingModel()
    with Talk(model=model) as talk:
        menu = Menu(talk.start(), (10, 10))
        menu.show(*MENU, menu.serial)
        content = talk.server_side(menu.surface)
        before, frames = content.now["buffer"], model.frames
        menu.show(*MENU)
        assert content.now["buffer"] is not before, "it is shown"
        assert model.frames == frames
        role = talk.server_side(menu.role)
        model.close(role)
        menu.show(*MENU)
        model.tell(role, "popup_done")
        talk.pump()
        menu.show(*MENU)
        talk.send(menu.role, "destroy")
        talk.send(menu.xdg, "destroy")
        assert talk.core.fault is None


def test_a_menu_of_another_size_or_place_comes_with_its_frame():
    model = ClosingModel()
    with Talk(model=model) as talk:
        menu = Menu(talk.start(), (10, 10))
        menu.show(*MENU, menu.serial)
        frames = model.frames
        menu.show(50, 40)
        assert (model.frames, menu.outer) == (frames + 1, (58, 48))
        serial = menu.place(20, 10, MENU)
        menu.show(50, 40, serial)
        assert model.frames == frames + 2
        talk.child(talk.surface(), menu.surface, 0, 0)
        frames = model.frames
        menu.show(50, 40)
        assert model.frames == frames + 1
