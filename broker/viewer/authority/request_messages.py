"""Requests as the authority's client sends them."""

from __future__ import annotations

from broker.authority.channel.request_messages import REQUEST_FIELDS
from broker.authority.permit import Request
from broker.ipc import authority as m


def asked_of(request: Request) -> m.AskedRequest:
    """Convert a permit request to the message for the authority."""
    device = request.device
    return m.AskedRequest(
        lease=request.lease.id,
        device=None
        if device is None
        else m.AskedDevice(
            id=device.id,
            serial=device.serial,
            port=device.port,
            hash=device.hash,
            interfaces=[str(one) for one in device.interfaces],
        ),
        **{name: getattr(request, name) for name in REQUEST_FIELDS},
    )
