"""Devices of a seat: requested at the compositor once the seat has the capability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland import canonical
from broker.jail.wayland.protocol import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.jail.wayland.input_model import Seat
    from broker.jail.wayland.protocol.objects import ProtocolObject
    from broker.jail.wayland.state import ClientState


def capabilities(core: ClientState, seat: Seat, bits: int) -> None:
    """Tell a client what its seat has, and request the devices that waited for it."""
    seat.capabilities = bits
    core.down.data += _capabilities(seat.cid, bits)
    waiting, seat.waiting = seat.waiting, []
    for device, request, send in waiting:
        if not device.dead:
            request_device(core, seat, device, request, send)


_capabilities = emit.event("wl_seat", "capabilities")


def request_device(
    core: ClientState,
    seat: Seat,
    device: ProtocolObject,
    request: canonical.Request,
    send: Callable[[], None],
) -> None:
    """Request a device of a seat now, or once the seat has the capability.

    mutter 43 ends by a keyboard of a seat that never had one, and wlroots ends the
    program's connection.
    """
    device.inert = True
    # guard: no device of a seat without the capability
    if not seat.inert and _has(core, seat, canonical.DEVICES[request]):
        device.inert = False
        send()
    elif not seat.inert:
        # guard: devices that wait are bounded as objects
        seat.waiting = [each for each in seat.waiting if not each[0].dead]
        seat.waiting.append((device, request, send))


def _has(core: ClientState, seat: Seat, capability: int) -> bool:
    """Return whether a seat has one of these capabilities, by the compositor's last event."""
    bits, host_seat = seat.capabilities, core.hands.of(seat)
    if bits is None and host_seat is not None:
        bits = host_seat.capabilities
    return bool((bits or 0) & capability)
