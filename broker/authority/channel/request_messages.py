"""Requests as messages between the authority and its clients."""

from __future__ import annotations

from broker.authority.permit import Request
from broker.core.errors import PeerError
from broker.core.lease import Lease
from broker.ipc import authority as m
from policy.records.device import DeviceFacts, take_interface

_FIELDS = frozenset(m.AskedRequest.__struct_fields__) - {"lease", "device"}


def asked_of(request: Request) -> m.AskedRequest:
    """Return a request in its wire form."""
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
        **{name: getattr(request, name) for name in _FIELDS},
    )


def request_of(asked: m.AskedRequest, lease: Lease) -> Request:
    """Return the request that a message describes.  Raises PeerError."""
    return Request(
        lease=lease,
        device=None if asked.device is None else _device(asked.device),
        **{name: getattr(asked, name) for name in _FIELDS},
    )


def _device(asked: m.AskedDevice) -> DeviceFacts:
    taken = (take_interface(text) for text in asked.interfaces)
    interfaces = tuple(one for one in taken if one is not None)
    if len(interfaces) < len(asked.interfaces):
        raise PeerError("a device has an interface that is not one")
    return DeviceFacts(
        id=asked.id,
        serial=asked.serial,
        port=asked.port,
        hash=asked.hash,
        interfaces=interfaces,
    )
