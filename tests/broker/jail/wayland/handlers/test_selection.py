"""Clipboard, primary selection and drags stay inside their sandbox."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.handlers import foreign_drags
from broker.jail.wayland.handlers.selection import DataSource
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk

LEFT = 0x110
KINDS = {
    "clipboard": (
        "wl_data_device_manager",
        "wl_data_device",
        "wl_data_source",
        "get_data_device",
        "create_data_source",
    ),
    "primary": (
        "zwp_primary_selection_device_manager_v1",
        "zwp_primary_selection_device_v1",
        "zwp_primary_selection_source_v1",
        "get_device",
        "create_source",
    ),
}


class Person(Talk):
    """A client with a window, a seat and both kinds of devices."""

    def start(self):
        super().start()
        self.seat = self.bind("wl_seat")
        self.keyboard = self.make(self.seat, "get_keyboard", "wl_keyboard")
        self.pointer = self.make(self.seat, "get_pointer", "wl_pointer")
        self.win, _, _ = self.show(100, 100, 0)
        self.managers, self.devices = {}, {}
        for kind, (manager, device, _, get, _) in KINDS.items():
            self.managers[kind] = self.bind(manager)
            self.devices[kind] = self.make(
                self.managers[kind], get, device, None, self.seat
            )
        return self

    def focus(self, serial: int = 50) -> None:
        self.says(self.keyboard, "enter", serial, self.model.roots()[0], b"")

    def says(self, oid: int, name: str, *args) -> None:
        self.model.tell(self.server_side(oid), name, *args)
        self.pump()

    def copy(self, kind: str, *mimes: bytes, serial: int = 50) -> int:
        _, _, source_kind, _, create = KINDS[kind]
        source = self.make(self.managers[kind], create, source_kind)
        for mime in mimes:
            self.send(source, "offer", mime)
        self.send(self.devices[kind], "set_selection", source, serial)
        return source

    def offered(self, kind: str) -> tuple[int, list[bytes]]:
        """The present selection: the offer's id (0: none) and its types."""
        ((*_, offer),) = list(self.heard("selection", self.devices[kind])[-1:])
        return offer, [a[0] for a in self.heard("offer", offer)]


@pytest.fixture
def pair():
    sandbox = Sandbox("work")
    with Person(sandbox=sandbox) as one, Person(sandbox=sandbox) as two:
        one.start()
        two.start()
        yield one, two


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_application_copies_another_of_the_sandbox_pastes(pair, kind):
    one, two = pair
    one.focus()
    source = one.copy(kind, b"text/plain", b"text/html")
    two.focus()
    offer, mimes = two.offered(kind)
    assert mimes == [b"text/plain", b"text/html"]
    pipe = two.machine.fd("pipe")
    two.send(offer, "receive", b"text/plain", fds=[pipe])
    one.hear()
    assert one.heard("send", source) == [[b"text/plain", None]]
    assert one.received_fds[-1] is pipe


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_no_room_for_an_offer_ends_alone(pair, kind, monkeypatch):
    """Neither the origin of content, nor the worker that serves a paste."""
    one, two = pair
    one.focus()
    two.focus()
    compositor = two.bind("wl_compositor")
    for _ in range(8):
        two.make(compositor, "create_region", "wl_region")
    monkeypatch.setattr(limits, "WAYLAND_OBJECTS", len(two.core.by_client))
    one.copy(kind, b"text/plain")
    assert one.offered(kind)[1] == [b"text/plain"]
    assert one.core.fault is None
    assert "too many objects" in str(two.core.fault)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_it_reaches_the_compositor_or_another_sandbox(pair, kind):
    one, _ = pair
    one.focus()
    one.copy(kind, b"text/plain")
    assert not any("set_selection" in name for _, name, _ in one.model.requests)
    with Person(WindowRules("other")) as stranger:
        stranger.start().focus()
        assert stranger.offered(kind) == (0, [])


def test_the_hosts_clipboard_is_never_told(pair):
    one, _ = pair
    one.focus()
    device = one.server_side(one.devices["clipboard"])
    offer = one.model.server_offer(device)
    one.model.tell(offer, "offer", b"text/plain;secret")
    one.model.tell(device, "selection", offer)
    one.pump()
    assert not any(b"secret" in str(e).encode() for e in one.events)


def test_the_hosts_clipboard_is_let_go_of_with_the_next_offer(pair):
    """weston 10 cancels a selection whose newest offer is destroyed."""
    one, _ = pair
    one.focus()
    device = one.server_side(one.devices["clipboard"])
    for _ in range(2):
        offer = one.model.server_offer(device)
        one.model.tell(offer, "offer", b"text/plain")
        assert one.told("wl_data_offer", "destroy") == []
        one.model.tell(device, "selection", offer)
        one.pump()
    assert one.told("wl_data_offer", "destroy") == [[]]


def test_copying_without_a_delivered_serial_is_answered_and_ignored(pair):
    one, two = pair
    source = one.copy("clipboard", b"text/plain", serial=999)
    assert one.heard("cancelled", source) == [[]]
    two.focus()
    assert two.offered("clipboard") == (0, [])


@pytest.mark.parametrize("serial", [50, 999])
def test_a_copy_needs_a_serial_since_the_focus_came(pair, serial):
    """Its window has the keyboard, but the serial is old, or was never given."""
    one, _ = pair
    one.focus(50)
    one.says(one.keyboard, "leave", 51, one.model.roots()[0])
    one.focus(52)
    source = one.copy("clipboard", b"text/plain", serial=serial)
    assert one.heard("cancelled", source) == [[]]
    assert one.offered("clipboard") == (0, [])


def test_the_next_copy_cancels_the_one_before(pair):
    one, two = pair
    one.focus()
    first = one.copy("clipboard", b"a/a")
    two.focus()
    two.copy("clipboard", b"b/b")
    one.hear()
    assert one.heard("cancelled", first) == [[]]


def test_a_selection_ends_with_its_application(pair):
    one, two = pair
    one.focus()
    two.focus()
    one.copy("clipboard", b"a/a")
    two.hear()
    offer, _ = two.offered("clipboard")
    one.core.close()
    two.hear()
    assert two.offered("clipboard")[0] == 0
    pipe = two.machine.fd("pipe")
    two.send(offer, "receive", b"a/a", fds=[pipe])
    assert pipe.closed


def test_a_type_that_was_not_offered_gives_nothing(pair):
    one, two = pair
    one.focus()
    two.focus()
    one.copy("clipboard", b"a/a")
    two.hear()
    pipe = two.machine.fd("pipe")
    two.send(two.offered("clipboard")[0], "receive", b"z/z", fds=[pipe])
    assert pipe.closed


def test_only_a_pipe_is_written_into(pair):
    one, two = pair
    one.focus()
    two.focus()
    one.copy("clipboard", b"a/a")
    two.hear()
    two.machine.pipes = False
    file = two.machine.fd("file")
    two.send(two.offered("clipboard")[0], "receive", b"a/a", fds=[file])
    assert file.closed


@pytest.mark.parametrize("extra", [0, 1])
def test_types_are_bounded(pair, extra):
    one, _ = pair
    source = one.make(one.managers["clipboard"], "create_data_source", "wl_data_source")
    for n in range(limits.WAYLAND_MIMES):
        one.send(source, "offer", b"t/%d" % n)
    if extra:
        with pytest.raises(ServerError):
            one.send(source, "offer", b"one/more")


def test_a_source_is_used_once(pair):
    one, _ = pair
    one.focus()
    source = one.copy("clipboard", b"a/a")
    one.copy("clipboard", b"b/b")
    with pytest.raises(ServerError):
        one.send(one.devices["clipboard"], "set_selection", source, 50)


class InputListener(SimpleNamespace):
    """An input listener that keeps the events of drags."""

    def __init__(self):
        self.said = []
        super().__init__(drags=SimpleNamespace())
        for name in ("started", "performed", "ended", "over", "dropped"):
            setattr(
                self.drags, name, lambda it, name=name: self.said.append((name, it))
            )
        self.drags.outward = lambda source: ()
        self.drags.wanted = lambda source, mime, fd: False
        self.judge = lambda: None
        self.focus = lambda *, taken: None
        self.trouble = lambda reason: None


# -- drags ---------------------------------------------------------------------------


def drag(one: Person, icon: int = 0, serial: int = 61) -> int:
    one.says(one.pointer, "enter", 60, one.server_side(one.win), 0, 0)
    one.says(one.pointer, "button", 61, 1, LEFT, 1)
    source = one.make(one.managers["clipboard"], "create_data_source", "wl_data_source")
    one.send(source, "offer", b"text/uri-list")
    one.send(source, "set_actions", 3)
    one.send(one.devices["clipboard"], "start_drag", source, one.win, icon, serial)
    return source


def over(person: Person, mimes: list[bytes]) -> int:
    device = person.server_side(person.devices["clipboard"])
    offer = person.model.server_offer(device)
    for mime in mimes:
        person.model.tell(offer, "offer", mime)
    person.model.tell(device, "enter", 70, person.server_side(person.win), 0, 0, offer)
    person.pump()
    return offer.oid


def test_a_drag_offers_the_compositor_one_private_type(pair):
    one, _ = pair
    drag(one)
    (mimes,) = one.told("wl_data_source", "offer")
    assert mimes[0].startswith(b"application/x-vitrail-drag-")
    assert b"work" not in mimes[0]


def test_a_drag_needs_a_serial_that_was_delivered(pair):
    one, _ = pair
    source = drag(one, serial=4711)
    assert one.told("wl_data_device", "start_drag") == []
    assert one.heard("cancelled", source)


def test_a_drag_within_the_sandbox_has_its_real_types(pair):
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    over(two, [private])
    ((serial, surface, _, _, offer),) = [
        e[3] for e in two.events if e[2] == "enter" and e[0] == two.devices["clipboard"]
    ]
    assert (serial, surface) == (70, two.win)
    assert [a[0] for a in two.heard("offer", offer)] == [b"text/uri-list"]
    two.send(offer, "accept", 12345, b"text/uri-list")
    assert two.told("wl_data_offer", "accept") == [], "a serial that it was never given"
    two.send(offer, "accept", 70, b"text/uri-list")
    assert two.told("wl_data_offer", "accept") == [[70, private]]
    one.says(source, "target", private)
    assert one.heard("target", source) == [[b"text/uri-list"]]
    pipe = two.machine.fd("pipe")
    two.send(offer, "receive", b"text/uri-list", fds=[pipe])
    one.hear()
    assert one.received_fds[-1] is pipe


def test_a_late_word_about_a_drag_that_went_on_changes_nothing(pair):
    """Or a drop inside of the sandbox could be made one that others may claim."""
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    device = two.devices["clipboard"]
    for _ in range(2):
        over(two, [private])
        offer = two.heard("enter", device)[-1][-1]
        two.send(offer, "accept", 70, b"text/uri-list")
        if not two.heard("leave", device):
            old = offer
            two.says(device, "leave")
    assert old != offer
    said = len(two.told("wl_data_offer", "accept"))
    two.send(old, "accept", 70, None)
    assert len(two.told("wl_data_offer", "accept")) == said
    assert one.core.by_client[source].accepted == b"text/uri-list"


@pytest.mark.parametrize("late", ["leave", "accept"])
def test_a_window_that_a_drag_has_left_speaks_for_itself_only(pair, late):
    """Its words come by another connection than those of where the drag is now."""
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    with Person(sandbox=one.core.sandbox) as three:
        three.start()
        offers = []
        for person in (two, three):
            over(person, [private])
            ((*_, offer),) = person.heard("enter", person.devices["clipboard"])
            person.send(offer, "accept", 70, b"text/uri-list")
            offers.append(offer)
        if late == "leave":
            two.says(two.devices["clipboard"], "leave")
        else:
            two.send(offers[0], "accept", 70, None)
        assert one.core.by_client[source].accepted == b"text/uri-list"
        three.send(offers[1], "accept", 70, None)
        assert one.core.by_client[source].accepted is None


def hold_answers(one: Person) -> list:
    """Have the compositor answer ``sync`` later; returns the pending answers."""
    held: list = []
    one.model.wl_display_sync = lambda _display, callback: held.append(callback)
    return held


def answer(one: Person, held: list) -> None:
    for callback in held:
        one.model.tell(callback, "done", 0)
        one.model._remove(callback)
    held.clear()
    one.pump()


def test_a_start_that_is_passed_over_is_asked_for_from_the_frame_once(pair):
    """As KWin does, which means the window's own surface by its origin."""
    one, _ = pair
    held = hold_answers(one)
    drag(one)
    (first,) = one.told("wl_data_device", "start_drag")
    assert first[1] is one.server_side(one.win)
    for _ in range(2):
        answer(one, held)
        first, second = one.told("wl_data_device", "start_drag")
        assert second[1] is one.model.roots()[0]
        assert (second[0], *second[2:]) == (first[0], *first[2:])
    # As many as a client likes are one question at a time.
    for _ in range(5):
        drag(one)
    assert len(held) == 1
    answer(one, held)
    assert len(one.told("wl_data_device", "start_drag")) == 2 + 5 + 1


@pytest.mark.parametrize("sign", ["leave", "target", "cancelled", "enter", "gone"])
def test_a_start_that_the_compositor_has_heard_is_not_asked_for_again(pair, sign):
    one, _ = pair
    held = hold_answers(one)
    source = drag(one)
    match sign:
        case "leave":
            one.says(one.pointer, "leave", 62, one.server_side(one.win))
        case "target":
            one.says(source, "target", None)
        case "cancelled":
            one.says(source, "cancelled")
        case "enter":
            over(one, one.told("wl_data_source", "offer")[0])
        case "gone":
            one.send(source, "destroy")
    answer(one, held)
    assert len(one.told("wl_data_device", "start_drag")) == 1


def test_a_drag_over_the_frame_is_one_over_its_window(pair):
    """KWin drags over windows; a place on a strip is the nearest of the content."""
    one, _ = pair
    drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    device = one.server_side(one.devices["clipboard"])
    offer = one.model.server_offer(device)
    one.model.tell(offer, "offer", private)
    root = one.model.roots()[0]
    one.model.tell(device, "enter", 70, root, 0, 0, offer)
    one.pump()
    assert one.heard("enter", one.devices["clipboard"]) == [], "on a strip"
    one.says(one.devices["clipboard"], "motion", 4, 1, 1)
    assert one.heard("motion", one.devices["clipboard"]) == []
    one.says(one.devices["clipboard"], "motion", 4, 14 * 256, 24 * 256)
    edges = one.core.edges
    (entered,) = one.heard("enter", one.devices["clipboard"])
    assert entered[1:4] == [
        one.win,
        (14 - edges.left) * 256,
        (24 - edges.top) * 256,
    ]
    wide, high = root.size()
    for place, wanted in (((0, 0), (0, 0)), ((wide, high), (100, 100))):
        one.events.clear()
        one.says(one.devices["clipboard"], "motion", 5, *(v * 256 for v in place))
        ((_, *found),) = one.heard("motion", one.devices["clipboard"])
        assert found == [max(0, v * 256 - bool(v)) for v in wanted]


def test_a_drag_from_elsewhere_is_not_told_at_all(pair):
    one, _ = pair
    told = []
    one.core.sandbox.hand = InputListener()
    one.core.sandbox.hand.drags.over = lambda over: told.append("drag")
    over(one, [b"text/uri-list", b"application/x-vitrail-drag-other-1"])
    assert told == ["drag"], "the person's window is told, and no other one"
    device = one.devices["clipboard"]
    assert [
        e for e in one.events if e[0] == device and e[2] in {"enter", "data_offer"}
    ] == []
    one.says(device, "motion", 1, 5, 5)
    one.says(device, "drop")
    assert one.told("wl_data_offer", "destroy") == []
    one.says(device, "leave")
    assert one.told("wl_data_offer", "destroy") == [[]]
    assert [e for e in one.events if e[0] == device and e[2] != "selection"] == []


def test_an_application_outside_that_asks_for_the_private_type_gets_nothing(pair):
    from broker.jail.wayland.protocol import emit

    one, _ = pair
    source = drag(one)
    fd = one.machine.fd("pipe")
    sid = one.core.by_client[source].sid
    one.core.from_server(emit.event("wl_data_source", "send")(sid, b"x/y"), [fd], 0.0)
    assert fd.closed
    assert one.heard("send", source) == []


def test_a_drag_icon_is_cropped_and_framed(pair):
    one, _ = pair
    icon = one.make(one.compositor, "create_surface", "wl_surface")
    drag(one, icon)
    one.paint(icon, 600, 600, 0)
    one.send(icon, "commit")
    side = limits.WAYLAND_DRAG_ICON_PIXELS
    picture = one.server_side(icon)
    assert picture.size() == (side, side)
    # The compositor drags our frame, which is around it.
    dragged = one.told("wl_data_device", "start_drag")[0][2]
    assert dragged is picture.parent
    assert dragged.size() == (side + 8, side + 8)
    assert len(dragged.children) == 5
    one.send(icon, "destroy")
    assert picture.parent is None


def test_a_drag_icon_moves_with_its_frame_and_not_far():
    with Person() as one:
        one.start()
        icon = one.make(one.compositor, "create_surface", "wl_surface")
        drag(one, icon)
        for _ in range(20):
            one.paint(icon, 30, 30, 0)
            one.send(icon, "offset", -20, 0)
            one.send(icon, "commit")
        steps = [
            args[1]
            for k, n, args in one.model.requests
            if (k, n) == ("wl_surface", "attach") and args[1]
        ]
        assert sum(steps) <= -20
        assert sum(steps) >= -limits.WAYLAND_DRAG_ICON_PIXELS


def test_one_that_does_not_read_is_not_filled_up_by_others(pair):
    one, two = pair
    one.focus()
    one.copy("clipboard", b"a/a")
    two.focus()
    offer, _ = two.offered("clipboard")
    for _ in range(limits.WAYLAND_FDS_IN_FLIGHT + 50):
        two.send(offer, "receive", b"a/a", fds=[two.machine.fd("pipe")])
    assert one.core.down.fd_count <= limits.WAYLAND_FDS_IN_FLIGHT + 1


def test_a_source_that_is_gone_is_not_kept_by_its_offers(pair):
    """Nor the types in it: their memory was given back to the sandbox."""
    one, _ = pair
    one.focus()
    for _ in range(20):
        source = one.copy("clipboard", b"text/" + b"x" * 200)
        one.send(source, "destroy")
    sources = [o for o in gc.get_objects() if type(o) is DataSource]
    assert len(sources) >= 20, "the offers are there, and hold them"
    assert not any(source.mimes for source in sources if source.dead)


def test_a_connection_that_is_gone_is_not_kept_by_an_offer(pair):
    one, two = pair
    with Person(sandbox=one.sandbox) as third:
        third.start()
        third.focus()
        third.copy("clipboard", b"text/plain")
        two.focus()
        offer, _ = two.offered("clipboard")
        assert offer
        gone = weakref.ref(third.core)
    del third
    gc.collect()
    assert gone() is None


def test_a_new_selection_does_not_flood_one_with_many_devices(pair):
    """Each device costs an offer and all of its types."""
    one, _ = pair
    one.focus()
    manager = one.managers["clipboard"]
    for _ in range(limits.WAYLAND_LISTENERS // 2):
        one.make(manager, "get_data_device", "wl_data_device", None, one.seat)
    source = one.make(manager, "create_data_source", "wl_data_source")
    for number in range(limits.WAYLAND_MIMES):
        one.send(source, "offer", b"%0256d" % number)
    data = emit.request("wl_data_device", "set_selection")(
        one.devices["clipboard"], source, 50
    )
    one.core.from_client(data, [], one.now)
    most = limits.WAYLAND_QUEUE_BYTES
    one_offer = limits.WAYLAND_MIMES * (limits.WAYLAND_MIME_BYTES + 16) + 100
    assert most < len(one.core.down.data) <= most + one_offer


def test_a_drop_on_a_client_without_room_ends_that_client_alone(pair):
    """Content is given by an order of the broker, not by its claim."""
    one, _ = pair
    hand = one.core.sandbox.hand = InputListener()
    hand.drags.over = foreign_drags.accept
    over(one, [b"text/plain"])
    hand.drags.dropped = hand.said.append
    one.says(one.devices["clipboard"], "drop")
    (dropped,) = hand.said
    content = SimpleNamespace(mimes=[b"text/plain"], cancel=lambda: None)
    totals = one.sandbox.totals["objects"]
    one.sandbox.ceilings["objects"] = totals
    assert not foreign_drags.give(dropped, content)
    assert one.core.fault is not None
    with pytest.raises(ServerError, match="objects"):
        one.pump()


def dropped_here(one):
    """A foreign drag is dropped, given and accepted; its device, the drop, its offer."""
    hand = one.core.sandbox.hand = InputListener()
    hand.drags.over = foreign_drags.accept
    over(one, [b"text/plain"])
    hand.drags.dropped = hand.said.append
    device = one.devices["clipboard"]
    one.says(device, "drop")
    (dropped,) = hand.said
    content = SimpleNamespace(mimes=[b"text/plain"], cancel=lambda: None)
    assert foreign_drags.give(dropped, content)
    one.pump()
    ((*_, offer),) = one.heard("enter", device)
    one.send(offer, "accept", 70, b"text/plain")
    return device, dropped, offer


def test_a_withdrawn_drag_is_not_dropped_by_a_late_request_of_its_client(pair):
    one, _ = pair
    device, dropped, offer = dropped_here(one)
    foreign_drags.withdraw(dropped)
    one.send(offer, "set_actions", 1, 1)
    assert one.heard("leave", device) == [[]]
    assert one.heard("drop", device) == []


def test_a_device_that_was_released_is_told_of_no_drop(pair):
    """Its number may be another object's by then."""
    one, _ = pair
    device, _, offer = dropped_here(one)
    one.send(device, "release")
    one.send(offer, "set_actions", 1, 1)
    assert one.heard("drop", device) == []


def test_a_drag_tells_nothing_of_other_windows(pair):
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    for action in (1, 2, 0):
        one.says(source, "action", action)
        one.says(source, "target", None)
    assert one.heard("action", source) == one.heard("target", source) == []
    over(two, [private])
    offer = two.heard("data_offer", two.devices["clipboard"])[-1][0]
    two.send(offer, "accept", 70, b"text/uri-list")
    one.says(source, "action", 2)
    assert one.heard("action", source) == [[2]]


def test_an_action_that_came_before_the_window_accepts_is_told_then(pair):
    """The compositor answers set_actions at once, and does not repeat itself."""
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    one.says(source, "action", 2)  # of another sandbox's window
    over(two, [private])
    offer = two.heard("data_offer", two.devices["clipboard"])[-1][0]
    two.send(offer, "accept", 70, b"text/uri-list")
    one.says(source, "target", private)
    assert one.heard("action", source) == []
    two.send(offer, "accept", 70, None)
    one.says(source, "action", 1)
    assert one.heard("action", source) == []
    two.send(offer, "accept", 70, b"text/uri-list")
    one.says(source, "target", private)
    assert one.heard("action", source) == [[1]]


@pytest.mark.parametrize("end", ["release", "disconnect"])
def test_who_is_no_longer_there_takes_no_drag(pair, end):
    """Else its source would learn of the windows of others that the drag is over."""
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    over(two, [private])
    offer = two.heard("data_offer", two.devices["clipboard"])[-1][0]
    two.send(offer, "accept", 70, b"text/uri-list")
    if end == "release":
        two.send(two.devices["clipboard"], "release")
    else:
        two.core.close()
    one.says(source, "action", 1)  # over a window of another sandbox
    one.says(source, "target", private)
    assert one.heard("action", source) == one.heard("target", source) == []


def test_who_has_a_drop_may_go_before_its_source_hears_of_it(pair):
    one, two = pair
    source = drag(one)
    private = one.told("wl_data_source", "offer")[0][0]
    over(two, [private])
    device = two.devices["clipboard"]
    offer = two.heard("data_offer", device)[-1][0]
    two.send(offer, "accept", 70, b"text/uri-list")
    two.says(device, "drop")
    two.says(device, "leave")
    two.send(device, "release")
    assert one.core.by_client[source].accepted == b"text/uri-list"
