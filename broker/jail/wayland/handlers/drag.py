"""Drags: run by the compositor, which owns the pointer, with nothing in them.

A drag's source offers the compositor one private type, so other applications
can take nothing; filters of the same sandbox recognise it and put the real
types back.  Beside it stand those real types that a rule lets the user's own programs
know of; a request for one of them goes to the broker.  The icon sits in a frame, like
everything that floats.  Drags from elsewhere: ``foreign``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.jail.wayland import canonical
from broker.jail.wayland.handlers import drag_start, foreign_drags
from broker.jail.wayland.handlers.drag_start import AskedDrag, FilterDragSource
from broker.jail.wayland.handlers.selection import (
    DEVICE_ROLE,
    DEVICE_USED_SOURCE,
    MANAGER,
    DataDevice,
    DataSource,
    HostOffer,
    SelectionOffer,
    data_offer,
    offer_mime,
    source_actions,
)
from broker.jail.wayland.input_model import OwnSurface
from broker.jail.wayland.model import Surface, SurfaceRole
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.dispatch import Classes, Handlers, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault
from broker.jail.wayland.sandbox import LOCAL_DRAG_MARK
from broker.jail.wayland.scene import commit
from broker.jail.wayland.scene.frame import Frame

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


def start_drag(
    core: ClientState,
    device: DataDevice,
    source: DataSource | None,
    origin: Surface,
    icon: Surface | None,
    serial: int,
) -> None:
    """Start a drag with a press that lasts; cancel the source otherwise."""
    _claim(device, source, icon)
    # guard: no drag of an inert seat
    there = bool(device.sid) and device.seat is not None and not device.seat.inert
    there = there and canonical.is_sent(canonical.START_DRAG, origin)
    # guard: drags with a press that lasts
    if not core.serials.held(serial) or not core.data_manager or not there:
        if source is not None:
            source.cancel()
        return
    _end_local(core)
    if source is not None:
        _materialise(core, source)
    if icon is not None and icon.icon is None:
        icon.icon = Frame(core, icon, core.popup_edges)
    # guard: a drag has a source
    sent = source or _make_local(core)
    drag_start.send(core, AskedDrag(device, sent, origin, icon, serial))
    if icon is not None:
        commit.relayout(core, icon)


def _claim(device: DataDevice, source: DataSource | None, icon: Surface | None) -> None:
    """Check and take the roles that a drag gives to its source and its icon."""
    if icon is not None:
        if icon.role not in {None, SurfaceRole.ICON}:
            raise ProtocolFault(
                device.cid, DEVICE_ROLE, "the drag icon's surface has another role"
            )
        icon.role = SurfaceRole.ICON
    if source is not None:
        if source.used:
            raise ProtocolFault(
                device.cid, DEVICE_USED_SOURCE, "the source was already used"
            )
        source.used = True


def _make_local(core: ClientState) -> FilterDragSource:
    """Create our source for a drag without one: mutter 43 ends by a drag that has none."""
    mime = core.sandbox.new_drag_type(LOCAL_DRAG_MARK)
    core.drag.local = source = FilterDragSource(mime, core.data_version)
    core.own("wl_data_source", source)
    source.events = dispatch.own_events("wl_data_source", _LOCAL_EVENTS)
    core.up.data += _create_data_source(core.data_manager, source.sid)
    core.up.data += _source_offer(source.sid, mime)
    if core.data_version >= foreign_drags.ACTIONS:
        core.up.data += _set_actions(source.sid, foreign_drags.COPY)
    return source


def _end_local(core: ClientState) -> None:
    """Destroy our source of the last drag that had none."""
    source, core.drag.local = core.drag.local, None
    if source is not None:
        core.end_own(source)


def _local_ended(core: ClientState, source: FilterDragSource) -> None:
    """The compositor has ended a drag without content."""
    if core.drag.local is source:
        _end_local(core)


def _local_event(
    core: ClientState, _source: FilterDragSource, *_values: object
) -> None:
    drag_start.heard(core)


def _materialise(core: ClientState, source: DataSource) -> None:
    """Create a drag's source at the compositor, with one private type."""
    sid = core.give_sid(source)
    source.drag = core.sandbox.new_drag(source)
    core.up.data += _create_data_source(core.data_manager, sid)
    # guard: drag types are private
    # guard: the filter offers a drag by our type
    core.up.data += _source_offer(sid, source.drag)
    hand = core.sandbox.hand
    if hand is not None:
        hand.drags.started(source)
        for mime in hand.drags.outward(source):
            core.up.data += _source_offer(sid, mime)
    if core.data_version >= 3 and source.actions is not None:
        core.up.data += _set_actions(sid, source.actions)


_create_data_source = emit.request(MANAGER, "create_data_source")
_source_offer = emit.request("wl_data_source", "offer")
_set_actions = emit.request("wl_data_source", "set_actions")


def drag_enter(
    core: ClientState,
    device: DataDevice,
    serial: int,
    surface: ProtocolObject | None,
    x: int,
    y: int,
    host: ProtocolObject | None,
) -> None:
    """Handle that a drag enters a window: wait for its place, or offer it."""
    drag_start.heard(core)
    device.told, device.offer = False, None
    foreign_drags.forget(device)
    device.over, device.frame = _under(surface)
    device.waits = None
    _drop_untold(core, device)
    device.untold = host if isinstance(host, HostOffer) else None
    if device.over is None:
        return
    if device.frame is not None and not device.frame.holds(x, y):
        # On a strip, from which KWin says no more than a motion into the window.
        device.waits = (serial, host)
        return
    _arrive(core, device, serial, x, y, host)


def _arrive(
    core: ClientState,
    device: DataDevice,
    serial: int,
    x: int,
    y: int,
    host: ProtocolObject | None,
) -> None:
    """Tell the client of a drag of its sandbox that enters its content."""
    top = device.over
    assert top is not None
    x, y = _in_content(device, x, y)
    cid, local = 0, core.drag.local
    if not isinstance(host, HostOffer):
        return
    if local is not None and local.mime in host.mimes:
        # No window of the client's says so of a drag without an offer.
        core.up.data += _accept(host.sid, serial, local.mime)
        if core.data_version >= foreign_drags.ACTIONS:
            copy = foreign_drags.COPY
            core.up.data += _offer_set_actions(host.sid, copy, copy)
    else:
        source = next(
            (core.sandbox.drags[m] for m in host.mimes if m in core.sandbox.drags), None
        )
        # guard: the filter does not report foreign drags
        if source is None:
            # From the host or another sandbox: the client is not notified.
            foreign_drags.enter(core, device, host, serial, (x, y))
            # guard: foreign drags untold
            return
        offer = core.make_server_side("wl_data_offer", device.version)
        assert isinstance(offer, SelectionOffer)
        offer.source, offer.upstream, host.offer = source, host, offer
        device.offer = offer
        # The last one was of another window, perhaps not of its sandbox.
        source.action = 0
        cid = offer.cid
        device.untold = None
        core.down.data += data_offer(device.cid, cid)
        for mime in source.mimes:
            core.down.data += offer_mime(cid, mime)
        if device.version >= 3 and source.actions is not None:
            core.down.data += source_actions(cid, source.actions)
    device.told, device.dropped = True, False
    core.serials.note(serial)
    core.down.data += _drag_enter(
        device.cid, serial, top.cid, x + top.cx * 256, y + top.cy * 256, cid
    )


_drag_enter = emit.event("wl_data_device", "enter")


def _under(surface: ProtocolObject | None) -> tuple[Surface | None, Frame | None]:
    """Return the client's surface under a drag, and the frame in its place, if any.

    KWin drags over windows, whose surface is our frame's; others over the surface under
    the pointer.
    """
    if isinstance(surface, OwnSurface):
        top = surface.alias
        if top is not None and top.xdg is not None and not top.dead:
            return top, top.xdg.frame
        return None, None
    if isinstance(surface, Surface) and not surface.dead:
        return surface, None
    return None, None


def _in_content(device: DataDevice, x: int, y: int) -> tuple[int, int]:
    """Translate the compositor's coordinates to the client's surface."""
    return device.frame.inside(x, y) if device.frame is not None else (x, y)


def drag_leave(core: ClientState, device: DataDevice) -> None:
    """Tell the client that the drag has left, if it knew of it."""
    if device.told:
        core.down.data += _drag_leave(device.cid)
        device.go_on()
    device.told, device.over, device.frame = False, None, None
    device.waits = None
    foreign_drags.leave(device)
    _drop_untold(core, device)


def _drop_untold(core: ClientState, device: DataDevice) -> None:
    """An offer that the client never saw is ours to end."""
    if device.untold is not None:
        core.end_own(device.untold)
        device.untold = None


_drag_leave = emit.event("wl_data_device", "leave")


def drag_motion(
    core: ClientState, device: DataDevice, time: int, x: int, y: int
) -> None:
    """Pass a drag's motion on; offer it once it is inside of the frame."""
    top, waits = device.over, device.waits
    if waits is not None:
        if device.frame is not None and device.frame.holds(x, y):
            device.waits = None
            _arrive(core, device, waits[0], x, y, waits[1])
        return
    x, y = _in_content(device, x, y)
    if device.foreign is not None:
        device.foreign.x, device.foreign.y = x, y
    if device.told and top is not None:
        core.down.data += _drag_motion(
            device.cid, time, x + top.cx * 256, y + top.cy * 256
        )


_drag_motion = emit.event("wl_data_device", "motion")


# Of a drag with a file's name in it, nothing crosses as content. A file manager offers
# text beside `text/uri-list`, and that is the path; a browser offers a link so. Leaving
# only the names out would let the path cross as text. So to the user's own programs such
# a drag is refused whole. Between sandboxes and from the user's own programs the window
# gets nothing of it either, and the files are copied by their bytes, with a rule for
# `vitrail.FileCopy`: of the user's own only the portal's key is read.
def drag_drop(core: ClientState, device: DataDevice) -> None:
    if device.told:
        device.dropped = True
        core.down.data += _drag_drop(device.cid)
    else:
        foreign_drags.drop(core, device)


_drag_drop = emit.event("wl_data_device", "drop")


def accept(
    core: ClientState, offer: SelectionOffer, serial: int, mime: bytes | None
) -> None:
    """Pass on that a client accepts a type, with a serial that it got."""
    source, host = offer.source, offer.upstream
    if offer.over is not None:
        foreign_drags.accepted(offer.over, mime)
    if not isinstance(source, DataSource) or host is None or source.drag is None:
        return
    # guard: accepted with a serial it got
    # guard: the last word of a drag that went on
    if offer.left or not core.serials.knows(serial):
        return
    if mime is not None and mime in source.mimes:
        source.takers[offer] = mime
        core.up.data += _accept(host.sid, serial, source.drag)
    else:
        # guard: a window takes for itself
        source.takers.pop(offer, None)
        core.up.data += _accept(host.sid, serial, None)


_accept = emit.request("wl_data_offer", "accept")


def offer_set_actions(
    core: ClientState, offer: SelectionOffer, actions: int, preferred: int
) -> None:
    """Pass on the drag actions that a client wants.  Raises ProtocolFault."""
    if actions & ~7 or preferred & ~7 or preferred & (preferred - 1):
        raise ProtocolFault(offer.cid, 1, "unknown drag actions")
    if offer.over is not None:
        foreign_drags.chosen(offer.over, actions)
    if offer.upstream is not None and core.data_version >= 3:
        core.up.data += _offer_set_actions(offer.upstream.sid, actions, preferred)


_offer_set_actions = emit.request("wl_data_offer", "set_actions")


def offer_finish(core: ClientState, offer: SelectionOffer) -> None:
    if offer.over is not None:
        foreign_drags.taken(offer)
    if offer.upstream is not None and core.data_version >= 3:
        core.up.data += _finish(offer.upstream.sid)


_finish = emit.request("wl_data_offer", "finish")


def destroy_offer(core: ClientState, offer: SelectionOffer) -> None:
    """Destroy an offer; tell a foreign drag that it is taken."""
    if offer.over is not None:
        foreign_drags.taken(offer)
    if offer.upstream is not None:
        core.end_own(offer.upstream)
        offer.upstream = None
    core.drop_local(offer)


def source_target(core: ClientState, source: DataSource, mime: bytes | None) -> None:
    drag_start.heard(core)
    accepted = source.accepted if mime is not None else None
    if accepted != source.told_target:
        source.told_target = accepted
        core.down.data += _target(source.cid, accepted)
    # The action may have come before the window had accepted: it is not sent again.
    if accepted is not None and source.action:
        _tell_action(core, source)


_target = emit.event("wl_data_source", "target")


def source_send(core: ClientState, source: DataSource, mime: bytes, fd: Fd) -> None:
    """A client outside asks: the private type is empty, others are sent by rule."""
    hand = core.sandbox.hand
    known = hand is not None and mime in hand.drags.outward(source)
    if hand is None or not known or not hand.drags.wanted(source, mime, fd):
        core.machine.close(fd)


def source_action(core: ClientState, source: DataSource, action: int) -> None:
    """Tell the client the drop action, for drags inside its sandbox only.

    Over other windows it would reveal that they are there, and which types they take;
    where a rule lets the user's own programs know of its types, it may know of them.
    """
    drag_start.heard(core)
    source.action = action
    _tell_action(core, source)


def _tell_action(core: ClientState, source: DataSource) -> None:
    """Tell a source's client the drop action as far as it may know it."""
    hand = core.sandbox.hand
    outward = hand is not None and bool(hand.drags.outward(source))
    # guard: a drag reports no action of another sandbox's window
    said = source.action if outward or source.accepted is not None else 0
    if said != source.told_action:
        source.told_action = said
        core.down.data += _action(source.cid, said)


_action = emit.event("wl_data_source", "action")


def _plain(name: str) -> Callable[..., None]:
    """Return the handler that passes an event of a drag's source on."""
    write = emit.event("wl_data_source", name)

    def forward(core: ClientState, source: DataSource, *args: int) -> None:
        drag_start.heard(core)
        core.down.data += write(source.cid, *args)
        hand = core.sandbox.hand
        if hand is None:
            return
        if name == "dnd_drop_performed":
            # guard: a drop inside of its sandbox
            if source.accepted is None:  # not by a window of this sandbox
                hand.drags.performed(source)
        else:
            hand.drags.ended(source)

    return forward


_LOCAL_EVENTS: Handlers = {
    "target": _local_event,
    "action": _local_event,
    "cancelled": _local_ended,
    "dnd_finished": _local_ended,
}

# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_data_device", "start_drag"): start_drag,
    ("wl_data_offer", "accept"): accept,
    ("wl_data_offer", "destroy"): destroy_offer,
    ("wl_data_offer", "finish"): offer_finish,
    ("wl_data_offer", "set_actions"): offer_set_actions,
}
EVENTS: Rules = {
    ("wl_data_device", "enter"): drag_enter,
    ("wl_data_device", "leave"): drag_leave,
    ("wl_data_device", "motion"): drag_motion,
    ("wl_data_device", "drop"): drag_drop,
    ("wl_data_source", "target"): source_target,
    ("wl_data_source", "send"): source_send,
    ("wl_data_source", "cancelled"): _plain("cancelled"),
    ("wl_data_source", "dnd_drop_performed"): _plain("dnd_drop_performed"),
    ("wl_data_source", "dnd_finished"): _plain("dnd_finished"),
    ("wl_data_source", "action"): source_action,
}
CLASSES: Classes = {}
