"""Drags from elsewhere: hidden from the client until dropped and allowed.

While one is over a window its client gets no events: no offer, no enter, no place.
If the broker reports that a rule could allow it, it is accepted at the compositor in
the client's stead, so that the user can drop it.  After the drop the broker decides;
allowed content is given as a separate drop: offer, enter, and the drop itself as soon
as the client accepts, at the place where the user let it go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.handlers.selection import (
    DataDevice,
    HostOffer,
    SelectionOffer,
    data_offer,
    offer_mime,
    source_actions,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.sandbox import DRAG_MARK, LOCAL_DRAG_MARK

if TYPE_CHECKING:
    from broker.jail.wayland.model import Surface
    from broker.jail.wayland.ports import Selection
    from broker.jail.wayland.protocol.wire import Fd
    from broker.jail.wayland.state import ClientState

COPY = 1
"""wl_data_device_manager.dnd_action: what crosses is a copy, never a move."""
ACTIONS = 3
"""Version of wl_data_device_manager that has actions, and says how a drag ended."""


class Over:
    """One drag from elsewhere over one surface, until it is over in all ways."""

    def __init__(
        self, core: ClientState, device: DataDevice, surface: Surface, host: HostOffer
    ) -> None:
        self.core, self.device, self.surface, self.host = core, device, surface, host
        self.mark = next((m for m in host.mimes if m.startswith(DRAG_MARK)), b"")
        """The mark of another sandbox's drag; empty for the user's own programs'."""
        self.serial = self.x = self.y = 0
        self.accepted = False
        """Whether it may be dropped here."""
        self.dropped = False
        self.offer: SelectionOffer | None = None
        """The offer that the client received for it, if any."""
        self._likes, self._actions, self._told = False, 0, False

    @property
    def readable(self) -> bool:
        """Return whether the compositor would still hand over its content."""
        return not self.host.dead and self.core in self.core.sandbox.filters

    def read(self, mime: bytes, fd: Fd) -> bool:
        """Request the drag's content into ``fd``; return whether ``fd`` was taken."""
        if not self.readable or mime not in self.host.mimes:
            return False
        self.core.up.add(_receive(self.host.sid, mime), [fd])
        self.core.wake()
        return True

    def like(self, *, likes: bool | None = None, actions: int | None = None) -> None:
        """Record that the client accepts the drag, or its actions.

        Finish when it does.
        """
        self._likes = self._likes if likes is None else likes
        self._actions = self._actions if actions is None else actions
        old = self.device.version < ACTIONS
        good = self._likes and (old or self._actions & COPY)
        # guard: a device that was released
        # guard: a withdrawn drag is not dropped
        gone = self.offer is None or self.device.dead
        if good and not self._told and not gone:
            self._told = True
            self.core.down.data += _drop(self.device.cid)

    @property
    def told(self) -> bool:
        """Return whether the client has received the drop."""
        return self._told


# -- while the compositor drags -----------------------------------------------------------


def enter(
    core: ClientState,
    device: DataDevice,
    host: HostOffer,
    serial: int,
    at: tuple[int, int],
) -> None:
    """Handle a drag from outside the sandbox that enters a window."""
    hand = core.sandbox.hand
    if hand is None or device.over is None:
        return
    over = Over(core, device, device.over, host)
    # guard: a drag without a source is its client's alone
    if over.mark.startswith(LOCAL_DRAG_MARK):
        return
    device.foreign = over
    over.serial, (over.x, over.y) = serial, at
    hand.drags.over(over)


def accept(over: Over) -> None:
    """Accept a drag at the compositor, so that the user can drop it here."""
    if over.device.foreign is not over or over.accepted or over.host.dead:
        return
    if over.core.data_version < ACTIONS:
        return
    over.accepted = True
    mime = over.mark or next(iter(over.host.mimes), b"")
    up = over.core.up
    up.data += _accept(over.host.sid, over.serial, mime)
    up.data += _set_actions(over.host.sid, COPY, COPY)
    over.core.wake()


def leave(device: DataDevice) -> None:
    """Handle the drag's end on this device: it went elsewhere, or it was dropped."""
    over = device.foreign
    if over is not None and not over.dropped:
        device.foreign = None


def drop(core: ClientState, device: DataDevice) -> None:
    """Handle a drop of the drag on this device."""
    over, hand = device.foreign, core.sandbox.hand
    if over is None or hand is None or not over.accepted or over.dropped:
        return
    over.dropped = True
    device.untold = None  # it ends with ``end``, not when the pointer leaves
    hand.drags.dropped(over)


def end(over: Over, *, finished: bool) -> None:
    """End the use of the compositor's offer; ``finished``: the drop succeeded."""
    if not over.host.dead and over.core in over.core.sandbox.filters:
        if finished and over.dropped:
            over.core.up.data += _finish(over.host.sid)
        if over.device.untold is not over.host:
            over.core.end_own(over.host)
        over.core.wake()


def forget(device: DataDevice) -> None:
    """End the last drag's transfer, as another drag comes."""
    over, device.foreign = device.foreign, None
    if over is not None and over.offer is not None:
        withdraw(over)
    elif over is not None and over.dropped:
        end(over, finished=False)


# -- allowed content ----------------------------------------------------------------------


def give(over: Over, content: Selection) -> bool:
    """Drop content on the client as an offer of ours.

    Return whether that is possible.
    """
    core, device, top = over.core, over.device, over.surface
    alive = core in core.sandbox.filters and not (core.crowded or core.fault)
    if not alive or device.dead or top.dead or device.told:
        return False
    if device.foreign is not over:
        return False
    try:
        offer = core.make_server_side("wl_data_offer", device.version)
    except ProtocolFault as fault:
        # The caller serves the whole sandbox; the mistake is this client's.
        core.fail(fault)
        core.wake()
        return False
    assert isinstance(offer, SelectionOffer)
    offer.source, offer.over, over.offer = content, over, offer
    down = core.down
    down.data += data_offer(device.cid, offer.cid)
    for mime in content.mimes:
        down.data += offer_mime(offer.cid, mime)
    if device.version >= ACTIONS:
        down.data += source_actions(offer.cid, COPY)
    x, y = over.x + top.cx * 256, over.y + top.cy * 256
    core.serials.note(over.serial)
    down.data += _enter(device.cid, over.serial, top.cid, x, y, offer.cid)
    down.data += _motion(device.cid, 0, x, y)
    core.wake()
    return True


def accepted(over: Over, mime: bytes | None) -> None:
    """The client says which type it would take."""
    offer = over.offer
    if offer is not None and offer.source is not None:
        over.like(likes=mime is not None and mime in offer.source.mimes)


def chosen(over: Over, actions: int) -> None:
    """The client has set the actions that it supports."""
    if over.offer is not None and not over.offer.dead:
        over.core.down.data += _action(over.offer.cid, actions & COPY)
    over.like(actions=actions)


def taken(offer: SelectionOffer) -> None:
    """Release the offer's content after the client has read all that it wants."""
    content, offer.source = offer.source, None
    over = offer.over
    if over is not None and over.device.foreign is over:
        over.device.foreign = None
    if content is not None:
        content.cancel()


def withdraw(over: Over) -> None:
    """End the client's offer: its content is no longer available."""
    offer, over.offer = over.offer, None
    if offer is None:
        return
    if not over.told and not over.device.dead and offer.source is not None:
        over.core.down.data += _leave(over.device.cid)
        over.core.wake()
    taken(offer)


_receive = emit.request("wl_data_offer", "receive")
_accept = emit.request("wl_data_offer", "accept")
_set_actions = emit.request("wl_data_offer", "set_actions")
_finish = emit.request("wl_data_offer", "finish")
_enter = emit.event("wl_data_device", "enter")
_motion = emit.event("wl_data_device", "motion")
_leave = emit.event("wl_data_device", "leave")
_drop = emit.event("wl_data_device", "drop")
_action = emit.event("wl_data_offer", "action")
