"""Drags: run by the compositor, which owns the pointer, with nothing in them.

A drag's source offers the compositor one private type, so other applications
can take nothing; filters of the same sandbox recognise it and put the real
types back.  The icon sits in a frame, like everything that floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.wayland import commit, emit
from broker.wayland.dispatch import event, request
from broker.wayland.frame import Frame
from broker.wayland.model import Role, Surface
from broker.wayland.objects import Obj
from broker.wayland.selection import (
    DEVICE_ROLE,
    DEVICE_USED_SOURCE,
    MANAGER,
    Device,
    HostOffer,
    Offer,
    Source,
    data_offer,
    offer_mime,
    source_actions,
)
from broker.wayland.wire import Fd, ProtocolFault

if TYPE_CHECKING:
    from broker.wayland.filter import Filter


@request("wl_data_device", "start_drag")
def start_drag(
    core: Filter,
    device: Device,
    source: Source | None,
    origin: Surface,
    icon: Surface | None,
    serial: int,
) -> None:
    _claim(device, source, icon)
    if not core.serials.knows(serial) or not core.data_manager:
        if source is not None:
            source.cancel()
        return
    sid = _materialise(core, source) if source is not None else 0
    core.local_drag = source is None
    icon_sid = 0
    if icon is not None:
        if icon.icon is None:
            icon.icon = Frame(core, icon, core.popup_edges)
        icon_sid = icon.icon.root.sid
        icon.announced = True
    core.up.data += _start_drag(device.sid, sid, origin.sid, icon_sid, serial)
    if icon is not None:
        commit.relayout(core, icon)


def _claim(device: Device, source: Source | None, icon: Surface | None) -> None:
    """Check and take the roles that a drag gives to its source and its icon."""
    if icon is not None:
        if icon.role not in {None, Role.ICON}:
            raise ProtocolFault(
                device.cid, DEVICE_ROLE, "the drag icon's surface has another role"
            )
        icon.role = Role.ICON
    if source is not None:
        if source.used:
            raise ProtocolFault(
                device.cid, DEVICE_USED_SOURCE, "the source was used before"
            )
        source.used = True


def _materialise(core: Filter, source: Source) -> int:
    """Make the source at the compositor, with one private type."""
    sid = core.give_sid(source)
    source.drag = core.sandbox.new_drag(source)
    core.up.data += _create_data_source(core.data_manager, sid)
    core.up.data += _source_offer(sid, source.drag)
    if core.data_version >= 3 and source.actions is not None:
        core.up.data += _set_actions(sid, source.actions)
    return sid


_create_data_source = emit.request(MANAGER, "create_data_source")
_source_offer = emit.request("wl_data_source", "offer")
_set_actions = emit.request("wl_data_source", "set_actions")
_start_drag = emit.request("wl_data_device", "start_drag")


@event("wl_data_device", "enter")
def drag_enter(
    core: Filter,
    device: Device,
    serial: int,
    surface: Obj | None,
    x: int,
    y: int,
    host: Obj | None,
) -> None:
    device.told = False
    device.over = surface if isinstance(surface, Surface) and not surface.dead else None
    _drop_untold(core, device)
    device.untold = host if isinstance(host, HostOffer) else None
    if device.over is None:
        return
    cid = 0
    if isinstance(host, HostOffer):
        source = next(
            (core.sandbox.drags[m] for m in host.mimes if m in core.sandbox.drags), None
        )
        if source is None:
            # From the host or another sandbox: not told at all, but to the person.
            if core.sandbox.hand is not None:
                core.sandbox.hand.foreign_drag()
            return
        offer = core.make_server_side("wl_data_offer", device.version)
        assert isinstance(offer, Offer)
        offer.source, offer.upstream, host.offer = source, host, offer
        cid = offer.cid
        device.untold = None
        core.down.data += data_offer(device.cid, cid)
        for mime in source.mimes:
            core.down.data += offer_mime(cid, mime)
        if device.version >= 3 and source.actions is not None:
            core.down.data += source_actions(cid, source.actions)
    elif not core.local_drag:
        return
    device.told = True
    core.serials.note(serial)
    top = device.over
    core.down.data += _drag_enter(
        device.cid, serial, top.cid, x + top.cx * 256, y + top.cy * 256, cid
    )


_drag_enter = emit.event("wl_data_device", "enter")


@event("wl_data_device", "leave")
def drag_leave(core: Filter, device: Device) -> None:
    if device.told:
        core.down.data += _drag_leave(device.cid)
    device.told, device.over = False, None
    _drop_untold(core, device)


def _drop_untold(core: Filter, device: Device) -> None:
    """An offer that the client never saw is ours to end."""
    if device.untold is not None:
        core.end_own(device.untold)
        device.untold = None


_drag_leave = emit.event("wl_data_device", "leave")


@event("wl_data_device", "motion")
def drag_motion(core: Filter, device: Device, time: int, x: int, y: int) -> None:
    top = device.over
    if device.told and top is not None:
        core.down.data += _drag_motion(
            device.cid, time, x + top.cx * 256, y + top.cy * 256
        )


_drag_motion = emit.event("wl_data_device", "motion")


@event("wl_data_device", "drop")
def drag_drop(core: Filter, device: Device) -> None:
    if device.told:
        core.down.data += _drag_drop(device.cid)


_drag_drop = emit.event("wl_data_device", "drop")


@request("wl_data_offer", "accept")
def accept(core: Filter, offer: Offer, serial: int, mime: bytes | None) -> None:
    source, host = offer.source, offer.upstream
    if not isinstance(source, Source) or host is None or source.drag is None:
        return
    if not core.serials.knows(serial):
        return
    good = mime is not None and mime in source.mimes
    source.accepted = mime if good else None
    core.up.data += _accept(host.sid, serial, source.drag if good else None)


_accept = emit.request("wl_data_offer", "accept")


@request("wl_data_offer", "set_actions")
def offer_set_actions(core: Filter, offer: Offer, actions: int, preferred: int) -> None:
    if actions & ~7 or preferred & ~7 or preferred & (preferred - 1):
        raise ProtocolFault(offer.cid, 1, "drag actions that do not exist")
    if offer.upstream is not None and core.data_version >= 3:
        core.up.data += _offer_set_actions(offer.upstream.sid, actions, preferred)


_offer_set_actions = emit.request("wl_data_offer", "set_actions")


@request("wl_data_offer", "finish")
def offer_finish(core: Filter, offer: Offer) -> None:
    if offer.upstream is not None and core.data_version >= 3:
        core.up.data += _finish(offer.upstream.sid)


_finish = emit.request("wl_data_offer", "finish")


@request("wl_data_offer", "destroy")
def destroy_offer(core: Filter, offer: Offer) -> None:
    if offer.upstream is not None:
        core.end_own(offer.upstream)
        offer.upstream = None
    core.drop_local(offer)


@event("wl_data_source", "target")
def source_target(core: Filter, source: Source, mime: bytes | None) -> None:
    accepted = source.accepted if mime is not None else None
    core.down.data += _target(source.cid, accepted)


_target = emit.event("wl_data_source", "target")


@event("wl_data_source", "send")
def source_send(core: Filter, _source: Source, _mime: bytes, fd: Fd) -> None:
    """Somebody outside asks for the private type: there is nothing in it."""
    core.machine.close(fd)


def _plain(name: str) -> None:
    write = emit.event("wl_data_source", name)

    @event("wl_data_source", name)
    def forward(core: Filter, source: Source, *args: int) -> None:
        core.down.data += write(source.cid, *args)


for _name in ("cancelled", "dnd_drop_performed", "dnd_finished", "action"):
    _plain(_name)
