"""Pens and tablets (zwp_tablet_v2): over a window's content, as a pointer is.

The compositor's tablets and tools are ours.  An application learns of one when it first
comes over its content, and then its kind and axes alone: names, numbers and paths say
what hardware the user has, and when a pen is used elsewhere is hidden, too.
Pads (buttons, rings and strips) are not passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.jail.wayland import choice
from broker.jail.wayland.handlers import cursor, popups
from broker.jail.wayland.input_model import ClientTool
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import dispatch, emit, signatures
from broker.jail.wayland.protocol.dispatch import DROP, FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.input_model import Seat
    from broker.jail.wayland.state import ClientState

MANAGER, SEAT = "zwp_tablet_manager_v2", "zwp_tablet_seat_v2"
TABLET, TOOL, PAD = "zwp_tablet_v2", "zwp_tablet_tool_v2", "zwp_tablet_pad_v2"
_GROUP, _RING, _STRIP = (
    f"{PAD[:-3]}_group_v2",
    f"{PAD[:-3]}_ring_v2",
    f"{PAD[:-3]}_strip_v2",
)
_TIP = 0
"""The number of the tool's tip among its buttons, which are those of linux/input.h."""
_PRESSED = 1
_PEN = 0x140
_CAPABILITIES = 6


class TabletSeat(ProtocolObject):
    """A client's zwp_tablet_seat_v2; ``hosts`` are what the compositor made for it."""

    __slots__ = ("hosts",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.hosts: set[HostTablet | HostTool] = set()


class ClientTablet(ProtocolObject):
    """The zwp_tablet_v2 that a client knows; ``host`` is the compositor's."""

    __slots__ = ("host",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.host: HostTablet | None = None


class HostTablet(ProtocolObject):
    """The compositor's zwp_tablet_v2, of one tablet seat of the client's."""

    __slots__ = ("client", "seat")

    def __init__(self, seat: TabletSeat) -> None:
        super().__init__(TABLET, 1)
        self.seat = seat
        self.client: ClientTablet | None = None


class HostTool(ProtocolObject):
    """The compositor's zwp_tablet_tool_v2.

    ``inside``: the client has received proximity_in; ``news``: a frame event is due.
    """

    __slots__ = ("capabilities", "client", "inside", "kind", "news", "seat")

    def __init__(self, seat: TabletSeat) -> None:
        super().__init__(TOOL, 1)
        self.seat = seat
        self.client: ClientTool | None = None
        self.kind = _PEN
        self.capabilities: list[int] = []
        self.inside = self.news = False

    @property
    def focus(self) -> Surface | None:
        """The client's surface under it, while that is there."""
        surface = self.client.focus if self.client is not None else None
        return surface if surface is not None and not surface.dead else None


# -- seats -------------------------------------------------------------------------------


def get_tablet_seat(
    core: ClientState, manager: ProtocolObject, new_id: int, seat: Seat
) -> None:
    # guard: no pens of an inert seat
    made = core.make(new_id, SEAT, 1, server=not seat.inert)
    if made.sid:
        core.up.data += _get_seat(manager.sid, made.sid, seat.sid)


_get_seat = emit.request(MANAGER, "get_tablet_seat")


def tablet_added(core: ClientState, seat: TabletSeat, sid: int) -> None:
    _adopt(core, sid, HostTablet(seat))


def tool_added(core: ClientState, seat: TabletSeat, sid: int) -> None:
    _adopt(core, sid, HostTool(seat))


def _adopt(core: ClientState, sid: int, host: HostTablet | HostTool) -> None:
    """Register a tablet or tool that the compositor named.

    The client learns it later.
    """
    core.adopt(sid, host, {})
    # guard: what comes for a seat that has ended is ended
    if host.seat.dead:
        core.end_own(host)
        return
    host.seat.hosts.add(host)
    core.arm(host)


def pad_added(core: ClientState, _seat: ProtocolObject, sid: int) -> None:
    pad = ProtocolObject(PAD, 1)
    core.adopt(sid, pad, {})
    core.end_own(pad)


_LATE = {"tablet_added": tablet_added, "tool_added": tool_added, "pad_added": pad_added}


def destroy_seat(core: ClientState, seat: TabletSeat) -> None:
    """Destroy a client's tablet seat, and our tablets and tools of it.

    Those that the client knows are its own to destroy.
    """
    core.destroy(seat)
    seat.events = dispatch.own_events(SEAT, _LATE)
    # guard: tablets and tools end with their seat
    for host in [one for one in seat.hosts if one.client is None]:
        _end(core, host)


def _end(core: ClientState, host: HostTablet | HostTool) -> None:
    host.seat.hosts.discard(host)
    core.end_own(host)


# -- what the client learns --------------------------------------------------------------


def _introduce(core: ClientState, tool: HostTool, tablet: HostTablet) -> bool:
    """Announce a tool and its tablet to the client; return False if that cannot be."""
    seat = tool.seat
    # guard: a tablet that has ended is not introduced again
    if tablet.dead:
        return False
    for host in (tablet, tool):
        if host.client is None and seat.dead:
            return False
    if tablet.client is None:
        known = core.make_server_side(TABLET, 1)
        assert isinstance(known, ClientTablet)
        known.host, tablet.client = tablet, known
        core.down.data += _tablet_added(seat.cid, known.cid)
        core.down.data += _tablet_done(known.cid)
    if tool.client is None:
        made = core.make_server_side(TOOL, 1)
        assert isinstance(made, ClientTool)
        made.host, tool.client = tool, made
        core.down.data += _tool_added(seat.cid, made.cid)
        # guard: a tool's kind and axes alone
        core.down.data += _type(made.cid, tool.kind)
        for capability in tool.capabilities:
            core.down.data += _capability(made.cid, capability)
        core.down.data += _tool_done(made.cid)
    return True


_tablet_added = emit.event(SEAT, "tablet_added")
_tablet_done = emit.event(TABLET, "done")
_tool_added = emit.event(SEAT, "tool_added")
_type = emit.event(TOOL, "type")
_capability = emit.event(TOOL, "capability")
_tool_done = emit.event(TOOL, "done")


def _note_type(_core: ClientState, tool: HostTool, kind: int) -> None:
    tool.kind = kind


def _note_capability(_core: ClientState, tool: HostTool, capability: int) -> None:
    if len(tool.capabilities) < _CAPABILITIES:
        tool.capabilities.append(capability)


def _removed(core: ClientState, host: HostTablet | HostTool) -> None:
    """Send ``removed`` to a client that knows the object; otherwise destroy it here."""
    if host.client is None:
        _end(core, host)
    else:
        core.serials.lift(host.client.cid)
        # guard: a pen that is gone is inert
        host.client.inert = True
        if isinstance(host.client, ClientTool):
            host.client.focus = None
        core.down.data += _REMOVED[host.interface](host.client.cid)


_REMOVED = {kind: emit.event(kind, "removed") for kind in (TABLET, TOOL)}


def destroy(core: ClientState, known: ClientTablet | ClientTool) -> None:
    """Destroy a client's tablet or tool; the client may learn of it again."""
    core.serials.lift(known.cid)
    host = known.host
    if isinstance(host, HostTablet | HostTool):
        host.client = None
        _end(core, host)
    core.drop_local(known)


# -- a tool over a window ----------------------------------------------------------------


def _proximity_in(
    core: ClientState,
    tool: HostTool,
    serial: int,
    tablet: ProtocolObject | None,
    surface: ProtocolObject | None,
) -> None:
    """Give a tool's focus to a client's surface, or show no cursor over a frame."""
    _leave(core, tool)
    # guard: a tool over a frame is ours
    if not isinstance(surface, Surface) or surface.dead:
        # The application's picture would stay: no client draws one over a frame.
        core.up.data += _set_cursor(tool.sid, serial, 0, 0, 0)
        return
    if not isinstance(tablet, HostTablet) or not _introduce(core, tool, tablet):
        return
    assert tool.client is not None
    assert tablet.client is not None
    tool.client.focus, tool.client.entered = surface, serial
    tool.inside = tool.news = True
    core.serials.note(serial)
    core.down.data += _enter(tool.client.cid, serial, tablet.client.cid, surface.cid)


_enter = emit.event(TOOL, "proximity_in")
_proximity_out = emit.event(TOOL, "proximity_out")
_set_cursor = emit.request(TOOL, "set_cursor")


def _leave(core: ClientState, tool: HostTool) -> None:
    """Take a tool's focus from its client, with the press."""
    client = tool.client
    if client is None:
        return
    # guard: a tool's press ends when it leaves
    core.serials.lift(client.cid)
    client.focus = None
    if tool.inside:
        tool.inside, tool.news = False, True
        core.down.data += _proximity_out(client.cid)


def _down(core: ClientState, tool: HostTool, serial: int) -> None:
    """Note a tool's press; dismiss menus when it is on a frame."""
    # guard: grabs end with a tool elsewhere in the sandbox
    core.sandbox.pressed(core)
    if tool.focus is None:
        popups.dismiss_grabs(core)
    else:
        _press(core, tool, _TIP, serial)
        _forward(core, tool, "down", serial)


def _press(core: ClientState, tool: HostTool, which: int, serial: int) -> None:
    surface, client = tool.focus, tool.client
    if surface is not None and client is not None:
        choice.press(surface)
        core.serials.note_input(serial, core.now)
        core.serials.press(client.cid, which, serial, surface)


def _up(core: ClientState, tool: HostTool) -> None:
    if tool.client is not None:
        core.serials.lift(tool.client.cid, _TIP)
    _forward(core, tool, "up")


def _button(
    core: ClientState, tool: HostTool, serial: int, button: int, state: int
) -> None:
    """Note a tool's button, and pass it on."""
    if state == _PRESSED:
        _press(core, tool, button, serial)
    elif tool.client is not None:
        core.serials.lift(tool.client.cid, button)
        core.serials.note(serial)
    _forward(core, tool, "button", serial, button, state)


def _motion(core: ClientState, tool: HostTool, x: int, y: int) -> None:
    surface = tool.focus
    if surface is not None:
        _forward(core, tool, "motion", x + surface.cx * 256, y + surface.cy * 256)


def _frame(core: ClientState, tool: HostTool, time: int) -> None:
    if tool.client is not None and tool.news:
        tool.news = False
        core.down.data += _PACKERS["frame"](tool.client.cid, time)


def _forward(core: ClientState, tool: HostTool, name: str, *values: int) -> None:
    """An event over the client's content; over a frame it is nobody's."""
    # guard: a tool's events on the content only
    if tool.focus is not None and tool.client is not None:
        tool.news = True
        core.down.data += _PACKERS[name](tool.client.cid, *values)


_PACKERS = {m.name: emit.packer(m) for m in signatures.events_of(TOOL)}


def _passing(name: str) -> Callable[..., None]:
    def handler(core: ClientState, tool: HostTool, *values: Any) -> None:  # noqa: ANN401
        _forward(core, tool, name, *values)

    return handler


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    (MANAGER, "get_tablet_seat"): get_tablet_seat,
    (MANAGER, "destroy"): FORWARD,
    (SEAT, "destroy"): destroy_seat,
    (TABLET, "destroy"): destroy,
    (TOOL, "destroy"): destroy,
    (TOOL, "set_cursor"): cursor.set_tool_cursor,
    (PAD, "set_feedback"): FORWARD,
    (PAD, "destroy"): FORWARD,
    (_GROUP, "destroy"): FORWARD,
    (_RING, "set_feedback"): FORWARD,
    (_RING, "destroy"): FORWARD,
    (_STRIP, "set_feedback"): FORWARD,
    (_STRIP, "destroy"): FORWARD,
}
EVENTS: Rules = {
    (SEAT, "tablet_added"): tablet_added,
    (SEAT, "tool_added"): tool_added,
    (SEAT, "pad_added"): pad_added,
    (TABLET, "name"): DROP,
    (TABLET, "id"): DROP,
    (TABLET, "path"): DROP,
    (TABLET, "done"): DROP,
    (TABLET, "removed"): _removed,
    (TOOL, "type"): _note_type,
    (TOOL, "hardware_serial"): DROP,
    (TOOL, "hardware_id_wacom"): DROP,
    (TOOL, "capability"): _note_capability,
    (TOOL, "done"): DROP,
    (TOOL, "removed"): _removed,
    (TOOL, "proximity_in"): _proximity_in,
    (TOOL, "proximity_out"): _leave,
    (TOOL, "down"): _down,
    (TOOL, "up"): _up,
    (TOOL, "motion"): _motion,
    (TOOL, "pressure"): _passing("pressure"),
    (TOOL, "distance"): _passing("distance"),
    (TOOL, "tilt"): _passing("tilt"),
    (TOOL, "rotation"): _passing("rotation"),
    (TOOL, "slider"): _passing("slider"),
    (TOOL, "wheel"): _passing("wheel"),
    (TOOL, "button"): _button,
    (TOOL, "frame"): _frame,
    (PAD, "group"): DROP,
    (PAD, "path"): DROP,
    (PAD, "buttons"): DROP,
    (PAD, "done"): DROP,
    (PAD, "button"): DROP,
    (PAD, "enter"): DROP,
    (PAD, "leave"): DROP,
    (PAD, "removed"): DROP,
    (_GROUP, "buttons"): DROP,
    (_GROUP, "ring"): DROP,
    (_GROUP, "strip"): DROP,
    (_GROUP, "modes"): DROP,
    (_GROUP, "done"): DROP,
    (_GROUP, "mode_switch"): DROP,
    (_RING, "source"): DROP,
    (_RING, "angle"): DROP,
    (_RING, "stop"): DROP,
    (_RING, "frame"): DROP,
    (_STRIP, "source"): DROP,
    (_STRIP, "position"): DROP,
    (_STRIP, "stop"): DROP,
    (_STRIP, "frame"): DROP,
}
CLASSES: Classes = {SEAT: TabletSeat, TABLET: ClientTablet, TOOL: ClientTool}
