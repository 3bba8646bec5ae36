"""Canonical orders: what of each request is sent in each state of its window or seat.

The model compositor refuses all others (``tests/kit/wayland/model_grammar.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import OPTIONS
from broker.jail.wayland.canonical import DEVICES, ORDERS, Treatment, WindowState
from broker.jail.wayland.handlers import foreign_drags
from broker.jail.wayland.handlers.drag_start import DragStart
from broker.jail.wayland.handlers.exported_windows import ExportedWindow
from broker.jail.wayland.input_model import BoundGlobal
from broker.jail.wayland.model import Popup, Toplevel
from broker.jail.wayland.sandbox import LOCAL_DRAG_MARK, Sandbox
from docs.tables.wayland import canonical as canonical_page
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.model import GLOBALS, Model
from tests.kit.wayland.talk import Talk

DECORATIONS = "zxdg_decoration_manager_v1"
DECORATION = "zxdg_toplevel_decoration_v1"
KDE_DECORATIONS = "org_kde_kwin_server_decoration_manager"
KDE_DECORATION = "org_kde_kwin_server_decoration"
DIALOGS, DIALOG = "xdg_wm_dialog_v1", "xdg_dialog_v1"
EXPORTER, EXPORTED = "zxdg_exporter_v2", "zxdg_exported_v2"
IMPORTER, IMPORTED = "zxdg_importer_v2", "zxdg_imported_v2"
TEXT_INPUTS = "zwp_text_input_manager_v3"
DATA = "wl_data_device_manager"
OFFERS = [
    *GLOBALS,
    (DECORATIONS, 1),
    (KDE_DECORATIONS, 1),
    (DIALOGS, 1),
    (EXPORTER, 1),
    (IMPORTER, 1),
    ("xdg_system_bell_v1", 1),
    ("zwp_relative_pointer_manager_v1", 1),
    ("zwp_pointer_gestures_v1", 3),
]
PRESS = 50
HOST_HANDLE = b"handle of the compositor"
SERVER_SIDE, CLIENT_SIDE = 2, 1


class BareSeat(Model):
    """A compositor whose seat has the capabilities that a test sets."""

    bits = 0

    def tell(self, thing, name, *args):
        super().tell(thing, name, *((self.bits,) if name == "capabilities" else args))

    def change(self, bits: int) -> None:
        self.bits = bits
        for seat in [t for t in self.things.values() if t.kind == "wl_seat"]:
            self.tell(seat, "capabilities", bits)


class Program(Talk):
    """A program of a sandbox."""

    def __init__(self, sandbox: Sandbox | None = None, model: Model | None = None):
        super().__init__(
            WindowRules("work", allow=OPTIONS),
            sandbox=sandbox or Sandbox("work"),
            model=model or Model(list(OFFERS)),
        )
        self.start()

    def new_window(self) -> tuple[int, int, int]:
        surface = self.surface()
        return (surface, *self.toplevel(surface))

    def map(self, surface: int, xdg: int) -> None:
        self.send(surface, "commit")
        self.configured(xdg)
        self.paint(surface, 60, 40, 0)
        self.send(surface, "commit")

    def unmap(self, surface: int) -> None:
        self.send(surface, "attach", 0, 0, 0)
        self.send(surface, "commit")

    def export(self, surface: int) -> bytes:
        created = self.make(self.bind(EXPORTER), "export_toplevel", EXPORTED, None, surface)  # fmt: skip
        return self.heard("handle", created)[0][0]

    def bring(self, handle: bytes) -> int:
        return self.make(self.bind(IMPORTER), "import_toplevel", IMPORTED, None, handle)

    def answer_exports(self) -> None:
        """The compositor gives the handles of what is exported."""
        for exported in [t for t in self.model.things.values() if t.kind == EXPORTED]:
            if not exported.state.get("answered"):
                exported.state["answered"] = True
                self.model.tell(exported, "handle", HOST_HANDLE)
        self.pump()

    def set_parents(self) -> list[int]:
        """Return the compositor's ids that xdg_toplevel.set_parent named; 0 for none."""
        parents = [args[0] for args in self.told("xdg_toplevel", "set_parent")]
        return [thing.oid if thing is not None else 0 for thing in parents]


@pytest.fixture
def program():
    with Program() as created:
        yield created


@pytest.fixture
def two():
    sandbox = Sandbox("work")
    with Program(sandbox) as owner, Program(sandbox) as other:
        yield owner, other
    assert not sandbox.exports


def test_page_is_what_the_tables_print():
    page = (Path(__file__).parents[4] / "docs/wayland.md").read_text()
    assert canonical_page.updated(page) == page


def test_relation_of_the_page_is_an_attribute():
    classes = {c.__name__: c for c in (Toplevel, Popup, ExportedWindow, BoundGlobal, DragStart)}  # fmt: skip
    for relation in canonical_page.RELATIONS:
        name, attribute = relation.attribute.split(".")
        slots = {s for c in classes[name].__mro__ for s in getattr(c, "__slots__", ())}
        assert attribute in slots


# -- each row of ORDERS in each state -------------------------------------------------------


class Actor(Program):
    """A program with a window in one state, and what requests about it need."""

    def __init__(self, state: WindowState, *, kde: bool = False):
        super().__init__()
        self.kde = kde
        self.seat = self.bind("wl_seat")
        self.make(self.seat, "get_pointer", "wl_pointer")
        self.win, self.xdg, self.top = self.new_window()
        self.decoration = self.decorate()
        self.dialog = self.make(self.bind(DIALOGS), "get_xdg_dialog", DIALOG, None, self.top)  # fmt: skip
        self.parent_surface, _, self.parent_top = self.show(60, 40, 0)
        if state is not WindowState.NEW:
            self.map(self.win, self.xdg)
            surface = self.server_side(self.win)
            self.all_hear("wl_pointer", "enter", PRESS - 1, surface, 256, 256)
            self.all_hear("wl_pointer", "button", PRESS, 1, 0x110, 1)
        if state is WindowState.UNMAPPED:
            self.unmap(self.win)
        self.model.requests.clear()

    def decorate(self) -> int:
        if self.kde:
            manager = self.bind(KDE_DECORATIONS)
            return self.make(manager, "create", KDE_DECORATION, None, self.win)
        manager = self.bind(DECORATIONS)
        return self.make(manager, "get_toplevel_decoration", DECORATION, None, self.top)


def _decorate_again(a: Actor) -> None:
    a.send(a.decoration, "release" if a.kde else "destroy")
    a.decorate()


def _dialog(a: Actor) -> None:
    a.make(a.bind(DIALOGS), "get_xdg_dialog", DIALOG, None, a.top)


def _drag(a: Actor) -> None:
    device = a.make(a.bind(DATA), "get_data_device", "wl_data_device", None, a.seat)
    a.send(device, "start_drag", 0, a.win, 0, PRESS)


def _activate(a: Actor) -> None:
    a.sandbox.keep_token(b"token", a.now)
    a.send(a.bind("xdg_activation_v1"), "activate", b"token", a.win)


def _name_surface(a: Actor) -> None:
    kind = "xdg_activation_token_v1"
    token = a.make(a.bind("xdg_activation_v1"), "get_activation_token", kind)
    a.send(token, "set_surface", a.win)


def _import(a: Actor) -> None:
    a.send(a.bring(a.export(a.parent_surface)), "set_parent_of", a.win)


ASK: dict[tuple[str, str], Callable[[Actor], object]] = {
    (DECORATIONS, "get_toplevel_decoration"): _decorate_again,
    (DECORATION, "set_mode"): lambda a: a.send(a.decoration, "set_mode", SERVER_SIDE),
    (DECORATION, "unset_mode"): lambda a: a.send(a.decoration, "unset_mode"),
    (KDE_DECORATIONS, "create"): _decorate_again,
    (KDE_DECORATION, "request_mode"): lambda a: a.send(
        a.decoration, "request_mode", SERVER_SIDE
    ),
    (DIALOGS, "get_xdg_dialog"): _dialog,
    (DIALOG, "set_modal"): lambda a: a.send(a.dialog, "set_modal"),
    (DIALOG, "unset_modal"): lambda a: a.send(a.dialog, "unset_modal"),
    ("xdg_toplevel", "set_parent"): lambda a: a.send(a.top, "set_parent", a.parent_top),
    (IMPORTED, "set_parent_of"): _import,
    (EXPORTER, "export_toplevel"): lambda a: a.export(a.win),
    ("xdg_toplevel", "move"): lambda a: a.send(a.top, "move", a.seat, PRESS),
    ("xdg_toplevel", "resize"): lambda a: a.send(a.top, "resize", a.seat, PRESS, 2),
    ("xdg_toplevel", "show_window_menu"): lambda a: a.send(
        a.top, "show_window_menu", a.seat, PRESS, 1, 1
    ),
    ("wl_data_device", "start_drag"): _drag,
    ("xdg_activation_v1", "activate"): _activate,
    ("xdg_activation_token_v1", "set_surface"): _name_surface,
    ("xdg_system_bell_v1", "ring"): lambda a: a.send(
        a.bind("xdg_system_bell_v1"), "ring", a.win
    ),
}
SENT_AS = {(IMPORTED, "set_parent_of"): ("xdg_toplevel", "set_parent")}
"""Imports of one connection."""
STATES = [WindowState.NEW, WindowState.MAPPED, WindowState.UNMAPPED]


def count(a: Actor, request: tuple[str, str]) -> int:
    """Return how often a request reached the compositor and named the window."""
    requests = a.told(*SENT_AS.get(request, request))
    if request[1] in {"ring", "set_parent", "set_parent_of"}:
        requests = [args for args in requests if args[0] is not None]
    # The start of a drag that nothing follows is asked for twice.
    return min(len(requests), 1) if request[1] == "start_drag" else len(requests)


def test_each_row_is_tried():
    assert ASK.keys() == ORDERS.keys()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.value)
@pytest.mark.parametrize("request_", ASK, ids=".".join)
def test_request_is_sent_held_or_dropped_by_its_row(request_, state):
    with Actor(state, kde="kde" in request_[0]) as a:
        rule = ORDERS[request_].rule(state)
        ASK[request_](a)
        assert count(a, request_) == (1 if rule is Treatment.SEND else 0)
        if state is not WindowState.MAPPED:
            a.send(a.win, "commit")
            committed = rule in {Treatment.SEND, Treatment.COMMIT}
            assert count(a, request_) == (1 if committed else 0)
            a.configured(a.xdg)
            a.paint(a.win, 60, 40, 0)
            a.send(a.win, "commit")
        assert count(a, request_) == (0 if rule is Treatment.DROP else 1)


@pytest.mark.parametrize("request_", ASK, ids=".".join)
def test_request_held_for_destroyed_window_is_never_sent(request_):
    with Actor(WindowState.UNMAPPED, kde="kde" in request_[0]) as a:
        ASK[request_](a)
        sent = count(a, request_)
        a.send(a.top, "destroy")
        a.send(a.xdg, "destroy")
        a.roundtrip()
        assert count(a, request_) == sent


# -- decorations ------------------------------------------------------------------------


def test_last_of_held_modes_wins(program):
    p = program
    surface, xdg, top = p.new_window()
    decoration = p.make(p.bind(DECORATIONS), "get_toplevel_decoration", DECORATION, None, top)  # fmt: skip
    p.map(surface, xdg)
    p.unmap(surface)
    p.send(decoration, "set_mode", SERVER_SIDE)
    p.send(decoration, "unset_mode")
    p.send(decoration, "set_mode", CLIENT_SIDE)
    assert not p.told(DECORATION, "set_mode")
    p.map(surface, xdg)
    modes = [(n, *args) for k, n, args in p.model.requests if k == DECORATION]
    assert modes == [("unset_mode",), ("set_mode", CLIENT_SIDE)]


def test_program_hears_that_a_decoration_too_late_is_its_own(program):
    p = program
    surface, xdg, top = p.new_window()
    p.map(surface, xdg)
    p.unmap(surface)
    decoration = p.make(p.bind(DECORATIONS), "get_toplevel_decoration", DECORATION, None, top)  # fmt: skip
    assert p.heard("configure", decoration) == [[CLIENT_SIDE]]
    p.send(decoration, "set_mode", SERVER_SIDE)
    p.map(surface, xdg)
    p.send(decoration, "destroy")
    p.roundtrip()
    assert not p.told(DECORATIONS, "get_toplevel_decoration")


# -- parents -----------------------------------------------------------------------------


def test_parent_is_unset_before_another_is_set(program):
    p = program
    first, second, child = (p.show(60, 40, 0) for _ in range(3))
    p.send(child[2], "set_parent", first[2])
    p.send(child[2], "set_parent", second[2])
    p.send(child[2], "set_parent", 0)
    p.send(child[2], "set_parent", 0)
    of = [p.server_side(w[2]).oid for w in (first, second)]
    assert p.set_parents() == [of[0], 0, of[1], 0]


def test_children_of_unmapped_window_get_its_parent(program):
    """A compositor that derives the same itself may make a ring of it later."""
    p = program
    oldest, middle, child = (p.show(60, 40, 0) for _ in range(3))
    p.send(middle[2], "set_parent", oldest[2])
    p.send(child[2], "set_parent", middle[2])
    p.unmap(middle[0])
    child_thing = p.server_side(child[2])
    assert child_thing.state["parent"] is p.server_side(oldest[2])
    p.send(middle[2], "set_parent", 0)
    with pytest.raises(ServerError, match="its own parent"):
        p.send(oldest[2], "set_parent", child[2])


def test_unmapped_window_has_its_parent_again_once_it_is_committed(program):
    p = program
    parent, child = p.show(60, 40, 0), p.show(60, 40, 0)
    p.send(child[2], "set_parent", parent[2])
    p.unmap(child[0])
    assert p.server_side(child[2]).state["parent"] is None
    p.send(child[0], "commit")
    assert p.server_side(child[2]).state["parent"] is p.server_side(parent[2])


def test_parent_that_is_mapped_later_is_set_then(program):
    p = program
    child = p.show(60, 40, 0)
    parent = p.new_window()
    p.send(child[2], "set_parent", parent[2])
    assert p.set_parents() == []
    p.map(*parent[:2])
    assert p.set_parents() == [p.server_side(parent[2]).oid]


def test_parent_of_destroyed_window_is_forgotten(program):
    p = program
    parent, child = p.show(60, 40, 0), p.new_window()
    p.send(child[2], "set_parent", parent[2])
    p.send(parent[2], "destroy")
    p.map(*child[:2])
    assert p.set_parents()[1:] == [0]
    assert p.core.by_client[child[2]].parent is None


def test_late_handle_sets_no_parent_that_was_taken_back(two):
    """The filter alone closed a ring so: the compositor's handle came for both imports."""
    owner, other = two
    late = owner.new_window()
    handle = owner.export(late[0])
    child, third = other.show(60, 40, 0), other.show(60, 40, 0)
    imported = other.bring(handle)
    other.send(imported, "set_parent_of", child[0])
    other.send(child[2], "set_parent", 0)
    owner.map(*late[:2])
    again = other.bring(handle)
    other.send(again, "set_parent_of", third[0])
    owner.answer_exports()
    other.pump()
    roots = [args[0] for args in other.told(IMPORTED, "set_parent_of")]
    assert roots == [other.server_side(third[0]).parent]


def test_import_sets_one_parent_at_the_compositor(two):
    owner, other = two
    parent, child = owner.show(60, 40, 0), other.show(60, 40, 0)
    imported = other.bring(owner.export(parent[0]))
    owner.answer_exports()
    other.send(imported, "set_parent_of", child[0])
    other.send(imported, "set_parent_of", child[0])
    names = [n for k, n, _ in other.model.requests if k == IMPORTED]
    assert names == ["set_parent_of", "destroy", "set_parent_of"]
    owner.unmap(parent[0])
    other.pump()
    assert len(other.told(IMPORTED, "destroy")) == 2
    assert owner.told(EXPORTED, "destroy")
    owner.map(*parent[:2])
    owner.answer_exports()
    other.send(imported, "set_parent_of", child[0])
    assert len(other.told(IMPORTED, "set_parent_of")) == 3


def test_parent_by_import_ends_with_its_export(two):
    owner, other = two
    parent, child = owner.show(60, 40, 0), other.show(60, 40, 0)
    exported = owner.make(owner.bind(EXPORTER), "export_toplevel", EXPORTED, None, parent[0])  # fmt: skip
    handle = owner.heard("handle", exported)[0][0]
    owner.answer_exports()
    other.send(other.bring(handle), "set_parent_of", child[0])
    owner.send(exported, "destroy")
    other.pump()
    assert other.told(IMPORTED, "destroy")
    assert other.core.by_client[child[2]].parent is None


def test_removed_parent_counts_until_the_compositor_has_read_that(two):
    """It reads two connections in any order: a new relation could close a ring."""
    owner, other = two
    parent, child = owner.show(60, 40, 0), other.show(60, 40, 0)
    handle = owner.export(parent[0])
    back = other.export(child[0])
    owner.answer_exports()
    other.answer_exports()
    imported = other.bring(handle)
    other.send(imported, "set_parent_of", child[0])
    answers: list[tuple] = []
    other.model.wl_display_sync = lambda _display, callback: answers.append(callback)
    other.send(child[2], "set_parent", 0)
    other.send(imported, "set_parent_of", child[0])
    other.send(child[2], "set_parent", 0)
    assert len(other.told(IMPORTED, "destroy")) == 2
    returned = owner.bring(back)
    owner.send(returned, "set_parent_of", parent[0])
    assert not owner.told(IMPORTED, "set_parent_of")
    assert len(answers) == 2
    other.model.tell(answers[0], "done", 0)
    other.pump()
    owner.pump()
    assert not owner.told(IMPORTED, "set_parent_of"), "it was set and removed once more"
    other.model.tell(answers[1], "done", 0)
    other.pump()
    owner.pump()
    assert len(owner.told(IMPORTED, "set_parent_of")) == 1


# -- drags ---------------------------------------------------------------------------------


class Dragging(Actor):
    """A program that has begun a drag without a source."""

    def __init__(self):
        super().__init__(WindowState.MAPPED)
        self.device = self.make(self.bind(DATA), "get_data_device", "wl_data_device", None, self.seat)  # fmt: skip
        self.send(self.device, "start_drag", 0, self.win, 0, PRESS)
        ((self.mime,),) = self.told("wl_data_source", "offer")

    def come_over(self, mime: bytes) -> None:
        """The compositor drags over the program's window."""
        device = self.server_side(self.device)
        offer = self.model.server_offer(device)
        self.model.tell(offer, "offer", mime)
        self.model.tell(device, "enter", 70, self.server_side(self.win), 0, 0, offer)
        self.pump()


def test_drag_without_source_has_one_of_the_filter(two):
    with Dragging() as p:
        assert p.mime.startswith(LOCAL_DRAG_MARK)
        (source, *_), *_ = p.told("wl_data_device", "start_drag")
        assert source is not None
        assert source.kind == "wl_data_source"
        p.come_over(p.mime)
        (enter,) = p.heard("enter", p.device)
        assert enter[4] == 0
        assert p.told("wl_data_offer", "accept") == [[70, p.mime]]
        p.model.tell(p.server_side(p.device), "drop")
        p.model.tell(p.server_side(p.device), "leave")
        p.pump()
        assert p.heard("drop", p.device)
        assert p.told("wl_data_offer", "destroy")
        p.model.tell(source, "cancelled")
        p.pump()
        assert source.oid not in p.model.things


def test_drag_without_source_is_seen_by_no_other_client():
    class Hand:
        """Records the foreign drags that the viewer would receive."""

        def __init__(self):
            self.drags, self.reports = self, []

        def over(self, drag: foreign_drags.Over) -> None:  # style: the port's method
            self.reports.append(drag)

    with Dragging() as p:
        p.sandbox.hand = hand = Hand()
        p.come_over(LOCAL_DRAG_MARK + b"of another client")
        assert not p.heard("enter", p.device)
        assert not hand.reports
        p.come_over(b"text/plain")
        assert len(hand.reports) == 1
        p.sandbox.hand = None


# -- seats ---------------------------------------------------------------------------------


def ask_device(p: Program, request: tuple[str, str]) -> int:
    if request[0] == "wl_seat":
        return p.make(p.seat, request[1], request[1].replace("get", "wl"))
    manager = p.bind(TEXT_INPUTS)
    text = p.make(manager, request[1], "zwp_text_input_v3", None, p.seat)
    p.send(manager, "destroy")
    return text


class Bare(Program):
    def __init__(self):
        super().__init__(model=BareSeat(list(OFFERS)))
        self.seat = self.bind("wl_seat")

    def change(self, bits: int) -> None:
        self.model.change(bits)
        self.pump()

    def sent(self, request: tuple[str, str]) -> list[int]:
        """Return the ids of the program's devices that the compositor was asked for."""
        its = {obj.sid for obj in self.core.by_client.values()}
        created = [args[0].oid for args in self.told(*request)]
        return [oid for oid in created if oid in its]


@pytest.mark.parametrize("request_", DEVICES, ids=".".join)
def test_device_is_requested_once_its_seat_has_the_capability(request_):
    with Bare() as p:
        ask_device(p, request_)
        p.roundtrip()
        assert not p.sent(request_)
        p.change(DEVICES[request_])
        assert len(p.sent(request_)) == 1
        ask_device(p, request_)
        assert len(p.sent(request_)) == 2


@pytest.mark.parametrize("request_", DEVICES, ids=".".join)
def test_device_of_bare_seat_is_used_and_ended(request_):
    with Bare() as p:
        device = ask_device(p, request_)
        name = "destroy" if request_[0] == TEXT_INPUTS else "release"
        p.send(device, name)
        p.roundtrip()
        p.change(DEVICES[request_])
        assert not p.sent(request_)


def test_devices_that_wait_are_forgotten_with_their_objects():
    with Bare() as p:
        for _ in range(200):
            p.send(p.make(p.seat, "get_keyboard", "wl_keyboard"), "release")
        assert len(p.core.by_client[p.seat].waiting) <= 1


def test_what_is_made_of_a_pointer_that_is_not_there_is_local():
    with Bare() as p:
        pointer = p.make(p.seat, "get_pointer", "wl_pointer")
        p.model.requests.clear()
        for manager, name, kind in (
            ("zwp_relative_pointer_manager_v1", "get_relative_pointer", "zwp_relative_pointer_v1"),
            ("zwp_pointer_gestures_v1", "get_swipe_gesture", "zwp_pointer_gesture_swipe_v1"),
            ("zwp_pointer_gestures_v1", "get_hold_gesture", "zwp_pointer_gesture_hold_v1"),
            ("wp_cursor_shape_manager_v1", "get_pointer", "wp_cursor_shape_device_v1"),
        ):  # fmt: skip
            created = p.make(p.bind(manager), name, kind, None, pointer)
            p.send(created, "destroy")
            assert not p.told(manager, name)
        p.send(pointer, "set_cursor", 1, 0, 0, 0)
        p.send(pointer, "release")
        p.roundtrip()


def test_keyboard_of_seat_that_lost_it_waits_for_the_next():
    with Bare() as p:
        p.change(2)
        p.change(0)
        p.make(p.seat, "get_keyboard", "wl_keyboard")
        assert not p.sent(("wl_seat", "get_keyboard"))
        p.change(2)
        assert len(p.sent(("wl_seat", "get_keyboard"))) == 1
