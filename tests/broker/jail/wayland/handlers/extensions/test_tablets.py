"""Pens: what an application learns, when, and where its coordinates begin."""

from __future__ import annotations

import pytest

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk

MANAGER, SEAT = "zwp_tablet_manager_v2", "zwp_tablet_seat_v2"
TABLET, TOOL, PAD = "zwp_tablet_v2", "zwp_tablet_tool_v2", "zwp_tablet_pad_v2"
ERASER, TILT, PRESSURE = 0x141, 1, 2
STYLUS = 0x14B


class Desk(Talk):
    """A client with a tablet seat, and the compositor's tablet and tool."""

    def begin(self) -> None:
        self.start()
        self.seat = self.bind("wl_seat")
        self.win, self.xdg, self.top = self.show(200, 100, 0)
        self.tablets = self.make(
            self.bind(MANAGER), "get_tablet_seat", SEAT, None, self.seat
        )
        self.events.clear()
        self.plug()

    def plug(self) -> None:
        """The compositor has a tablet and a pen of that seat."""
        by = self.server_side(self.tablets)
        self.tablet = self.model.server_made(by, "tablet_added", TABLET)
        self.say(self.tablet, "name", b"Secret Make Cintiq")
        self.say(self.tablet, "id", 0x056A, 0x1234)
        self.say(self.tablet, "path", b"/dev/input/event7")
        self.say(self.tablet, "done")
        self.tool = self.model.server_made(by, "tool_added", TOOL)
        self.say(self.tool, "type", ERASER)
        self.say(self.tool, "hardware_serial", 0xDEAD, 0xBEEF)
        self.say(self.tool, "hardware_id_wacom", 0, 0x802)
        self.say(self.tool, "capability", TILT)
        self.say(self.tool, "capability", PRESSURE)
        self.say(self.tool, "done")
        self.pump()

    def say(self, thing, name: str, *args) -> None:
        self.model.tell(thing, name, *args)

    def over(self, surface, serial: int = 900) -> None:
        self.say(self.tool, "proximity_in", serial, self.tablet, surface)
        self.say(self.tool, "frame", 5)
        self.pump()

    def over_content(self, serial: int = 900) -> None:
        self.over(self.server_side(self.win), serial)

    def over_frame(self, serial: int = 901) -> None:
        self.over(self.server_side(self.xdg).state["surface"], serial)

    def pen(self, name: str, *args) -> None:
        self.say(self.tool, name, *args)
        self.pump()

    @property
    def known(self) -> int:
        """The client's id of the tool."""
        return next(oid for oid, kind in self.kinds.items() if kind == TOOL)

    def tablet_events(self) -> list[str]:
        return [e[2] for e in self.events if e[1].startswith("zwp_tablet")]


@pytest.fixture
def desk():
    made = Desk(WindowRules("work"))
    made.begin()
    yield made
    made.close()
    assert not made.machine.leaked()
    assert not any(made.sandbox.totals.values()), made.sandbox.totals


def test_pen_that_is_used_elsewhere_is_unknown(desk):
    assert desk.tablet_events() == []
    desk.over_frame()
    desk.pen("down", 950)
    desk.pen("motion", 100, 100)
    assert desk.tablet_events() == []


def test_application_learns_kind_and_axes_and_nothing_of_the_hardware(desk):
    desk.over_content()
    assert desk.tablet_events() == [
        *("tablet_added", "done", "tool_added", "type", "capability", "capability"),
        *("done", "proximity_in", "frame"),
    ]
    assert desk.heard("type") == [[ERASER]]
    assert desk.heard("capability") == [[TILT], [PRESSURE]]
    said = repr(desk.events)
    assert "Secret" not in said
    assert "event7" not in said


def test_second_time_nothing_is_introduced(desk):
    desk.over_content()
    desk.pen("proximity_out")
    desk.events.clear()
    desk.over_content(serial=905)
    assert desk.tablet_events() == ["proximity_in", "frame"]


def test_coordinates_are_the_surfaces_without_the_crop(desk):
    """A pen's place is the application's own, as a pointer's is."""
    desk.send(desk.xdg, "set_window_geometry", 30, 20, 100, 60)
    desk.send(desk.win, "commit")
    desk.over_content()
    desk.pen("motion", 5 * 256, 7 * 256)
    assert desk.heard("motion", desk.known) == [[35 * 256, 27 * 256]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("down", (950,)),
        ("up", ()),
        ("motion", (256, 256)),
        ("pressure", (7,)),
        ("distance", (7,)),
        ("tilt", (256, 256)),
        ("rotation", (256,)),
        ("slider", (7,)),
        ("wheel", (256, 1)),
        ("button", (951, STYLUS, 1)),
        ("frame", (6,)),
    ],
)
def test_nothing_is_heard_over_a_frame(desk, name, arguments):
    desk.over_content()
    desk.over_frame()
    desk.events.clear()
    desk.pen(name, *arguments)
    assert desk.tablet_events() == []
    desk.pen("proximity_out")
    desk.over_content(serial=910)
    desk.events.clear()
    desk.pen("motion", 1, 1)
    desk.pen(name, *arguments)
    assert name in desk.tablet_events()


def test_frame_ends_what_was_told(desk):
    desk.over_content()
    desk.over_frame()
    assert desk.tablet_events()[-2:] == ["proximity_out", "frame"]


def test_picture_over_a_frame_is_not_the_applications(desk):
    desk.over_content()
    desk.over_frame(serial=933)
    assert desk.told(TOOL, "set_cursor") == [[933, None, 0, 0]]


def test_cursor_over_the_content_with_the_latest_enter_only(desk):
    desk.over_content(serial=900)
    cursor = desk.surface()
    desk.send(desk.known, "set_cursor", 899, cursor, 0, 0)
    assert desk.told(TOOL, "set_cursor") == []
    desk.send(desk.known, "set_cursor", 900, cursor, 1000, -5)
    ((serial, surface, x, y),) = desk.told(TOOL, "set_cursor")
    assert (serial, x, y) == (900, limits.WAYLAND_CURSOR_PIXELS - 1, 0)
    assert surface is desk.server_side(cursor)
    desk.over_frame()
    before = len(desk.told(TOOL, "set_cursor"))
    desk.send(desk.known, "set_cursor", 900, cursor, 0, 0)
    assert len(desk.told(TOOL, "set_cursor")) == before


def test_windows_surface_is_no_cursor(desk):
    desk.over_content()
    with pytest.raises(ServerError):
        desk.send(desk.known, "set_cursor", 900, desk.win, 0, 0)


def test_shape_over_the_content_only(desk):
    desk.over_content(serial=900)
    shapes = desk.bind("wp_cursor_shape_manager_v1")
    kind = "wp_cursor_shape_device_v1"
    shape = desk.make(shapes, "get_tablet_tool_v2", kind, None, desk.known)
    desk.send(shape, "set_shape", 900, 4)
    assert len(desk.told(kind, "set_shape")) == 1
    desk.over_frame()
    desk.send(shape, "set_shape", 900, 4)
    assert len(desk.told(kind, "set_shape")) == 1


def test_press_of_the_pen_moves_its_window_while_it_lasts(desk):
    desk.over_content()
    desk.pen("down", 950)
    desk.send(desk.top, "move", desk.seat, 950)
    assert len(desk.told("xdg_toplevel", "move")) == 1
    desk.pen("up")
    desk.send(desk.top, "move", desk.seat, 950)
    assert len(desk.told("xdg_toplevel", "move")) == 1


def test_press_ends_when_the_pen_leaves(desk):
    desk.over_content()
    desk.pen("button", 950, STYLUS, 1)
    desk.over_frame()
    desk.send(desk.top, "move", desk.seat, 950)
    assert not desk.told("xdg_toplevel", "move")


def test_press_over_the_frame_is_no_gesture(desk):
    desk.over_frame()
    desk.pen("down", 950)
    desk.send(desk.top, "move", desk.seat, 950)
    assert not desk.told("xdg_toplevel", "move")
    assert desk.sandbox.acted is None


def test_press_elsewhere_dismisses_menus(desk):
    dismissed = []
    desk.sandbox.pressed = dismissed.append
    desk.over_frame()
    desk.pen("down", 950)
    assert dismissed == [desk.core]


def test_surface_that_is_gone_hears_nothing(desk):
    desk.over_content()
    other = desk.surface()
    desk.over(desk.server_side(other), 940)
    desk.send(other, "destroy")
    desk.events.clear()
    desk.pen("motion", 1, 1)
    desk.pen("down", 950)
    assert desk.tablet_events() == []


def test_tool_that_the_application_ends_is_ended(desk):
    desk.over_content()
    desk.send(desk.known, "destroy")
    assert desk.told(TOOL, "destroy") == [[]]
    with pytest.raises(ServerError):
        desk.send(desk.known, "destroy")


def test_tool_that_is_gone_and_was_known_is_told(desk):
    desk.over_content()
    desk.pen("proximity_out")
    desk.pen("removed")
    assert desk.heard("removed", desk.known) == [[]]
    desk.send(desk.known, "destroy")
    assert len(desk.told(TOOL, "destroy")) == 1


def test_tool_that_is_gone_and_was_unknown_is_not(desk):
    desk.pen("removed")
    assert desk.tablet_events() == []
    assert len(desk.told(TOOL, "destroy")) == 1


def test_seat_that_is_given_back_introduces_nothing(desk):
    desk.send(desk.tablets, "destroy")
    desk.over_content()
    assert desk.tablet_events() == []


def test_what_the_compositor_made_for_a_seat_ends_with_it(desk):
    manager = desk.bind(MANAGER)
    desk.send(desk.tablets, "destroy")
    for _ in range(10):
        desk.tablets = desk.make(manager, "get_tablet_seat", SEAT, None, desk.seat)
        desk.plug()
        desk.send(desk.tablets, "destroy")
    assert len(desk.told(TABLET, "destroy")) == 11
    assert len(desk.told(TOOL, "destroy")) == 11


def test_what_the_compositor_said_before_it_read_that_a_seat_ended_ends_too(desk):
    by = desk.server_side(desk.tablets)
    desk.model.confirms = False
    desk.send(desk.tablets, "destroy")
    for name, kind in (
        ("tablet_added", TABLET),
        ("tool_added", TOOL),
        ("pad_added", PAD),
    ):
        before = len(desk.told(kind, "destroy"))
        desk.model.server_made(by, name, kind)
        desk.pump()
        assert len(desk.told(kind, "destroy")) == before + 1


def test_what_the_client_knows_of_a_seat_is_its_own_to_end(desk):
    desk.over_content()
    desk.send(desk.tablets, "destroy")
    assert desk.told(TOOL, "destroy") == desk.told(TABLET, "destroy") == []
    for oid, kind in list(desk.kinds.items()):
        if kind in {TABLET, TOOL}:
            desk.send(oid, "destroy")
    assert desk.told(TOOL, "destroy") == desk.told(TABLET, "destroy") == [[]]


def test_tablet_that_the_application_ends_does_not_come_back(desk):
    """The compositor names it once more: it has not read the request yet."""
    desk.over_content()
    desk.pen("proximity_out")
    desk.pen("frame", 6)
    desk.send(next(o for o, kind in desk.kinds.items() if kind == TABLET), "destroy")
    desk.model.things[desk.tablet.oid] = desk.tablet
    desk.events.clear()
    desk.over_content(serial=910)
    assert desk.tablet_events() == []
    assert desk.told(TABLET, "destroy") == [[]]


def test_pads_are_not_passed_on(desk):
    by = desk.server_side(desk.tablets)
    pad = desk.model.server_made(by, "pad_added", PAD)
    group = desk.model.server_made(pad, "group", "zwp_tablet_pad_group_v2")
    desk.model.server_made(group, "ring", "zwp_tablet_pad_ring_v2")
    desk.say(pad, "path", b"/dev/input/event8")
    desk.pump()
    assert desk.tablet_events() == []
    assert len(desk.told(PAD, "destroy")) == 1


def test_pen_that_is_new_all_the_time_ends_with_the_objects():
    """A compositor that forgets tools costs the client's objects no more than it ends."""
    desk = Desk(WindowRules("work"))
    desk.begin()
    before = desk.sandbox.totals["objects"]
    for serial in range(1000, 1100):
        desk.over_content(serial)
        desk.pen("proximity_out")
        desk.pen("removed")
        for kind in (TOOL, TABLET):
            oid = max(
                o
                for o, k in desk.kinds.items()
                if k == kind and o in desk.core.by_client
            )
            desk.send(oid, "destroy")
        desk.plug()
    assert desk.sandbox.totals["objects"] == before
    desk.close()


def test_each_seat_of_tablets_hears_input(desk):
    manager = desk.bind(MANAGER)
    for _ in range(limits.WAYLAND_LISTENERS - desk.core._listeners):
        desk.make(manager, "get_tablet_seat", SEAT, None, desk.seat)
    with pytest.raises(ServerError, match="receive input"):
        desk.make(manager, "get_tablet_seat", SEAT, None, desk.seat)


def test_pointer_warp_is_not_offered(desk):
    assert "wp_pointer_warp_v1" not in desk.globals


def test_a_pen_that_was_removed_gets_no_shape(desk):
    """A compositor may have nothing behind it any more."""
    desk.over_content()
    shapes = desk.bind("wp_cursor_shape_manager_v1")
    kind = "wp_cursor_shape_device_v1"
    desk.make(shapes, "get_tablet_tool_v2", kind, None, desk.known)
    assert len(desk.told("wp_cursor_shape_manager_v1", "get_tablet_tool_v2")) == 1
    desk.pen("removed")
    device = desk.make(shapes, "get_tablet_tool_v2", kind, None, desk.known)
    desk.send(device, "set_shape", 900, 1)
    desk.send(desk.known, "set_cursor", 900, 0, 0, 0)
    desk.send(device, "destroy")
    assert len(desk.told("wp_cursor_shape_manager_v1", "get_tablet_tool_v2")) == 1
    assert not desk.told(kind, "set_shape")
    assert not desk.told(TOOL, "set_cursor")
