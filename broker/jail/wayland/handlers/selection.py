"""Clipboard, primary selection and drags: virtual, one set for each sandbox.

Selections are answered here and never reach the compositor; the compositor's
own are swallowed.  A drag needs the compositor (it owns the pointer), so it
runs there with a source that offers one private type: other applications can
take nothing from it, and filters of the same sandbox put the real types back.
A descriptor goes straight from the application that pastes to the application that
copied, both of the same sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import LOCAL, Classes, Handlers, Rules
from broker.jail.wayland.protocol.ids import ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.foreign_drags import Over
    from broker.jail.wayland.ports import Selection
    from broker.jail.wayland.scene.frame import Frame
    from broker.jail.wayland.state import ClientState

DEVICE_ROLE = 0
DEVICE_USED_SOURCE = 1
_MIME_BYTES = 50
"""Approximate memory of an offered type beside its text."""
# data-control is not used at all. "Only where the compositor offers it and policy says
# so" allows it. Everything works without, and a way for it in the broker would be one
# more process that can read the user's clipboard at any time.
MANAGER = "wl_data_device_manager"
_PRIMARY = "zwp_primary_selection"


class DataSource(ProtocolObject):
    """A wl_data_source or primary source.  ``sid`` only while it is dragged."""

    __slots__ = (
        *("action", "actions", "core", "drag", "mimes", "takers", "told_action"),
        *("told_target", "used"),
    )

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.mimes: list[bytes] = []
        self.actions: int | None = None
        self.core: ClientState | None = None
        self.used = False
        self.drag: bytes | None = None
        self.action = 0
        """The compositor's last word; its client may not be told yet."""
        self.told_action = 0
        self.told_target: bytes | None = None
        """The action and the type that were last reported to its client."""
        self.takers: dict[SelectionOffer, bytes] = {}
        """The type that each client of the sandbox under the drag would take.  The
        words of several come in no order: one may be late to say that it went on."""

    @property
    def accepted(self) -> bytes | None:
        """The type of its drag that a client of its sandbox accepts, if any."""
        return next(reversed(self.takers.values()), None)

    def forget(self) -> None:
        """End the source; offers that still refer to it then hold little memory."""
        self.dead = True
        self.mimes = []
        self.takers = {}
        self.core = None

    def cancel(self) -> None:
        """Notify the source's client that it is no longer the selection."""
        if not self.dead and self.core is not None:
            write = (
                _cancelled if self.interface == "wl_data_source" else _primary_cancelled
            )
            self.core.down.data += write(self.cid)
            self.core.wake()

    def send(self, mime: bytes, fd: Fd) -> bool:
        """Ask the source's client to write data to ``fd``.

        Return False if it cannot.
        """
        if self.dead or self.core is None or mime not in self.mimes:
            return False
        # guard: others do not fill a queue
        if self.core.crowded:
            return False
        write = _send if self.interface == "wl_data_source" else _primary_send
        self.core.down.add(write(self.cid, mime), [fd])
        self.core.wake()
        return True


class SelectionOffer(ProtocolObject):
    """An offer that we made.  ``sid`` is the compositor's during a drag.

    ``over``: it is of a drag from elsewhere, which was let in after the drop.
    """

    __slots__ = ("left", "over", "source", "upstream")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.source: Selection | None = None
        self.upstream: HostOffer | None = None
        self.over: Over | None = None
        self.left = False
        """The drag is not above its client any more."""


class HostOffer(ProtocolObject):
    """An offer of the compositor's, never shown to the client."""

    __slots__ = ("mimes", "offer")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.mimes: list[bytes] = []
        self.offer: SelectionOffer | None = None


class DataDevice(ProtocolObject):
    """A data device or primary device; ``told`` while a drag is over the client."""

    __slots__ = (
        "dropped",
        "foreign",
        "frame",
        "kind",
        "offer",
        "over",
        "seat",
        "told",
        "untold",
        "waits",
    )

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.kind = "clipboard"
        self.seat: ProtocolObject | None = None
        self.over: Surface | None = None
        self.frame: Frame | None = None
        """That the drag is over, where the compositor means the whole window."""
        self.waits: tuple[int, ProtocolObject | None] | None = None
        """Serial and offer of a drag over the frame's strips, not the content."""
        self.told = False
        self.untold: HostOffer | None = None
        self.foreign: Over | None = None
        self.offer: SelectionOffer | None = None
        """The offer of the sandbox's own drag that is over the client."""
        self.dropped = False

    def go_on(self) -> None:
        """Forget what the drag's target accepted, as the drag has left it.

        Its later requests about the drag have no effect: the types and actions that it
        accepted do not apply to the window under the pointer.
        """
        offer = self.offer
        if offer is None or self.dropped:
            return
        offer.left = True
        if isinstance(offer.source, DataSource):
            # guard: a window speaks for itself
            offer.source.takers.pop(offer, None)


_cancelled = emit.event("wl_data_source", "cancelled")
_send = emit.event("wl_data_source", "send")
_primary_cancelled = emit.event("zwp_primary_selection_source_v1", "cancelled")
_primary_send = emit.event("zwp_primary_selection_source_v1", "send")


# -- managers and sources ---------------------------------------------------------------


def _new_source(
    core: ClientState, manager: ProtocolObject, new_id: int, interface: str
) -> None:
    source = core.make(new_id, interface, manager.version, server=False)
    assert isinstance(source, DataSource)
    source.core = core


def create_data_source(core: ClientState, manager: ProtocolObject, new_id: int) -> None:
    _new_source(core, manager, new_id, "wl_data_source")


def create_primary_source(
    core: ClientState, manager: ProtocolObject, new_id: int
) -> None:
    _new_source(core, manager, new_id, "zwp_primary_selection_source_v1")


# Our data device only while the client has none. The user's own selection is announced
# on data devices, by mutter on the newest of a client's only. With ours beside the
# client's, wlroots gives each its own offer of a drag, and destroying either ends the
# drag. So ours goes when the client makes one, and comes back when it has none left.
def get_data_device(
    core: ClientState, manager: ProtocolObject, new_id: int, seat: ProtocolObject
) -> None:
    """Create a data device; the compositor's only where it has them."""
    host = core.data_manager
    # guard: no data device of an inert seat
    there = bool(host) and not seat.inert
    device = core.make(new_id, "wl_data_device", manager.version, server=there)
    assert isinstance(device, DataDevice)
    device.seat = seat
    core.devices.append(device)
    if there:
        core.up.data += _get_data_device(host, device.sid, seat.sid)
    core.hands.balance()
    if core.focused:
        tell(core, device)


_get_data_device = emit.request(MANAGER, "get_data_device")


def get_primary_device(
    core: ClientState, manager: ProtocolObject, new_id: int, _seat: ProtocolObject
) -> None:
    """Create a primary selection device, and offer what there is."""
    device = core.make(new_id, f"{_PRIMARY}_device_v1", manager.version, server=False)
    assert isinstance(device, DataDevice)
    device.kind = "primary"
    core.devices.append(device)
    if core.focused:
        tell(core, device)


def source_offer(core: ClientState, source: DataSource, mime: bytes) -> None:
    """Add a type to a source, within the limits."""
    # guard: types bounded
    # guard: number of a client's types
    if (
        len(source.mimes) >= limits.WAYLAND_MIMES
        or len(mime) > limits.WAYLAND_MIME_BYTES
    ):
        raise core.too_much("a selection has too many or too long MIME types")
    core.usage.take("kept_bytes", len(mime) + _MIME_BYTES)
    source.mimes.append(mime)


def source_set_actions(_core: ClientState, source: DataSource, actions: int) -> None:
    if actions & ~7 or source.used:
        raise ProtocolFault(
            source.cid, 0 if actions & ~7 else 1, "invalid drag actions"
        )
    source.actions = actions


def destroy_source(core: ClientState, source: DataSource) -> None:
    """Destroy a data source here and, while it is dragged, at the compositor."""
    kept = sum(len(mime) + _MIME_BYTES for mime in source.mimes)
    core.usage.give("kept_bytes", kept)
    if source.sid:
        core.destroy(source)
    else:
        core.drop_local(source)
    core.sandbox.forget(source)
    source.forget()


# -- selections ------------------------------------------------------------------------------


# A window without the keyboard makes no selection. A client keeps the serials that it
# was given, and compositors take an old one. So a window in the background could put
# its own text in the place of what the user has just copied in another window of the
# sandbox, before they press the chord. If the seat has a keyboard, only the
# connection that has it may set the selection; others hear `cancelled` at once.
def set_selection(
    core: ClientState, device: DataDevice, source: DataSource | None, serial: int
) -> None:
    """Set the sandbox's selection; cancel the source if the input is not current.

    So without the keyboard focus, too.
    """
    if source is not None:
        if source.used and core.sandbox.selections[device.kind] is not source:
            # Since version 3 of the protocol an error; older ones cancel.
            raise ProtocolFault(
                device.cid, DEVICE_USED_SOURCE, "the source was already used"
            )
        source.used = True
    # guard: copies with a serial since the focus came
    # guard: selections need the focus
    # guard: serials of a selection
    if not core.serials.current(serial) or not _may_select(core):
        if source is not None:
            source.cancel()
        return
    core.sandbox.select(device.kind, source)


def _may_select(core: ClientState) -> bool:
    """Return whether its client has the keyboard, where a keyboard reports that.

    Else a window in the background could replace the user's copy.
    """
    return bool(core.focused) or not core.hands.watching


def tell(core: ClientState, device: DataDevice) -> None:
    """Offer the sandbox's present selection on one data device."""
    source = core.sandbox.selections[device.kind]
    primary = device.kind == "primary"
    interface = "zwp_primary_selection_offer_v1" if primary else "wl_data_offer"
    if source is None:
        core.down.data += (_primary_selection if primary else _selection)(device.cid, 0)
        return
    offer = core.make_server_side(interface, device.version)
    assert isinstance(offer, SelectionOffer)
    offer.source = source
    out = core.down.data
    out += (_primary_data_offer if primary else data_offer)(device.cid, offer.cid)
    for mime in source.mimes:
        out += (_primary_offer if primary else offer_mime)(offer.cid, mime)
    out += (_primary_selection if primary else _selection)(device.cid, offer.cid)


data_offer = emit.event("wl_data_device", "data_offer")
offer_mime = emit.event("wl_data_offer", "offer")
_selection = emit.event("wl_data_device", "selection")
_primary_data_offer = emit.event("zwp_primary_selection_device_v1", "data_offer")
_primary_offer = emit.event("zwp_primary_selection_offer_v1", "offer")
_primary_selection = emit.event("zwp_primary_selection_device_v1", "selection")


def receive(core: ClientState, offer: SelectionOffer, mime: bytes, fd: Fd) -> None:
    source = offer.source
    # guard: only pipes are written into
    if source is None or not core.machine.admit_pipe(fd) or not source.send(mime, fd):
        core.machine.close(fd)


def release_device(core: ClientState, device: DataDevice) -> None:
    """Release a data device; a drag that waits goes on without it."""
    # guard: a released device takes nothing
    device.go_on()
    core.devices.remove(device)
    if device.sid:
        core.destroy(device)
    else:
        core.drop_local(device)
    core.hands.balance()


# -- the compositor's side of a data device: host offers, swallowed -------------------------------


def host_offer(core: ClientState, _device: DataDevice, new_id: int) -> None:
    core.adopt(new_id, HostOffer("wl_data_offer", 3), HOST_OFFER_EVENTS)


def _host_mime(_core: ClientState, offer: HostOffer, mime: bytes) -> None:
    # A longer one is not a type for us either (``clipboard.types``).
    short = len(mime) <= limits.WAYLAND_MIME_BYTES
    if short and len(offer.mimes) < limits.WAYLAND_MIMES:
        offer.mimes.append(mime)


def _host_source_actions(core: ClientState, offer: HostOffer, actions: int) -> None:
    if offer.offer is not None and not offer.offer.dead:
        core.down.data += source_actions(offer.offer.cid, actions)


def _host_action(core: ClientState, offer: HostOffer, action: int) -> None:
    if offer.offer is not None and not offer.offer.dead:
        core.down.data += _offer_action(offer.offer.cid, action)


source_actions = emit.event("wl_data_offer", "source_actions")
_offer_action = emit.event("wl_data_offer", "action")
HOST_OFFER_EVENTS: Handlers = {
    "offer": _host_mime,
    "source_actions": _host_source_actions,
    "action": _host_action,
}


def host_selection(
    core: ClientState, _device: DataDevice, offer: ProtocolObject | None
) -> None:
    """The host's clipboard: not for the sandbox."""
    # guard: the filter does not report the user's selection
    core.hands.selected(offer)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_data_device", "set_selection"): set_selection,
    ("wl_data_device", "release"): release_device,
    ("wl_data_device_manager", "create_data_source"): create_data_source,
    ("wl_data_device_manager", "get_data_device"): get_data_device,
    ("wl_data_offer", "receive"): receive,
    ("wl_data_source", "offer"): source_offer,
    ("wl_data_source", "destroy"): destroy_source,
    ("wl_data_source", "set_actions"): source_set_actions,
    ("zwp_primary_selection_device_manager_v1", "create_source"): create_primary_source,
    ("zwp_primary_selection_device_manager_v1", "get_device"): get_primary_device,
    ("zwp_primary_selection_device_manager_v1", "destroy"): ObjectTable.drop_local,
    ("zwp_primary_selection_device_v1", "set_selection"): set_selection,
    ("zwp_primary_selection_device_v1", "destroy"): release_device,
    ("zwp_primary_selection_offer_v1", "receive"): receive,
    ("zwp_primary_selection_offer_v1", "destroy"): ObjectTable.drop_local,
    ("zwp_primary_selection_source_v1", "offer"): source_offer,
    ("zwp_primary_selection_source_v1", "destroy"): destroy_source,
}
EVENTS: Rules = {
    ("wl_data_device", "data_offer"): host_offer,
    ("wl_data_device", "selection"): host_selection,
    ("wl_data_offer", "offer"): LOCAL,
    ("wl_data_offer", "source_actions"): LOCAL,
    ("wl_data_offer", "action"): LOCAL,
    ("zwp_primary_selection_device_v1", "data_offer"): LOCAL,
    ("zwp_primary_selection_device_v1", "selection"): LOCAL,
    ("zwp_primary_selection_offer_v1", "offer"): LOCAL,
    ("zwp_primary_selection_source_v1", "send"): LOCAL,
    ("zwp_primary_selection_source_v1", "cancelled"): LOCAL,
}
CLASSES: Classes = {
    "wl_data_device": DataDevice,
    "wl_data_offer": SelectionOffer,
    "wl_data_source": DataSource,
    "zwp_primary_selection_device_v1": DataDevice,
    "zwp_primary_selection_offer_v1": SelectionOffer,
    "zwp_primary_selection_source_v1": DataSource,
}
